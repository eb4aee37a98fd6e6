"""What is no number ends at the boundary where it is met: a defined answer or one line, and never a result."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from gradsam_exp.app.composing import compose
from gradsam_exp.config import conf_folder
from gradsam_exp.data.backgrounds import Mixed
from gradsam_exp.data.shapes import SHAPES, Shapes
from gradsam_exp.engine.pipeline import Pipeline, PipelineResult
from gradsam_exp.engine.preparation import Preparation
from gradsam_exp.engine.stages.heatmaps import Explained
from gradsam_exp.engine.store import Store
from gradsam_exp.errors import InputError
from gradsam_exp.explainers.base import scale_to_unit
from gradsam_exp.explainers.gradient import GradCAM
from gradsam_exp.metrics.faithfulness import impute
from gradsam_exp.prompts.base import STRATEGIES
from gradsam_exp.prompts.foreground import Foreground
from gradsam_exp.prompts.regions import GridMatch
from gradsam_exp.refiners.base import Refiner, Unrefined
from gradsam_exp.refiners.edges import Guided
from gradsam_exp.segmenters.base import Embeddings
from gradsam_exp.segmenters.sam import SamSegmenter
from gradsam_exp.selectors.base import SELECTORS
from gradsam_exp.selectors.score import PredictedIoU
from gradsam_exp.types import Heatmaps, PromptContext

NAMES = {
    group: sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))
    for group in ("pipeline", "selector")
}
CHEAP = [name for name in NAMES["pipeline"] if "everything" not in name]  # those ask a thousand times
SIZES = [(12, 9), (1, 1), (1, 7)]


def maps(*, value: float = 0.0, size: tuple[int, int] = (12, 9)) -> Heatmaps:
    """One constant heatmap, not marked as empty."""
    return Heatmaps(torch.full((1, *size), value), torch.tensor([False]), torch.tensor([0]))


@cache
def encoded(segmenter: SamSegmenter, size: tuple[int, int]) -> tuple[torch.Tensor, Embeddings]:
    """A picture of this size, and its embedding."""
    image = torch.arange(3 * size[0] * size[1]).reshape(1, 3, *size).to(torch.uint8)
    return image, segmenter.encode(image)


def segmented(pipeline: Pipeline, heatmaps: Heatmaps) -> PipelineResult:
    height, width = heatmaps.values.shape[1:]
    image, embeddings = encoded(pipeline.segmenter, (height, width))
    truth = torch.ones(1, height, width, dtype=torch.bool) if pipeline.needs_truth else None
    again = maps(size=(height, width))
    ctx = PromptContext(image, heatmaps, masks=truth, explain=lambda *_: again)
    return pipeline(ctx, embeddings)


def assert_finite(result: PipelineResult) -> None:
    prompts, answers = result.prompts, result.segmentation
    numbers = [prompts.points, prompts.boxes, prompts.mask_logits, answers.logits, answers.predicted_iou]
    assert all(values.isfinite().all() for values in [*numbers, result.predicted_iou] if values is not None)


@pytest.mark.parametrize("name", CHEAP)
def test_a_heatmap_of_zeros_gives_a_finite_answer(segmenter: SamSegmenter, name: str):
    strategy = STRATEGIES.build(compose([f"pipeline={name}"]).pipeline)
    for size in SIZES:
        assert_finite(segmented(Pipeline(strategy, segmenter, PredictedIoU()), maps(size=size)))


@pytest.mark.parametrize("name", NAMES["selector"])
def test_each_selector_chooses_a_finite_answer_for_a_heatmap_of_zeros(segmenter: SamSegmenter, name: str):
    pipeline = Pipeline(Foreground(), segmenter, SELECTORS.build({"name": name}))
    assert_finite(segmented(pipeline, maps()))


def test_a_grid_has_a_point_in_a_picture_that_is_smaller_than_its_spacing():
    def points(size: tuple[int, int]) -> list[list[float]]:
        image = torch.zeros(1, 3, *size, dtype=torch.uint8)
        return GridMatch(spacing=4).propose(PromptContext(image, maps(value=1.0, size=size))).points[:, 0].tolist()

    assert points((1, 1)) == [[0, 0]]
    assert points((2, 7)) == [[2, 0], [6, 0]]
    assert points((3, 7)) == [[2, 2], [6, 2]], "from half the spacing on, where there is room"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_raw_map_that_is_not_finite_is_empty(value: float):
    raw = torch.rand(3, 4, 5)
    raw[1, 2, 3] = value
    scaled, empty = scale_to_unit(raw)
    assert empty.tolist() == [False, True, False]
    assert not scaled[1].any()
    assert scaled.isfinite().all()


class Broken(Refiner):
    """Gives the same value everywhere."""

    def __init__(self, value: float) -> None:
        self.value = value

    def refine(self, image: np.ndarray, heat: np.ndarray) -> np.ndarray:
        return np.full_like(heat, self.value)


def test_a_refiner_that_leaves_nothing_leaves_an_empty_heatmap_and_one_of_nan_is_refused():
    images, heat = torch.zeros(1, 3, 12, 9, dtype=torch.uint8), maps(value=1.0)
    assert Broken(-1.0)(images, heat).empty.tolist() == [True]
    assert Guided()(images, heat).empty.tolist() == [False]
    with pytest.raises(InputError, match="Broken gives heatmaps that are NaN or infinite"):
        Broken(math.nan)(images, heat)


@pytest.mark.parametrize("what", ["logits", "predicted_iou"])
def test_a_segmenter_that_gives_nan_is_refused(
    segmenter: SamSegmenter, monkeypatch: pytest.MonkeyPatch, what: str
):
    decode = SamSegmenter.decode

    def broken(self, embeddings, prompts):
        answer = decode(self, embeddings, prompts)
        return replace(answer, **{what: torch.full_like(getattr(answer, what), math.nan)})

    monkeypatch.setattr(SamSegmenter, "decode", broken)
    with pytest.raises(InputError, match="the segmenter gives masks that are NaN or infinite"):
        segmented(Pipeline(Foreground(), segmenter, PredictedIoU()), maps(value=1.0))


def spoil(stage: str, damage: str, root: Path) -> None:
    """Replace a stage's chunk by one of a right checksum."""
    (path,) = (root / stage).glob("*.safetensors")
    tensors, facts = Store(root).peek(f"{stage}/{path.stem}")
    path.unlink()
    if damage == "nan":
        spoilt = {n: torch.full_like(v, math.nan) if v.is_floating_point() else v for n, v in tensors.items()}
    else:
        spoilt = {"other": torch.ones(3)}
    Store(root).get(stage, path.stem, lambda: (spoilt, facts))


@pytest.mark.parametrize("damage", ["nan", "parts"])
@pytest.mark.parametrize("stage", ["images", "heatmaps", "embeddings"])
def test_what_lies_in_the_store_and_cannot_be_is_made_again(
    stage: str, damage: str, tmp_path: Path, classifier, segmenter: SamSegmenter, caplog: pytest.LogCaptureFixture
):
    data = Shapes("test", Mixed("test"), length=2)
    explained = Explained(SHAPES, lambda: (classifier, GradCAM(classifier, ["layer2.-1"])))

    def prepared():
        preparation = Preparation(explained, Unrefined(), segmenter, store=Store(tmp_path))
        (found,) = preparation(data)
        return found

    before = prepared()
    spoil(stage, damage, tmp_path)
    with caplog.at_level(logging.WARNING):
        after = prepared()
    assert caplog.text.count("is damaged and is made again") == (0 if (stage, damage) == ("images", "nan") else 1)
    assert torch.equal(after.batch.images, before.batch.images)
    assert torch.equal(after.heatmaps.values, before.heatmaps.values)
    assert torch.equal(after.embeddings.levels[0], before.embeddings.levels[0])


def test_a_picture_of_which_nothing_is_left_is_imputed_by_the_mean_colour():
    everything = torch.ones(2, 1, dtype=torch.bool)
    filled = impute(torch.ones(3, 2, 1), everything, noise=0.0, rng=np.random.default_rng(0))
    assert filled.tolist() == torch.zeros(3, 2, 1).tolist()
