"""Heatmaps compared with the true masks, before any prompt."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from gradsam_exp.metrics.base import METRICS, ExampleMetric
from gradsam_exp.types import Heatmaps

Maps = Float[Tensor, "batch height width"]
Masks = Bool[Tensor, "batch height width"]
PerImage = Float[Tensor, " batch"]


def pointing_game(heatmaps: Maps, masks: Masks, *, tolerance: float = 0.0) -> PerImage:
    """1 where the heatmap's (first) maximum lies on the true mask, else 0 (Zhang et al., ECCV 2016).

    Args:
        tolerance: a maximum at most so many pixels away from the mask is a hit; the paper's is 15 px
            on images of some 500 px.
    """
    width = heatmaps.shape[2]
    flat = heatmaps.flatten(1).argmax(1)
    y, x = flat // width, flat % width
    rows = torch.arange(heatmaps.shape[1])[None, :, None]
    columns = torch.arange(width)[None, None, :]
    near = (rows - y[:, None, None]) ** 2 + (columns - x[:, None, None]) ** 2 <= tolerance**2
    return (near & masks).flatten(1).any(1).double()


def energy_in_mask(heatmaps: Maps, masks: Masks) -> PerImage:
    """Share of the heatmap's sum that lies on the true mask, in [0, 1].

    The energy-based pointing game of Wang et al. (Score-CAM, 2020, section 4.3).

    NaN for an empty heatmap.
    """
    heat = heatmaps.double()
    return (heat * masks).sum((1, 2)) / heat.sum((1, 2))


def best_threshold_iou(heatmaps: Maps, masks: Masks, *, steps: int = 100) -> PerImage:
    """Largest IoU with the true mask over all thresholds ``1/steps … 1``.

    No mask that is cut out of the heatmap by a threshold can be better.
    """
    thresholds = torch.linspace(1 / steps, 1, steps)
    reached = torch.bucketize(heatmaps.flatten(1).contiguous(), thresholds, right=True)  # how many thresholds
    inside = masks.flatten(1).long()
    counts = torch.zeros(2, len(heatmaps), steps + 1, dtype=torch.long)
    counts[0].scatter_add_(1, reached, torch.ones_like(inside))
    counts[1].scatter_add_(1, reached, inside)
    hot, hit = counts.flip(2).cumsum(2).flip(2)[..., 1:].double()  # pixels at or above each threshold
    union = hot + inside.sum(1, keepdim=True) - hit
    return torch.where(union > 0, hit / union.clamp(min=1), 1.0).amax(1)


def sparsity(heatmaps: Maps) -> PerImage:
    """Gini index of the heat over the pixels: 0 if all are equally hot, near 1 if one has it all.

    Hurley and Rickard (2009); Chalasani et al. (ICML 2020) use it for attributions. NaN for an empty heatmap.
    """
    values = heatmaps.double().flatten(1).sort(1).values
    count = values.shape[1]
    rank = torch.arange(1, count + 1, dtype=torch.float64)
    return ((2 * rank - count - 1) * values).sum(1) / (count * values.sum(1))


@METRICS.register("pointing_game")
class PointingGame(ExampleMetric):
    """Whether the heatmap's maximum lies on the true mask, 1 or 0; see `pointing_game`.

    Args:
        tolerance: a maximum at most so many pixels away from the mask is a hit.
    """

    name, title, group = "pointing_game", "pointing game", "heatmaps"
    needs = ("heatmaps", "truth")
    higher_is_better = True

    def __init__(self, tolerance: Annotated[float, Field(ge=0)] = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tolerance = tolerance

    def measure(self, heatmaps: Heatmaps, truth: Masks) -> PerImage:
        """1 or 0 for each image."""
        return pointing_game(heatmaps.values, truth, tolerance=self.tolerance)


@METRICS.register("energy_in_mask")
class EnergyInMask(ExampleMetric):
    """Share of the heatmap's sum that lies on the true mask, in [0, 1]; see `energy_in_mask`."""

    name, title, group = "energy_in_mask", "energy in mask", "heatmaps"
    needs = ("heatmaps", "truth")
    higher_is_better = True

    def measure(self, heatmaps: Heatmaps, truth: Masks) -> PerImage:
        """Share of each image."""
        return energy_in_mask(heatmaps.values, truth)


@METRICS.register("best_threshold_iou")
class BestThresholdIoU(ExampleMetric):
    """Largest IoU of a thresholded heatmap with the true mask, in [0, 1]; see `best_threshold_iou`.

    Args:
        steps: how many thresholds are tried.
    """

    name, title, group = "best_threshold_iou", "best-threshold IoU", "heatmaps"
    needs = ("heatmaps", "truth")
    higher_is_better = True

    def __init__(self, steps: Annotated[int, Field(ge=1)] = 100, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = steps

    def measure(self, heatmaps: Heatmaps, truth: Masks) -> PerImage:
        """Largest IoU of each image."""
        return best_threshold_iou(heatmaps.values, truth, steps=self.steps)


@METRICS.register("sparsity")
class Sparsity(ExampleMetric):
    """Gini index of the heatmap over its pixels, in [0, 1]; see `sparsity`."""

    name, title, group = "sparsity", "heatmap sparsity", "heatmaps"
    needs = ("heatmaps",)
    higher_is_better = True

    def measure(self, heatmaps: Heatmaps) -> PerImage:
        """Gini index of each image."""
        return sparsity(heatmaps.values)
