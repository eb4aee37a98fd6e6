"""The class mIoU of merged masks, by hand and against torchmetrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from gradsam_exp.metrics.class_miou import ClassMeanIoU, merge_scores, merged
from gradsam_exp.runs.summary import Summary, summarize_counts, summarize_metrics
from gradsam_exp.types import Heatmaps

NAMES = ("cat", "dog")


def known(masks: Any, truth: Any, explained: list[int], labels: list[int], images: list[str]) -> dict[str, Any]:
    maps, empty = torch.rand(len(images), 1, 6), torch.zeros(len(images), dtype=torch.bool)
    return {
        "masks": torch.tensor(masks).bool()[:, None],
        "truth": torch.tensor(truth).bool()[:, None],
        "heatmaps": Heatmaps(maps, empty, torch.tensor(explained)),
        "labels": torch.tensor(labels),
        "scores": torch.tensor([0.5, 0.9, 0.1])[: len(images)].double(),
        "image_ids": images,
        "class_names": NAMES,
    }


TWO_IMAGES = known(
    [[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 0]],
    [[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]],
    [0, 1, 1],
    [0, 1, 0],
    ["a", "a", "b"],
)


def test_the_best_mask_is_on_top():
    masks = torch.tensor([[[1, 1, 1, 0]], [[0, 1, 1, 0]], [[0, 0, 1, 1]]]).bool()
    classes = torch.tensor([1, 2, 3])
    assert merged(masks, classes, torch.tensor([0.5, 0.9, 0.1])).tolist() == [[1, 2, 2, 3]]
    assert merged(masks, classes, torch.tensor([0.5, 0.5, 0.5])).tolist() == [[1, 1, 1, 3]]


def test_a_mask_is_scored_by_predicted_iou_and_mean_heat():
    maps = torch.tensor([[[1.0, 0.5, 0.0]], [[1.0, 1.0, 1.0]]])
    heatmaps = Heatmaps(maps, torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.long))
    masks = torch.tensor([[[1, 1, 0]], [[0, 0, 0]]]).bool()
    assert merge_scores(masks, heatmaps, torch.tensor([0.8, 0.9])).tolist() == pytest.approx([0.6, 0])
    one = torch.tensor([[[0, 1, 0]], [[0, 0, 1]]]).bool()
    assert merge_scores(one, heatmaps, torch.tensor([0.8, 0.9])).tolist() == pytest.approx([0.4, 0.9])
    unknown = torch.full((2,), torch.nan)
    assert merge_scores(masks, heatmaps, unknown).tolist() == pytest.approx([0.75, 0]), "by mean heat alone"


def test_class_miou_by_hand():
    """Image a is 1 1 2 2 0 0 for 1 1 2 2 2 0, image b 0 2 0 0 0 0 for 1 1 0 0 0 0.

    Background: 5 of 7 pixels, cat 2 of 4, dog 2 of 4.
    """
    metric = ClassMeanIoU()
    metric.add(TWO_IMAGES)
    found = summarize_metrics([metric], pd.DataFrame())["class_miou"]
    assert found.mean == pytest.approx((5 / 7 + 1 / 2 + 1 / 2) / 3)
    assert {name: part.mean for name, part in found.parts.items()} == pytest.approx(
        {"background": 5 / 7, "cat": 0.5, "dog": 0.5}
    )
    assert found.n == 2
    assert Summary.from_json("class_miou", found.as_json()) == found
    alone = [(5 / 7 + 1 / 2 + 1 / 2) / 3, (1 / 2 + 1 + 2 / 3) / 3, (4 / 5 + 0 + 0) / 3]
    assert found.ci95 == pytest.approx((min(alone), max(alone))), "both, twice image a, twice image b"


def test_what_does_not_count_and_has_no_class_is_in_no_cell():
    metric = ClassMeanIoU()
    counted = torch.ones(3, 1, 6, dtype=torch.bool)
    counted[0, 0, 4] = False  # for one of the image's examples
    metric.add({**TWO_IMAGES, "counted": counted, "labels": torch.tensor([0, 1, -1])})
    sums = pd.DataFrame(metric.rows).groupby("part")[list(metric.COUNTS)].sum()
    assert sums.T.to_dict("list") == {"background": [5, 5, 5], "cat": [2, 2, 2], "dog": [2, 2, 2]}


def test_class_miou_is_torchmetrics():
    rng = torch.Generator().manual_seed(0)
    metric, theirs = ClassMeanIoU(), MulticlassJaccardIndex(5, average="macro", ignore_index=255)
    each = MulticlassJaccardIndex(5, average="none", ignore_index=255)
    for image in range(7):
        predicted, true = (torch.randint(0, 4, (9, 11), generator=rng) for _ in range(2))
        ignored = torch.rand(9, 11, generator=rng) < 0.1
        classes = torch.tensor([1, 2, 3])
        maps = torch.zeros(3, 9, 11)
        metric.add(
            {
                "masks": predicted == classes[:, None, None],
                "truth": true == classes[:, None, None],
                "heatmaps": Heatmaps(maps, torch.zeros(3, dtype=torch.bool), classes - 1),
                "labels": classes - 1,
                "counted": (~ignored).expand(3, 9, 11),
                "scores": torch.ones(3),
                "image_ids": [str(image)] * 3,
                "class_names": ("k", "l", "m", "absent"),
            }
        )
        for one in (theirs, each):
            one.update(predicted[None], true.masked_fill(ignored, 255)[None])
    found = summarize_counts(metric, pd.DataFrame(metric.rows))
    assert found.mean == pytest.approx(float(theirs.compute()), abs=1e-6)
    names = ("background", "k", "l", "m")
    assert [found.parts[name].mean for name in names] == pytest.approx(each.compute()[:4].tolist(), abs=1e-6)


def test_without_true_masks_there_is_no_figure():
    metric = ClassMeanIoU()
    metric.add({**TWO_IMAGES, "truth": None})
    found = summarize_metrics([metric], pd.DataFrame())["class_miou"]
    assert found.n == 0
    assert np.isnan(found.mean)
