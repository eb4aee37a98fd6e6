"""What holds for every heatmap, mask and answer of a segmenter, tried on ones that are drawn at random."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import isnan
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gradsam_exp.app.composing import compose
from gradsam_exp.engine.pipeline import Pipeline, PipelineResult
from gradsam_exp.explainers.base import scale_to_unit
from gradsam_exp.metrics.base import METRICS, ExampleMetric, build_metrics
from gradsam_exp.prompts.base import STRATEGIES, PromptStrategy
from gradsam_exp.segmenters.base import Embeddings
from gradsam_exp.segmenters.sam import SamSegmenter
from gradsam_exp.selectors.base import SELECTORS, MaskSelector
from gradsam_exp.types import NO_POINT, Heatmaps, Masks, PromptContext, Prompts, Segmentation
from tests.faults.counts import only_soaking, soaked

TIMES = soaked(3, 150)
drawing = settings(
    max_examples=TIMES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)

SIZES = [(12, 9), (1, 1), (1, 7), (5, 1), (2, 3), (16, 16)]
LEVELS = st.sampled_from([-1.0, 0.0, 0.0, 0.1, 0.25, 0.5, 0.8, 1.0, 3.0])  # so that much is equal
RAW = st.one_of(LEVELS, st.floats(width=32), st.floats(0, 1, width=32))
SLOW = {"everything_merge", "everything_vote", "box_then_everything"}  # a thousand clicks each
PIPELINES = [
    pytest.param(name, marks=[pytest.mark.slow, only_soaking, pytest.mark.timeout(3600)] if name in SLOW else [])
    for name in STRATEGIES.names()
]


def heatmaps_of(raw: np.ndarray) -> Heatmaps:
    """As explainers make them of raw maps, with two classes that are equally likely."""
    values, empty = scale_to_unit(torch.from_numpy(raw))
    count = len(values)
    return Heatmaps(values, empty, torch.zeros(count, dtype=torch.long), torch.zeros(count, 2))


@st.composite
def scenes(draw: st.DrawFn, most: int = 2) -> tuple[Heatmaps, Masks]:
    """Heatmaps and masks of a few examples of one size; raw maps may be anything, NaN too."""
    count, size = draw(st.integers(1, most)), draw(st.sampled_from(SIZES))
    raw = draw(arrays(np.float32, (count, *size), elements=RAW, fill=LEVELS))
    masks = draw(arrays(bool, (count, *size)))
    return heatmaps_of(raw), torch.from_numpy(masks)


@cache
def encoded(segmenter: SamSegmenter, size: tuple[int, int]) -> tuple[torch.Tensor, Embeddings]:
    """A picture of this size, and its embedding."""
    values = np.random.default_rng(0).integers(0, 256, (1, 3, *size), dtype=np.uint8)
    image = torch.from_numpy(values)
    return image, segmenter.encode(image)


@cache
def strategy_named(name: str) -> PromptStrategy:
    return STRATEGIES.build(compose([f"pipeline={name}"]).pipeline)


class Whole:
    """A segmenter's frames whose grid is the image."""

    def to_low_res(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def to_original(self, logits: torch.Tensor) -> torch.Tensor:
        return logits > 0


def context(heatmaps: Heatmaps, truth: Masks) -> PromptContext:
    count, height, width = heatmaps.values.shape
    images = torch.zeros(count, 3, height, width, dtype=torch.uint8)
    return PromptContext(
        images, heatmaps, masks=truth, frames=Whole(), explain=lambda images, _: heatmaps[: len(images)]
    )


def segmented(
    segmenter: SamSegmenter, name: str, selector: MaskSelector, heatmaps: Heatmaps, truth: Masks
) -> PipelineResult:
    image, embeddings = encoded(segmenter, tuple(heatmaps.values.shape[1:]))
    rows = torch.zeros(len(heatmaps), dtype=torch.long)
    ctx = replace(context(heatmaps, truth), images=image[rows])
    return Pipeline(strategy_named(name), segmenter, selector)(ctx, replace(embeddings, image_of=rows))


def assert_sound(prompts: Prompts, size: tuple[int, int], examples: int) -> None:
    """Numbers, inside of the image, about its examples."""
    height, width = size
    points = prompts.points[prompts.labels != NO_POINT]
    assert ((points >= 0) & (points <= torch.tensor([width - 1.0, height - 1.0]))).all(), points
    if prompts.boxes is not None:
        assert (prompts.boxes >= -0.5).all(), prompts.boxes
        assert (prompts.boxes <= torch.tensor([width, height, width, height]) - 0.5).all(), prompts.boxes
        assert (prompts.boxes[:, :2] <= prompts.boxes[:, 2:]).all(), prompts.boxes
    if prompts.mask_logits is not None:
        assert prompts.mask_logits.isfinite().all()
    assert ((prompts.example_index >= 0) & (prompts.example_index < examples)).all()


@pytest.mark.parametrize("name", PIPELINES)
@drawing
@given(scene=scenes())
def test_each_strategy_asks_inside_of_the_image_and_gets_a_finite_answer(
    segmenter: SamSegmenter, name: str, scene: tuple[Heatmaps, Masks]
):
    heatmaps, truth = scene
    result = segmented(segmenter, name, SELECTORS.build({"name": "predicted_iou"}), heatmaps, truth)
    assert_sound(result.prompts, tuple(truth.shape[1:]), len(truth))
    assert result.masks.shape == truth.shape
    numbers = [result.predicted_iou, result.segmentation.logits, result.choice.predicted_iou, result.round_ious]
    assert all(values.isfinite().all() for values in numbers if values is not None)
    assert ((result.choice.query >= 0) & (result.choice.query < len(result.prompts))).all()


ALONE = [name for name in STRATEGIES.names() if not STRATEGIES.get(name).needs - {"truth"}]


@pytest.mark.parametrize("name", ALONE)
@drawing
@given(scene=scenes(most=3))
def test_what_is_asked_about_an_example_does_not_depend_on_the_others(name: str, scene: tuple[Heatmaps, Masks]):
    ctx, strategy = context(*scene), strategy_named(name)
    together = strategy.propose(ctx)
    for row in range(len(ctx)):
        alone = strategy.propose(ctx.of_examples(torch.tensor([row])))
        own = together[together.example_index == row]
        assert len(alone) == len(own)
        for prompts in (alone, own):  # of several examples the longest row decides how many columns there are
            assert (prompts.labels[:, 1:][prompts.labels[:, :-1] == NO_POINT] == NO_POINT).all()
        columns = slice(min(alone.labels.shape[1], own.labels.shape[1]))
        assert torch.equal(alone.labels[:, columns], own.labels[:, columns])
        given = alone.labels[:, columns] != NO_POINT
        assert torch.equal(alone.points[:, columns][given], own.points[:, columns][given])
        if alone.boxes is not None:
            assert torch.equal(alone.boxes, own.boxes)


@st.composite
def rankings(draw: st.DrawFn) -> torch.Tensor:
    """A heatmap of which no two pixels are equal, ``(height, width)`` in [0, 1]."""
    height, width = draw(st.integers(2, 9)), draw(st.integers(2, 9))
    order = draw(st.permutations(range(height * width)))
    return torch.tensor(order, dtype=torch.float32).view(height, width) / (height * width - 1)


Asked = tuple[list[tuple[float, float, int]], list[float]]


def asked(name: str, values: torch.Tensor, **knobs: Any) -> Asked:
    """The points, sorted, and the box that a strategy asks one image with."""
    heatmaps = Heatmaps(values[None], torch.tensor([False]), torch.tensor([0]))
    prompts = STRATEGIES.build({"name": name, **knobs}).propose(context(heatmaps, values[None] > 0.5))
    found = [
        (round(x, 3), round(y, 3), label)
        for points, labels in zip(prompts.points.tolist(), prompts.labels.tolist(), strict=True)
        for (x, y), label in zip(points, labels, strict=True)
        if label != NO_POINT
    ]
    return sorted(found), [] if prompts.boxes is None else [round(side, 3) for side in prompts.boxes[0].tolist()]


MIRRORED = {
    "argmax": {},
    "hottest_k": {},
    "fg": {},
    "box": {},
    "fgbg": {"placement": "argmin"},
    "center": {},
}


@pytest.mark.parametrize("name", MIRRORED)
@drawing
@given(values=rankings(), axis=st.sampled_from([0, 1]))
def test_a_mirrored_heatmap_gives_mirrored_prompts(name: str, values: torch.Tensor, axis: int):
    """Where no two pixels are equally hot; of equal ones, the first in scan order counts."""
    points, box = asked(name, values, **MIRRORED[name])
    turned, turned_box = asked(name, values.flip(axis), **MIRRORED[name])
    last = values.shape[axis] - 1
    if axis == 0:
        back = [(x, round(last - y, 3), label) for x, y, label in turned]
    else:
        back = [(round(last - x, 3), y, label) for x, y, label in turned]
    assert np.array(sorted(back)) == pytest.approx(np.array(points), abs=2e-3)
    if box:
        low, high = (1, 3) if axis == 0 else (0, 2)
        turned_box[low], turned_box[high] = last - turned_box[high], last - turned_box[low]
        assert turned_box == pytest.approx(box, abs=2e-3)


@pytest.mark.parametrize("name", ["argmax", "hottest_k", "fg", "box", "multi_peak"])
@drawing
@given(values=rankings(), across=st.integers(0, 6), down=st.integers(0, 6))
def test_a_shifted_heatmap_gives_shifted_prompts(name: str, values: torch.Tensor, across: int, down: int):
    """Far enough from the border that nothing is clipped; without heat, the first pixels are as hot as any."""
    assume(name != "hottest_k" or (values > 0).sum() >= strategy_named(name).k)
    height, width = values.shape
    canvas = [torch.zeros(height + 16, width + 16) for _ in range(2)]
    canvas[0][5 : 5 + height, 5 : 5 + width] = values
    canvas[1][5 + down : 5 + down + height, 5 + across : 5 + across + width] = values
    points, box = asked(name, canvas[0])
    moved, moved_box = asked(name, canvas[1])
    shifted = [(x + across, y + down, label) for x, y, label in points]
    assert np.array(moved) == pytest.approx(np.array(shifted), abs=2e-3)
    shift = [across, down, across, down]
    assert moved_box == pytest.approx([side + by for side, by in zip(box, shift, strict=False)], abs=2e-3)


@st.composite
def answers(draw: st.DrawFn, heatmaps: Heatmaps, grid: tuple[int, int]) -> Segmentation:
    """What a segmenter may answer to up to three queries of each example; some examples have none."""
    queries = sorted(draw(st.lists(st.integers(0, len(heatmaps) - 1), max_size=3 * len(heatmaps))))
    values = st.sampled_from([-9.0, -0.5, 0.0, 0.5, 9.0])
    logits = draw(arrays(np.float32, (len(queries), 4, *grid), elements=values))
    predicted = draw(arrays(np.float32, (len(queries), 4), elements=st.floats(0, 1, width=32)))
    return Segmentation(torch.from_numpy(logits), torch.from_numpy(predicted), torch.tensor(queries).long())


@pytest.mark.parametrize("name", SELECTORS.names())
@drawing
@given(data=st.data())
def test_each_selector_keeps_one_mask_of_every_example_that_was_asked_about(name: str, data: st.DataObject):
    heatmaps, truth = data.draw(scenes(most=3))
    answer = data.draw(answers(heatmaps, tuple(truth.shape[1:])))
    ctx, selector = context(heatmaps, truth), SELECTORS.build({"name": name})
    choice = selector(ctx, answer)
    assert choice.example_index.tolist() == answer.example_index.unique().tolist()
    assert torch.equal(answer.example_index[choice.query], choice.example_index)
    assert ((choice.candidate >= 0) & (choice.candidate < 4)).all()
    assert choice.predicted_iou.isfinite().all()
    for row, example in enumerate(choice.example_index.tolist()):  # alone, as together
        own = torch.nonzero(answer.example_index == example).flatten()
        part = replace(answer[own], example_index=torch.zeros_like(own))
        alone = selector(ctx.of_examples(torch.tensor([example])), part)
        assert (own[alone.query].item(), alone.candidate.item()) == (
            choice.query[row].item(),
            choice.candidate[row].item(),
        )


ON_MASKS = {"masks", "truth", "prompts", "heatmaps", "counted"}
RATED = [name for name in METRICS.names() if set(METRICS.get(name).needs) <= ON_MASKS and METRICS.get(name).column]
SIDES = {"box_iou"}  # which resizes, and then looks at whole pixels


@st.composite
def measured(draw: st.DrawFn) -> dict[str, Any]:
    """All that metrics of masks, points and heatmaps look at, of two or three examples."""
    heatmaps, truth = draw(scenes(most=3))
    count, height, width = truth.shape
    masks, counted = (torch.from_numpy(draw(arrays(bool, tuple(truth.shape)))) for _ in range(2))
    places = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1), st.sampled_from([1, 0, NO_POINT]))
    points = torch.tensor([draw(st.lists(places, min_size=3, max_size=3)) for _ in range(count)])
    prompts = Prompts(torch.arange(count), points[..., :2].float(), points[..., 2])
    known = {"masks": masks, "truth": truth, "heatmaps": heatmaps, "prompts": prompts}
    return {**known, "counted": draw(st.sampled_from([None, counted]))}


def values_of(metric: ExampleMetric, known: dict[str, Any]) -> list[float]:
    return metric.measure_known(known, len(known["truth"])).tolist()


def mirrored(known: dict[str, Any]) -> dict[str, Any]:
    """The same, seen in a mirror."""
    heatmaps, prompts = known["heatmaps"], known["prompts"]
    width = known["truth"].shape[2]
    points = torch.stack([width - 1 - prompts.points[..., 0], prompts.points[..., 1]], -1)
    turned = {name: None if known[name] is None else known[name].flip(2) for name in ("masks", "truth", "counted")}
    return {
        **turned,
        "heatmaps": replace(heatmaps, values=heatmaps.values.flip(2)),
        "prompts": replace(prompts, points=points),
    }


@pytest.mark.parametrize("name", RATED)
@drawing
@given(known=measured())
def test_each_metric_of_masks_points_and_heatmaps(name: str, known: dict[str, Any]):
    """A finite value or none, the same in a mirror and alone as among others."""
    (metric,) = build_metrics({name: True})
    found = values_of(metric, known)
    assert not np.isinf(found).any()
    if not metric.unit:
        assert all(-1e-9 <= value <= 1 + 1e-9 for value in found if not isnan(value)), found
    if name not in SIDES:
        assert values_of(metric, mirrored(known)) == pytest.approx(found, abs=1e-9, nan_ok=True)
    for row in range(len(found)):
        alone = {key: None if value is None else value[row : row + 1] for key, value in known.items()}
        alone["prompts"] = replace(alone["prompts"], example_index=torch.tensor([0]))
        assert values_of(metric, alone) == pytest.approx([found[row]], abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("name", sorted(set(RATED) - {"box_iou"}))  # heat there is part of the estimated boxes
@drawing
@given(known=measured(), drawn=st.data())
def test_what_does_not_count_changes_no_metric(name: str, known: dict[str, Any], drawn: st.DataObject):
    truth, heatmaps = known["truth"], known["heatmaps"]
    counted = torch.from_numpy(drawn.draw(arrays(bool, tuple(truth.shape))))
    (metric,) = build_metrics({name: True})
    otherwise = {
        "masks": known["masks"] ^ ~counted,
        "truth": truth ^ ~counted,
        "heatmaps": replace(heatmaps, values=torch.where(counted, heatmaps.values, 1 - heatmaps.values)),
    }
    given = {**known, "counted": counted}
    found = values_of(metric, given)
    assert values_of(metric, {**given, **otherwise}) == pytest.approx(found, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("name", ["miou", "dice", "boundary_iou", "mask_box_iou"])
@drawing
@given(known=measured())
def test_overlaps_are_symmetric_and_1_of_a_mask_with_itself(name: str, known: dict[str, Any]):
    """Where they have a value either way: an object without pixels has no box, a mask without pixels misses."""
    (metric,) = build_metrics({name: True})
    masks, truth = known["masks"], known["truth"]
    found, swapped = values_of(metric, known), values_of(metric, {**known, "masks": truth, "truth": masks})
    assert all(a == pytest.approx(b) or isnan(a) or isnan(b) for a, b in zip(found, swapped, strict=True))
    same = values_of(metric, {**known, "masks": truth})
    assert all(value == 1 or isnan(value) for value in same)


@drawing
@given(known=measured())
def test_no_threshold_gives_a_mask_that_is_better_than_the_best(known: dict[str, Any]):
    best, plain = (build_metrics({name: True})[0] for name in ("best_threshold_iou", "miou"))
    most = values_of(best, known)
    for threshold in (0.05, 0.3, 0.5, 1.0):
        cut = known["heatmaps"].values >= torch.tensor(threshold)
        found = values_of(plain, {**known, "masks": cut})
        pairs = zip(found, most, strict=True)
        assert all(one <= other + 1e-9 or isnan(one) or isnan(other) for one, other in pairs)
