"""This module holds ``pipeline=adaptive``: background points where SAM's mask spreads over low heat."""

from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Bool
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy import ndimage
from torch import Tensor

from gradsam_exp.overlap import iou, only_counted, soft_iou
from gradsam_exp.prompts.background import WithColdPixels
from gradsam_exp.prompts.base import STRATEGIES, Count, Fraction
from gradsam_exp.prompts.thresholds import Threshold, level
from gradsam_exp.types import (
    BACKGROUND,
    NO_POINT,
    Chosen,
    LowRes,
    Masks,
    PerImage,
    PromptContext,
    Prompts,
    Segmentation,
    stack_points,
)


@STRATEGIES.register("adaptive")
@dataclass(frozen=True)
class Adaptive(WithColdPixels):
    """Adaptive prompts as `Foreground`, then adds background points where the mask spreads over low heat.

    The reference report proposes it. A mask leaks if too much of it lies on cold pixels, or if it is too large for
    the warm region. The leak is its part on cold pixels; each round puts one background point into the innermost
    place of each of its largest components. A revised mask is kept only if it agrees better with the heatmap.

    Attributes:
        max_cold_share: largest share of a mask on cold pixels that is no leak.
        max_area_ratio: largest ratio of the mask's area to the warm region's that is no leak.
        warm_threshold: the warm region that areas are compared with has heatmap ≥ this; or a rule, see
            `Threshold`.
        n: at most so many background points are added in one round.
        max_rounds: each image is asked at most so often, the first time included.
        min_support: smallest mean heat on a mask that is asked again. On a mask with less the heatmap is no guide:
            it may be of something else, or of a larger object than the warm region shows.
        min_gain: a revised mask is kept if it agrees better with the heatmap, by more than this.
        decide: what a revised mask has to agree better with, the ``heatmap`` or the ``truth``: an upper bound of
            what a decision between the rounds can gain, and no method.
    """

    max_cold_share: Fraction = 0.05
    max_area_ratio: Annotated[float, Field(gt=0)] = 3.0
    warm_threshold: Threshold = 0.5
    n: Count = 2
    max_rounds: Count = 4
    min_support: Fraction = 0.4
    min_gain: Annotated[float, Field(ge=-1, le=1)] = 0.002
    decide: Literal["heatmap", "truth"] = "heatmap"

    @property
    def needs_truth(self) -> bool:
        """See `PromptStrategy.needs_truth`."""
        return self.decide == "truth"

    @property
    def ignored(self) -> frozenset[str]:
        """Name ``min_gain`` where the truth decides."""
        return super().ignored | ({"min_gain"} if self.needs_truth else set())

    @property
    def ignoring(self) -> tuple[str, ...]:
        """See `PromptStrategy.ignoring`."""
        return (*super().ignoring, *(["pipeline.decide=truth"] if self.needs_truth else []))

    def revise(
        self, ctx: PromptContext, prompts: Prompts, segmentation: Segmentation, masks: Masks, chosen: LowRes
    ) -> tuple[Prompts, Chosen]:
        """Add background points in the leak to the prompts of the images whose mask leaks."""
        del segmentation, chosen
        leak, leaks = self.leaks(ctx, masks)
        places = [
            innermost_places(own, self.n) if leaking else [] for own, leaking in zip(leak, leaks, strict=True)
        ]
        points, labels = stack_points([[(x, y, BACKGROUND) for x, y in own] for own in places])
        active = (labels != NO_POINT).any(1)
        rows = prompts.example_index
        points, labels = torch.cat([prompts.points, points[rows]], 1), torch.cat([prompts.labels, labels[rows]], 1)
        return Prompts(rows, points, labels)[active[rows]], active

    def leaks(self, ctx: PromptContext, masks: Masks) -> tuple[Masks, Chosen]:
        """Find the part of each mask that lies on cold pixels, and whether that is a leak."""
        values = ctx.heatmaps.values
        leak = masks & self.cold_pixels(ctx)
        area = masks.sum((1, 2)).double()
        cold_share = leak.sum((1, 2)) / area.clamp(min=1)
        warm_area = (values >= level(values, self.warm_threshold)).sum((1, 2)).double()
        too_large = area > self.max_area_ratio * warm_area
        supported = (values * masks).sum((1, 2)) >= self.min_support * area
        leaks = (cold_share > self.max_cold_share) | too_large
        return leak, leaks & supported & ~ctx.heatmaps.empty & (area > 0)

    def better(self, ctx: PromptContext, new: Masks, old: Masks) -> Chosen:
        """Tell which new masks agree better: with the heatmap, by more than ``min_gain``, or with the truth."""
        if self.decide == "truth":
            if ctx.masks is None:
                raise ValueError("pipeline.decide=truth needs true masks")
            new, old = only_counted(new, old, counted=ctx.counted)
            return iou(new, ctx.masks) > iou(old, ctx.masks)
        return heatmap_agreement(ctx, new) > heatmap_agreement(ctx, old) + self.min_gain


def heatmap_agreement(ctx: PromptContext, masks: Masks) -> PerImage:
    """Compute the soft IoU of each mask with its heatmap, ``Σ m·h / Σ max(m, h)`` in [0, 1]."""
    return soft_iou(masks.double(), ctx.heatmaps.values.double())


def innermost_places(region: Bool[Tensor, "height width"], count: int) -> list[tuple[float, float]]:
    """Find ``(x, y)`` px of the pixel deepest inside each of the ``count`` largest 4-connected components."""
    components, found = ndimage.label(region.numpy())
    sizes = ndimage.sum_labels(region.numpy(), components, range(1, found + 1))
    places = []
    for label in sorted(range(1, found + 1), key=lambda k: -sizes[k - 1])[:count]:
        bordered = np.pad(components == label, 1)  # so that depth counts from the image's edge as well
        depth = ndimage.distance_transform_cdt(bordered, metric="taxicab")[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        places.append((float(x), float(y)))
    return places
