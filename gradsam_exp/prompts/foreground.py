"""This module holds ``pipeline=fg``: a grid of foreground points at the thresholded heatmap's centre of mass."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic.dataclasses import dataclass
from scipy import ndimage
from torch import Tensor

from gradsam_exp.prompts.base import (
    FG_THRESHOLD,
    GRID_OFFSET,
    GRID_SIZE,
    STRATEGIES,
    Length,
    OddInt,
    PromptStrategy,
    pixels,
)
from gradsam_exp.prompts.thresholds import Threshold, at_least
from gradsam_exp.types import FOREGROUND, Maps, Masks, PromptContext, Prompts

Region = Literal["all", "peak"]
Weighting = Literal["activation", "uniform"]
Places = Float[Tensor, "batch 2"]


@STRATEGIES.register("fg")
@dataclass(frozen=True)
class Foreground(PromptStrategy):
    """Foreground asks with a grid of foreground points around the centre of mass of the warm pixels.

    Attributes:
        fg_threshold: warm pixels have at least this share of the heatmap's maximum; or a rule, see
            `Threshold`.
        grid_size: points along each side of the grid; odd.
        grid_offset: distance of neighbouring points: pixels, or a share of the image's shorter side (``2%``).
        region: ``all`` warm pixels count, or only the connected component that holds the ``peak``.
        weighting: the centre is weighted by ``activation``, or every warm pixel counts alike (``uniform``).
    """

    fg_threshold: Threshold = FG_THRESHOLD
    grid_size: OddInt = GRID_SIZE
    grid_offset: Length = GRID_OFFSET
    region: Region = "all"
    weighting: Weighting = "activation"

    @property
    def ignored(self) -> frozenset[str]:
        """Name ``grid_offset`` for a single point, which has no neighbours."""
        return frozenset({"grid_offset"} if self.grid_size == 1 else ())

    @property
    def ignoring(self) -> tuple[str, ...]:
        """See `PromptStrategy.ignoring`."""
        return ("grid_size=1",) if self.grid_size == 1 else ()

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query per image: ``grid_size²`` foreground points, clipped to the image."""
        return point_prompts(self.foreground_points(ctx))

    def foreground_points(self, ctx: PromptContext) -> Float[Tensor, "batch points 2"]:
        """Place the grid of every image, ``(x, y)`` px, row by row."""
        steps = (torch.arange(self.grid_size) - self.grid_size // 2) * pixels(self.grid_offset, ctx.size)
        dy, dx = torch.meshgrid(steps, steps, indexing="ij")
        points = self.warm_centres(ctx)[:, None] + torch.stack([dx, dy], -1).reshape(1, -1, 2)
        height, width = ctx.size
        return points.clamp(min=0).minimum(torch.tensor([width - 1.0, height - 1.0]))

    def warm_centres(self, ctx: PromptContext) -> Places:
        """Find the centre of mass ``(x, y)`` px of the warm pixels; the image's centre for an empty heatmap."""
        values = ctx.heatmaps.values.double()  # so that a batch sums to the same as its images one by one
        warm = at_least(values, self.fg_threshold)
        if self.region == "peak":
            warm = component_of_peak(warm, values)
        weights = warm * values if self.weighting == "activation" else warm.double()
        return torch.where(ctx.heatmaps.empty[:, None], ctx.centre, centre_of_mass(weights).float())


def centre_of_mass(weights: Maps) -> Places:
    """Compute the weighted mean position ``(x, y)`` px of each image; NaN where all weights are zero."""
    height, width = weights.shape[-2:]
    total = weights.sum((1, 2))
    x = (weights.sum(1) * torch.arange(width)).sum(1) / total
    y = (weights.sum(2) * torch.arange(height)).sum(1) / total
    return torch.stack([x, y], 1)


def squared_distances(places: Places, size: tuple[int, int]) -> Maps:
    """Compute each pixel's squared distance (px²) from one place ``(x, y)`` px; ``size`` is (height, width)."""
    height, width = size
    y = torch.arange(height)[None, :, None]
    x = torch.arange(width)[None, None, :]
    return (x - places[:, 0, None, None]).square() + (y - places[:, 1, None, None]).square()


def pixel_positions(flat: Int[Tensor, " *shape"], size: tuple[int, int]) -> Float[Tensor, "*shape 2"]:
    """Convert to ``(x, y)`` px the pixels that are numbered row by row; ``size`` is (height, width)."""
    y, x = torch.unravel_index(flat, size)
    return torch.stack([x, y], -1).float()


def point_prompts(foreground: Float[Tensor, "batch points 2"]) -> Prompts:
    """Make one query per image with foreground points only."""
    labels = torch.full(foreground.shape[:2], FOREGROUND)
    return Prompts(torch.arange(len(foreground)), foreground, labels)


def component_of_peak(warm: Masks, values: Maps) -> Masks:
    """Keep of each warm region the 8-connected component that holds the (first) maximum."""
    kept = []
    for region, value in zip(warm.numpy(), values.numpy(), strict=True):
        components, _ = ndimage.label(region, structure=np.ones((3, 3)))
        kept.append(components == components.flat[value.argmax()])
    return torch.from_numpy(np.stack(kept))
