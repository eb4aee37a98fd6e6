"""Metrics of heatmaps are stored one by one: none can come out with values of another day, or without some."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.data.backgrounds import Noise
from gradsam_exp.data.shapes import SHAPES, Shapes
from gradsam_exp.engine.experiment import Evaluation, Experiment
from gradsam_exp.engine.pipeline import Pipeline
from gradsam_exp.engine.preparation import Explained, Preparation
from gradsam_exp.engine.store import Store
from gradsam_exp.errors import InputError
from gradsam_exp.explainers.gradient import GradCAM
from gradsam_exp.metrics.base import ExampleMetric
from gradsam_exp.metrics.faithfulness import DeletionAUC
from gradsam_exp.metrics.heatmaps import PointingGame, Sparsity
from gradsam_exp.metrics.masks import MeanMaskIoU
from gradsam_exp.prompts.foreground import Foreground
from gradsam_exp.refiners.base import Unrefined
from gradsam_exp.segmenters.sam import SamSegmenter
from gradsam_exp.selectors.score import PredictedIoU
from gradsam_exp.types import Heatmaps


@pytest.fixture
def evaluate(
    tmp_path: Path, classifier: ImageClassifier, segmenter: SamSegmenter, monkeypatch: pytest.MonkeyPatch
):
    """Evaluates nine images, in chunks of four, with the metrics that are given."""
    monkeypatch.setattr("gradsam_exp.engine.preparation.CHUNK", 4)
    explained = Explained(SHAPES, lambda: (classifier, GradCAM(classifier, ["layer2.-1"])))

    def call(*metrics: ExampleMetric) -> Evaluation:
        preparation = Preparation(explained, Unrefined(), segmenter, store=Store(tmp_path), metrics=metrics)
        pipeline = Pipeline(Foreground(), segmenter, PredictedIoU())
        return Experiment(preparation, pipeline).run(Shapes("test", Noise("test"), length=9))

    return call


def stored(folder: Path) -> int:
    return len(list((folder / "quality").glob("*.safetensors")))


def test_a_metric_that_is_added_has_a_value_of_every_image(evaluate, tmp_path: Path):
    first = evaluate(MeanMaskIoU(), Sparsity())
    assert stored(tmp_path) == 3, "one for each chunk; the IoU depends on the prompts and is not stored"
    both = evaluate(MeanMaskIoU(), Sparsity(), PointingGame())
    assert stored(tmp_path) == 3 + 3
    assert both.per_image[["sparsity", "pointing_game"]].notna().all(axis=None)
    assert both.per_image["sparsity"].tolist() == first.per_image["sparsity"].tolist()
    assert [len(metric.per_example()) for metric in both.metrics] == [9, 9, 9]
    for metric in both.metrics:
        assert float(metric.compute()) == pytest.approx(both.per_image[metric.column].mean())


def test_what_was_measured_is_not_measured_again(evaluate, monkeypatch: pytest.MonkeyPatch):
    first = evaluate(Sparsity())
    always_seven = lambda self, heatmaps, counted=None: torch.full((len(heatmaps),), 7.0)  # noqa: E731
    monkeypatch.setattr(Sparsity, "measure", always_seven)
    assert evaluate(Sparsity()).per_image.equals(first.per_image)
    monkeypatch.setattr("gradsam_exp.engine.stages.base.source_digest", lambda *modules: "edited")
    assert set(evaluate(Sparsity()).per_image["sparsity"]) == {7.0}


def test_another_parameter_is_another_metric(evaluate):
    near, far = evaluate(PointingGame()), evaluate(PointingGame(tolerance=200.0))
    assert set(far.per_image["pointing_game"]) == {1.0}
    assert near.per_image["pointing_game"].mean() < 1


def test_the_classifier_is_asked_for_metrics_that_need_it(evaluate):
    found = evaluate(DeletionAUC(steps=2))
    assert found.per_image["deletion_auc"].between(0, 1).all()
    assert "faithfulness" in found.seconds
    assert "faithfulness" not in evaluate(Sparsity()).seconds


def test_a_metric_may_not_take_anothers_column(evaluate):
    class Taken(ExampleMetric):
        name, column, title, group, needs = "taken", "predicted_iou", "taken", "heatmaps", ("heatmaps",)

        def measure(self, heatmaps: Heatmaps) -> Tensor:
            return torch.zeros(len(heatmaps))

    with pytest.raises(InputError, match=r"metrics\.taken: per_image\.parquet has a column predicted_iou already"):
        evaluate(Taken())
