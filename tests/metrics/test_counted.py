"""Pixels that do not count are in no metric, and what could not be a mask is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gradsam_exp.metrics.base import METRICS, ExampleMetric
from gradsam_exp.metrics.boundary_iou import BoundaryIoU, boundary
from gradsam_exp.metrics.dice import Dice
from gradsam_exp.metrics.faithfulness import AverageDrop, Coherency, CombinedROAD, DeletionAUC, InsertionAUC
from gradsam_exp.metrics.heatmaps import (
    BestThresholdIoU,
    EnergyInMask,
    PointingGame,
    PointingGameAny,
    RelevanceRankAccuracy,
    Sparsity,
)
from gradsam_exp.metrics.masks import MeanMaskIoU
from gradsam_exp.metrics.points import PointDistance, PointHitRate
from gradsam_exp.types import BACKGROUND, FOREGROUND, Heatmaps, Prompts


def row(*values: int) -> torch.Tensor:
    return torch.tensor([[values]]).bool()


def heat(*values: float) -> Heatmaps:
    none, target = torch.zeros(1, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
    return Heatmaps(torch.tensor([[values]], dtype=torch.float32), none, target)


def points(*xs: float, label: int = FOREGROUND) -> Prompts:
    where = torch.tensor([[(x, 0.0) for x in xs]])
    return Prompts(torch.tensor([0]), where, torch.full((1, len(xs)), label))


PREDICTED, TRUTH, COUNTED = row(1, 1, 1, 0, 0, 1), row(0, 1, 1, 1, 0, 0), row(1, 1, 1, 1, 1, 0)


@pytest.mark.parametrize(
    ("metric", "inputs", "all_pixels", "counted"),
    [
        (MeanMaskIoU(), (PREDICTED, TRUTH), 2 / 5, 2 / 4),
        (Dice(), (PREDICTED, TRUTH), 4 / 7, 4 / 6),
        (PointHitRate(FOREGROUND), (points(1, 5, 4), TRUTH), 1 / 3, 1 / 2),
        (PointHitRate(BACKGROUND), (points(1, 5, label=BACKGROUND), TRUTH), 1 / 2, 0),
        (PointDistance(), (points(1, 5), TRUTH), 2, 1),
        (PointingGame(), (heat(0, 0, 0.5, 0, 0, 1), TRUTH), 0, 1),
        (PointingGameAny(), (heat(0, 0, 0.5, 0, 0, 1), TRUTH), 0, 1),
        (EnergyInMask(), (heat(0, 0, 0.5, 0, 0, 1), TRUTH), 1 / 3, 1),
        (RelevanceRankAccuracy(), (heat(0.1, 0.4, 0.5, 0, 0.2, 1), TRUTH), 2 / 3, 2 / 3),
        (RelevanceRankAccuracy(), (heat(0, 0.4, 0.5, 0.2, 0.1, 1), TRUTH), 2 / 3, 1),
        (BestThresholdIoU(), (heat(0, 1, 1, 1, 0, 1), TRUTH), 3 / 4, 1),
        (Sparsity(), (heat(1, 1, 1, 1, 1, 0),), 1 / 6, 0),
    ],
)
def test_what_does_not_count_is_left_out(
    metric: ExampleMetric, inputs: tuple[Any, ...], all_pixels: float, counted: float
):
    for given, expected in (((), all_pixels), ((None,), all_pixels), ((COUNTED,), counted)):
        metric.reset()
        metric.update(*inputs, *given)
        assert float(metric.compute()) == pytest.approx(expected)


def test_every_built_in_metric_of_pixels_takes_what_counts():
    for name in METRICS.names():
        metric = METRICS.get(name)
        if metric.__module__.startswith("gradsam_exp.") and {"truth", "heatmaps"} & set(metric.needs):
            assert metric.needs[-1] == "counted", name


def test_without_a_pixel_that_counts_there_is_no_value():
    metric = MeanMaskIoU()
    metric.update(PREDICTED, TRUTH, torch.zeros_like(TRUTH))
    assert metric.compute().isnan()
    pointing = PointingGame()
    pointing.update(heat(0, 0, 0, 0, 0, 1), TRUTH, COUNTED)
    assert pointing.compute().isnan(), "no heat is left"


def test_the_edge_of_what_does_not_count_is_no_boundary():
    mask = torch.ones(1, 7, 9, dtype=torch.bool)
    counted = mask.clone()
    counted[0, 3, 4] = False
    inner = torch.zeros(7, 9, dtype=torch.bool)
    inner[1:-1, 1:-1] = True
    inner[3, 4] = False
    assert torch.equal(boundary(mask, 1, counted)[0], mask[0] & ~inner & counted[0])
    holed = mask & counted
    assert BoundaryIoU(dilation=0.01).measure(mask, holed, counted).tolist() == [1.0]
    assert BoundaryIoU(dilation=0.01).measure(mask, holed)[0] < 1


class Sum:
    """A classifier whose first logit is the brightness of the pixels of a row, each with a weight."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def pixels(self, images: torch.Tensor) -> torch.Tensor:
        return images.float() / 255

    def resized(self, maps: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        return maps

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        self.seen.append(pixels.clone())
        score = (pixels[:, 0, 0] * torch.tensor([4.0, 1.0, 1.0, 1.0, 1.0, 8.0])).sum(1)
        return torch.stack([score, torch.zeros_like(score)], 1)

    def explain(self, pixels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.seen.append(pixels.clone())
        return pixels[:, 0]


@pytest.mark.parametrize(
    "metric", [DeletionAUC(steps=5), InsertionAUC(steps=5), CombinedROAD(), AverageDrop(), Coherency()]
)
def test_faithfulness_never_changes_what_does_not_count(metric: ExampleMetric):
    images = torch.arange(18).reshape(1, 3, 1, 6).to(torch.uint8) * 14
    network = Sum()
    metric.update(heat(1.0, 0.2, 0.3, 0.4, 0.5, 0.9), images, network, COUNTED)
    assert network.seen
    for pixels in network.seen:
        assert torch.equal(pixels[..., 5], network.pixels(images)[..., 5])


def test_deletion_takes_equal_shares_of_the_pixels_that_count():
    images, network = torch.full((1, 3, 1, 6), 255, dtype=torch.uint8), Sum()
    DeletionAUC(steps=5).update(heat(1.0, 0.2, 0.3, 0.4, 0.5, 0.9), images, network, COUNTED)
    assert [int(pixels[0, 0].sum()) for pixels in network.seen] == [6, 5, 4, 3, 2, 1]


def test_a_plateau_counts_by_its_share_and_not_by_its_orientation():
    heatmap, truth = heat(0, 1, 1, 1, 0, 0), row(0, 0, 0, 1, 1, 1)
    turned = heat(*heatmap.values[0, 0].flip(0).tolist())
    for one, mask in ((heatmap, truth), (turned, truth.flip(2))):
        assert PointingGame().measure(one, mask).tolist() == pytest.approx([1 / 3])
        assert PointingGame(tolerance=1.0).measure(one, mask).tolist() == pytest.approx([2 / 3])
        assert PointingGameAny().measure(one, mask).tolist() == [1.0]
        assert PointingGameAny().measure(one, torch.zeros_like(mask)).tolist() == [0.0]
        assert PointingGame(tolerance=3.0).measure(one, torch.zeros_like(mask)).tolist() == [0.0]


def test_rank_accuracy_by_hand():
    """Of two pixels the hottest hits; the other is one of three equal ones, of which one hits."""
    assert RelevanceRankAccuracy().measure(heat(0.5, 1, 0.5, 0.5), row(1, 1, 0, 0))[0] == pytest.approx(2 / 3)
    assert RelevanceRankAccuracy().measure(heat(0.5, 1, 0.4, 0.1), row(0, 0, 0, 0)).isnan().all()


def test_masks_of_0_and_255_are_masks():
    metric = MeanMaskIoU()
    metric.update(row(1, 1, 0), (row(0, 1, 1).to(torch.uint8) * 255))
    assert float(metric.compute()) == pytest.approx(1 / 3)
    as_bool = torch.tensor([[[0, 255, 255]]], dtype=torch.uint8).view(torch.bool)
    metric.update(row(1, 1, 0), as_bool)
    assert float(metric.compute()) == pytest.approx(1 / 3)


def test_what_is_no_mask_is_refused():
    metric = MeanMaskIoU()
    with pytest.raises(ValueError, match=r"masks must be bool, or of 0 and 1, or of 0 and 255; got .* with 0, 3"):
        metric.update(row(1, 1, 0).int() * 3, row(0, 1, 1).int() * 5)
    with pytest.raises(ValueError, match="not of the same images: 2 masks, 1 truth"):
        metric.update(row(1, 1, 0).expand(2, 1, 3), row(0, 1, 1))
    with pytest.raises(ValueError, match=r"not of one size: masks 1×3, truth 1×2 .height×width."):
        metric.update(row(1, 1, 0), row(0, 1))
    with pytest.raises(TypeError, match="miou is measured on masks, truth, counted, got 1 inputs"):
        metric.update(row(1, 1, 0))
    with pytest.raises(TypeError, match="needs name counted last"):
        type("Typo", (ExampleMetric,), {"name": "t", "needs": ("counted", "masks"), "group": "masks"})
