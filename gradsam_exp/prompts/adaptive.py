"""``pipeline=adaptive`` places background points only where the mask leaks, as the reference report proposes."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from scipy import ndimage
from torch import Tensor

from gradsam_exp.overlap import soft_iou
from gradsam_exp.prompts.background import check_thresholds
from gradsam_exp.prompts.base import BG_THRESHOLD, STRATEGIES, Fraction
from gradsam_exp.prompts.foreground import Foreground
from gradsam_exp.types import BACKGROUND, NO_POINT, PromptContext, Prompts, Segmentation


@STRATEGIES.register("adaptive")
@dataclass(frozen=True)
class Adaptive(Foreground):
    """Asks with `Foreground`, and again with background points inside the leak where the mask leaks.

    A mask leaks if too much of it lies on cold pixels, or if it is too large for the warm region. The leak
    is its part on cold pixels; each round puts one background point into the innermost place of each of
    the leak's largest components. A revised mask is kept only if it agrees better with the heatmap.

    Attributes:
        bg_threshold: cold pixels have heatmap < this.
        max_cold_share: largest share of a mask on cold pixels that is no leak.
        max_area_ratio: largest ratio of the mask's area to the warm region's that is no leak.
        warm_threshold: the warm region that areas are compared with has heatmap ≥ this.
        n: at most so many background points are added in one round.
        max_rounds: each image is asked at most so often, the first time included.
    """

    bg_threshold: Fraction = BG_THRESHOLD
    max_cold_share: Fraction = 0.2
    max_area_ratio: Annotated[float, Field(gt=0)] = 3.0
    warm_threshold: Fraction = 0.5
    n: Annotated[int, Field(ge=1)] = 2
    max_rounds: Annotated[int, Field(ge=1)] = 3

    @model_validator(mode="after")
    def _below(self) -> Adaptive:
        check_thresholds(self.bg_threshold, self.fg_threshold)
        return self

    def revise(
        self,
        ctx: PromptContext,
        prompts: Prompts,
        segmentation: Segmentation,
        masks: Bool[Tensor, "batch height width"],
        chosen: Float[Tensor, "batch low low"],
    ) -> tuple[Prompts, Bool[Tensor, " batch"]]:
        """Adds background points in the leak to the prompts of the images whose mask leaks."""
        del segmentation, chosen
        leak, leaks = self.leaks(ctx, masks)
        points, labels = torch.zeros(len(ctx), self.n, 2), torch.full((len(ctx), self.n), NO_POINT)
        for image in torch.nonzero(leaks).flatten().tolist():
            for k, (x, y) in enumerate(innermost_places(leak[image], self.n)):
                points[image, k] = torch.tensor([x, y])
                labels[image, k] = BACKGROUND
        active = (labels != NO_POINT).any(1)
        rows = prompts.image_index
        again = Prompts(
            rows, torch.cat([prompts.points, points[rows]], 1), torch.cat([prompts.labels, labels[rows]], 1)
        )
        return again[active[rows]], active

    def leaks(
        self, ctx: PromptContext, masks: Bool[Tensor, "batch height width"]
    ) -> tuple[Bool[Tensor, "batch height width"], Bool[Tensor, " batch"]]:
        """Returns the part of each mask that lies on cold pixels, and whether that is a leak."""
        values = ctx.heatmaps.values
        leak = masks & (values < self.bg_threshold)
        area = masks.sum((1, 2)).double()
        cold_share = leak.sum((1, 2)) / area.clamp(min=1)
        warm_area = (values >= self.warm_threshold).sum((1, 2)).double()
        too_large = area > self.max_area_ratio * warm_area
        return leak, ((cold_share > self.max_cold_share) | too_large) & ~ctx.heatmaps.empty & (area > 0)

    def better(
        self, ctx: PromptContext, new: Bool[Tensor, "batch height width"], old: Bool[Tensor, "batch height width"]
    ) -> Bool[Tensor, " batch"]:
        """Says which of the new masks agree better with the heatmap, by `heatmap_agreement`."""
        return heatmap_agreement(ctx, new) > heatmap_agreement(ctx, old)


def heatmap_agreement(ctx: PromptContext, masks: Bool[Tensor, "batch height width"]) -> Float[Tensor, " batch"]:
    """Returns the soft IoU of each mask with its heatmap, ``Σ m·h / Σ max(m, h)`` in [0, 1]."""
    return soft_iou(masks.double(), ctx.heatmaps.values.double())


def innermost_places(region: Bool[Tensor, "height width"], count: int) -> list[tuple[float, float]]:
    """Returns ``(x, y)`` px of the pixel deepest inside each of the ``count`` largest 4-connected components."""
    components, found = ndimage.label(region.numpy())
    sizes = ndimage.sum_labels(region.numpy(), components, range(1, found + 1))
    places = []
    for label in sorted(range(1, found + 1), key=lambda k: -sizes[k - 1])[:count]:
        bordered = np.pad(components == label, 1)  # so that depth counts from the image's edge as well
        depth = ndimage.distance_transform_cdt(bordered, metric="taxicab")[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        places.append((float(x), float(y)))
    return places
