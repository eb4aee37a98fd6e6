"""These metrics rate heatmaps alone: pointing game, energy in mask, best-threshold IoU, sparsity."""

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from gradsam_exp.metrics.base import METRICS, ExampleMetric
from gradsam_exp.types import Heatmaps, Masks, PerImage


class HeatmapMetric(ExampleMetric):
    """A heatmap metric looks at heatmaps, most beside the true masks, before any prompt; larger is better."""

    group = "heatmaps"
    needs: ClassVar[tuple[str, ...]] = ("heatmaps", "truth")
    higher_is_better = True


@METRICS.register("pointing_game")
class PointingGame(HeatmapMetric):
    """The pointing game is 1 where the heatmap's (first) maximum lies on the true mask, else 0.

    Zhang et al. (ECCV 2016).

    Args:
        tolerance: a maximum at most so many pixels away from the mask is a hit; the paper's is 15 px
            on images of some 500 px.
    """

    name, title = "pointing_game", "pointing game"

    def __init__(self, tolerance: Annotated[float, Field(ge=0)] = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tolerance = tolerance

    def measure(self, heatmaps: Heatmaps, truth: Masks) -> PerImage:
        """Look for the mask around each maximum."""
        height, width = truth.shape[1:]
        y, x = torch.unravel_index(heatmaps.values.flatten(1).argmax(1)[:, None, None], (height, width))
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        near = (rows - y) ** 2 + (columns - x) ** 2 <= self.tolerance**2
        return (near & truth).flatten(1).any(1).double()


@METRICS.register("energy_in_mask")
class EnergyInMask(HeatmapMetric):
    """Energy in mask is the share of the heatmap's sum that lies on the true mask, in [0, 1].

    The energy-based pointing game of Wang et al. (Score-CAM, 2020, section 4.3). NaN for an empty heatmap.
    """

    name, title = "energy_in_mask", "energy in mask"

    def measure(self, heatmaps: Heatmaps, truth: Masks) -> PerImage:
        """Divide the heat on the mask by all heat."""
        heat = heatmaps.values.double()
        return (heat * truth).sum((1, 2)) / heat.sum((1, 2))


@METRICS.register("best_threshold_iou")
class BestThresholdIoU(HeatmapMetric):
    """Best-threshold IoU is the largest IoU with the true mask over all thresholds ``1/steps … 1``, in [0, 1].

    No mask that is cut out of the heatmap by a threshold can be better.

    Args:
        steps: how many thresholds are tried.
    """

    name, title = "best_threshold_iou", "best-threshold IoU"

    def __init__(self, steps: Annotated[int, Field(ge=1)] = 100, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = steps

    def measure(self, heatmaps: Heatmaps, truth: Masks) -> PerImage:
        """Count the pixels at or above each threshold by one histogram."""
        thresholds = torch.linspace(1 / self.steps, 1, self.steps)
        reached = torch.bucketize(heatmaps.values.flatten(1).contiguous(), thresholds, right=True)  # how many
        inside = truth.flatten(1).long()
        counts = torch.zeros(2, len(heatmaps), self.steps + 1, dtype=torch.long)
        counts[0].scatter_add_(1, reached, torch.ones_like(inside))
        counts[1].scatter_add_(1, reached, inside)
        hot, hit = counts.flip(2).cumsum(2).flip(2)[..., 1:].double()
        union = hot + inside.sum(1, keepdim=True) - hit
        return torch.where(union > 0, hit / union.clamp(min=1), 1.0).amax(1)


@METRICS.register("sparsity")
class Sparsity(HeatmapMetric):
    """Sparsity is the Gini index of the heat over the pixels: 0 if all are equally hot, near 1 if one has it all.

    Hurley and Rickard (2009); Chalasani et al. (ICML 2020) use it for attributions. NaN for an empty heatmap.
    """

    name, title = "sparsity", "heatmap sparsity"
    needs: ClassVar[tuple[str, ...]] = ("heatmaps",)

    def measure(self, heatmaps: Heatmaps) -> PerImage:
        """Compute the Gini index of each heatmap."""
        values = heatmaps.values.double().flatten(1).sort(1).values
        count = values.shape[1]
        rank = torch.arange(1, count + 1, dtype=torch.float64)
        return ((2 * rank - count - 1) * values).sum(1) / (count * values.sum(1))
