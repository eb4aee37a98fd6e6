"""The mean of the classes' accuracies, which a frequent class cannot hide the others in."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from gradsam_exp.metrics.classification import Accuracy, MacroAccuracy
from gradsam_exp.runs.summary import Summary, summarize_counts, summarize_metrics

NAMES = ("cat", "dog", "all", "never there")


def known(labels: list[int], predicted: list[int], images: list[str] | None = None) -> dict:
    return {
        "labels": torch.tensor(labels),
        "predicted": torch.tensor(predicted),
        "image_ids": [f"image {k}" for k in range(len(labels))] if images is None else images,
        "class_names": NAMES,
    }


def test_every_class_counts_alike():
    """45 cats, 3 dogs and 3 of a class called "all", and a classifier that says "cat" whatever it sees."""
    metric, overall = MacroAccuracy(), Accuracy()
    labels = [0] * 45 + [1] * 3 + [2] * 3
    metric.add(known(labels, [0] * 51))
    overall.update(torch.zeros(51, dtype=torch.long), torch.tensor(labels))
    found = summarize_metrics([metric], pd.DataFrame())["macro_accuracy"]
    assert float(overall.compute()) == pytest.approx(45 / 51)
    assert found.mean == pytest.approx(1 / 3), "the class without examples does not count"
    assert found.n == 51
    assert not found.parts
    assert Summary.from_json("macro_accuracy", found.as_json()) == found
    counts = pd.DataFrame(metric.rows).groupby("part")[["correct", "examples"]].sum()
    assert counts.T.to_dict("list") == {"all": [0, 3], "cat": [45, 45], "dog": [0, 3]}


def test_it_is_scikit_learns_balanced_accuracy():
    rng = np.random.default_rng(0)
    metric, labels, predicted = MacroAccuracy(), rng.integers(0, 3, 60), rng.integers(0, 4, 60)
    for start in range(0, 60, 7):
        rows = slice(start, start + 7)
        names = [f"image {k}" for k in range(60)][rows]
        metric.add(known(labels[rows].tolist(), predicted[rows].tolist(), names))
    with pytest.warns(UserWarning, match="not in y_true"):
        theirs = balanced_accuracy_score(labels, predicted)
    assert summarize_counts(metric, pd.DataFrame(metric.rows)).mean == pytest.approx(theirs)


def test_examples_of_one_image_and_one_class_are_added_and_those_without_a_class_left_out():
    metric = MacroAccuracy()
    metric.add(known([0, 0, 1, -1], [0, 1, 1, 1], ["a", "a", "a", "b"]))
    assert metric.rows == [
        {"image_id": "a", "part": "cat", "correct": 1, "examples": 2},
        {"image_id": "a", "part": "dog", "correct": 1, "examples": 1},
    ]


def test_without_labels_there_is_no_figure():
    metric = MacroAccuracy()
    metric.add(known([-1, -1], [0, 1]))
    found = summarize_metrics([metric], pd.DataFrame())["macro_accuracy"]
    assert found.n == 0
    assert np.isnan(found.mean)
