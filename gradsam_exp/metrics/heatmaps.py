"""These metrics rate heatmaps alone: pointing game, energy in mask, best-threshold IoU, sparsity."""

from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from gradsam_exp.metrics.base import METRICS, ExampleMetric
from gradsam_exp.overlap import only_counted
from gradsam_exp.types import Heatmaps, Maps, Masks, PerImage


class HeatmapMetric(ExampleMetric):
    """A heatmap metric looks at heatmaps, most beside the true masks, before any prompt; larger is better.

    Only pixels that count are looked at; a heatmap that is zero on all of them has no value.
    """

    group = "heatmaps"
    needs: ClassVar[tuple[str, ...]] = ("heatmaps", "truth", "counted")
    higher_is_better = True


_EQUAL = 1e-5  # of 1; heat that differs by less is equal but for rounding


@METRICS.register("pointing_game")
class PointingGame(HeatmapMetric):
    """The pointing game is 1 where the heatmap's maximum lies on the true mask, else 0.

    Zhang et al. (ECCV 2016). Of several equal maxima it is the share that do, which is what one of them, picked at
    random, would give: it does not depend on the image's orientation.

    Args:
        tolerance: a maximum at most so many pixels away from the mask is a hit; the paper's is 15 px
            on images of some 500 px.
    """

    name, title = "pointing_game", "pointing game"

    def __init__(self, tolerance: Annotated[float, Field(ge=0)] = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tolerance = tolerance

    def measure(self, heatmaps: Heatmaps, truth: Masks, counted: Masks | None = None) -> PerImage:
        """Look for the mask around each maximum."""
        hits, maxima = self._hits(heatmaps, truth, counted)
        return hits / maxima

    def _hits(self, heatmaps: Heatmaps, truth: Masks, counted: Masks | None) -> tuple[PerImage, PerImage]:
        """Count each heatmap's maxima, first those that hit."""
        (truth,) = only_counted(truth, counted=counted)
        near = truth if self.tolerance == 0 else _within(truth, self.tolerance)
        values = _ranked(heatmaps, counted)
        maxima = values >= values.amax((1, 2), keepdim=True) - _EQUAL
        return (maxima & near).sum((1, 2)).double(), maxima.sum((1, 2)).double()


@METRICS.register("pointing_game_any")
class PointingGameAny(PointingGame):
    """This pointing game is 1 where any of the heatmap's equal maxima lies on the true mask, else 0.

    As Quantus computes it (Hedström et al., JMLR 2023); `PointingGame` where there is one maximum. See there for
    the argument.
    """

    name, title = "pointing_game_any", "pointing game (any maximum)"

    def measure(self, heatmaps: Heatmaps, truth: Masks, counted: Masks | None = None) -> PerImage:
        """Look for the mask around each maximum."""
        hits, _ = self._hits(heatmaps, truth, counted)
        return (hits > 0).double()


@METRICS.register("rank_accuracy")
class RelevanceRankAccuracy(HeatmapMetric):
    """Relevance rank accuracy is the share of the K hottest pixels on the true mask of K pixels, in [0, 1].

    Arras et al., *CLEVR-XAI* (Information Fusion 2022). Of equally hot pixels around the K-th, as many count as
    belong to the K hottest, and of these the share that lies on the mask. NaN for an empty mask.
    """

    name, title = "rank_accuracy", "relevance rank accuracy"

    def measure(self, heatmaps: Heatmaps, truth: Masks, counted: Masks | None = None) -> PerImage:
        """Compare each mask with as many of the hottest pixels."""
        (truth,) = only_counted(truth, counted=counted)
        values, inside = _ranked(heatmaps, counted).flatten(1), truth.flatten(1)
        size = inside.sum(1, keepdim=True)
        last = values.sort(1, descending=True).values.gather(1, (size - 1).clamp(min=0))
        hotter, equal = values > last, values == last
        share = (size - hotter.sum(1, keepdim=True)) / equal.sum(1, keepdim=True).double()
        hits = (hotter & inside).sum(1) + share[:, 0] * (equal & inside).sum(1)
        return hits / size[:, 0]


@METRICS.register("energy_in_mask")
class EnergyInMask(HeatmapMetric):
    """Energy in mask is the share of the heatmap's sum that lies on the true mask, in [0, 1].

    The energy-based pointing game of Wang et al. (Score-CAM, 2020, section 4.3). NaN for an empty heatmap.
    """

    name, title = "energy_in_mask", "energy in mask"

    def measure(self, heatmaps: Heatmaps, truth: Masks, counted: Masks | None = None) -> PerImage:
        """Divide the heat on the mask by all heat."""
        heat = heatmaps.values.double() if counted is None else heatmaps.values.double() * counted
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

    def measure(self, heatmaps: Heatmaps, truth: Masks, counted: Masks | None = None) -> PerImage:
        """Count the pixels at or above each threshold by one histogram."""
        (truth,) = only_counted(truth, counted=counted)
        thresholds = torch.linspace(1 / self.steps, 1, self.steps)
        reached = torch.bucketize(heatmaps.values.flatten(1).contiguous(), thresholds, right=True)  # how many
        inside = truth.flatten(1).long()
        counts = torch.zeros(2, len(heatmaps), self.steps + 1, dtype=torch.long)
        every = torch.ones_like(inside) if counted is None else counted.flatten(1).long()
        counts[0].scatter_add_(1, reached, every)
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
    needs: ClassVar[tuple[str, ...]] = ("heatmaps", "counted")

    def measure(self, heatmaps: Heatmaps, counted: Masks | None = None) -> PerImage:
        """Compute the Gini index of each heatmap."""
        if counted is not None:
            parts = zip(heatmaps.values, counted, strict=True)
            return torch.stack([self._gini(values[own][None])[0] for values, own in parts])
        return self._gini(heatmaps.values.flatten(1))

    @staticmethod
    def _gini(values: Float[Tensor, "batch pixels"]) -> PerImage:
        ranked = torch.from_numpy(np.sort(values.numpy(), axis=1)).double()  # several times as fast as torch's
        count = ranked.shape[1]
        weights = torch.arange(1, count + 1, dtype=torch.float64).mul_(2).sub_(count + 1)
        total = count * ranked.sum(1)
        return ranked.mul_(weights).sum(1) / total


@METRICS.register("complexity")
class Complexity(HeatmapMetric):
    """Complexity is the mean of the heatmap over the pixels, in [0, 1]: the less is hot, the simpler it is.

    The L1 norm of Poppi et al. (*Revisiting the Evaluation of Class Activation Mapping for Explainability*, CVPRW
    2021, section 3.3) by the number of pixels. 0 for an empty heatmap.
    """

    name, title = "complexity", "heatmap complexity"
    higher_is_better = False
    needs: ClassVar[tuple[str, ...]] = ("heatmaps", "counted")

    def measure(self, heatmaps: Heatmaps, counted: Masks | None = None) -> PerImage:
        """Average the heat over the pixels that count."""
        counts = torch.ones_like(heatmaps.values, dtype=torch.bool) if counted is None else counted
        return (heatmaps.values.double() * counts).sum((1, 2)) / counts.sum((1, 2))


def _within(masks: Masks, distance: float) -> Masks:
    """Find the pixels that are at most ``distance`` px from a mask's nearest pixel; none for an empty mask."""
    found = [
        distance_transform_edt(~mask) <= distance if mask.any() else np.zeros_like(mask) for mask in masks.numpy()
    ]
    return torch.from_numpy(np.stack(found))


def _ranked(heatmaps: Heatmaps, counted: Masks | None) -> Maps:
    """Return the heat, −∞ where a pixel does not count, to look for the hottest pixels."""
    return heatmaps.values if counted is None else heatmaps.values.masked_fill(~counted, -torch.inf)
