"""``pipeline=fg`` asks with a small grid of foreground points around the heatmap's warm centre."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic.dataclasses import dataclass
from scipy import ndimage
from torch import Tensor

from gradsam_exp.prompts.base import (
    FG_THRESHOLD,
    GRID_OFFSET,
    GRID_SIZE,
    STRATEGIES,
    Fraction,
    OddInt,
    Offset,
    PromptStrategy,
)
from gradsam_exp.types import FOREGROUND, Heatmaps, PromptContext, Prompts

Region = Literal["all", "peak"]
Weighting = Literal["activation", "uniform"]


@STRATEGIES.register("fg")
@dataclass(frozen=True)
class Foreground(PromptStrategy):
    """Asks with a grid of foreground points around the centre of mass of the warm pixels.

    Attributes:
        fg_threshold: warm pixels have at least this share of the heatmap's maximum.
        grid_size: points along each side of the grid; odd.
        grid_offset: distance of neighbouring points, in pixels.
        region: ``all`` warm pixels count, or only the connected component that holds the ``peak``.
        weighting: the centre is weighted by ``activation``, or every warm pixel counts alike (``uniform``).
    """

    fg_threshold: Fraction = FG_THRESHOLD
    grid_size: OddInt = GRID_SIZE
    grid_offset: Offset = GRID_OFFSET
    region: Region = "all"
    weighting: Weighting = "activation"

    @property
    def ignored(self) -> frozenset[str]:
        """Names ``grid_offset`` for a single point, which has no neighbours."""
        return frozenset({"grid_offset"} if self.grid_size == 1 else ())

    def propose(self, ctx: PromptContext) -> Prompts:
        """Asks one query per image: ``grid_size²`` foreground points, clipped to the image."""
        return point_prompts(self.foreground_points(ctx))

    def foreground_points(self, ctx: PromptContext) -> Float[Tensor, "batch points 2"]:
        """Returns the grid of every image, ``(x, y)`` px."""
        centres = warm_centres(ctx.heatmaps, self.fg_threshold, self.region, self.weighting)
        return grid_around(centres, self.grid_size, self.grid_offset, ctx.size)


def warm_centres(
    heatmaps: Heatmaps, threshold: float, region: Region = "all", weighting: Weighting = "activation"
) -> Float[Tensor, "batch 2"]:
    """Returns the centre of mass ``(x, y)`` px of the pixels ≥ ``threshold`` × the heatmap's maximum.

    An empty heatmap's centre is the image's centre.
    """
    values = heatmaps.values.double()  # in double, so that a batch sums to the same as its images one by one
    warm = values >= threshold * values.amax((1, 2), keepdim=True)
    if region == "peak":
        warm = component_of_peak(warm, values)
    weights = warm * values if weighting == "activation" else warm.double()
    centres = centre_of_mass(weights)
    height, width = values.shape[-2:]
    middle = torch.tensor([(width - 1) / 2, (height - 1) / 2])
    return torch.where(heatmaps.empty[:, None], middle, centres.float())


def centre_of_mass(weights: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch 2"]:
    """Returns the weighted mean position ``(x, y)`` px of each image; NaN where all weights are zero."""
    height, width = weights.shape[-2:]
    total = weights.sum((1, 2))
    x = (weights.sum(1) * torch.arange(width)).sum(1) / total
    y = (weights.sum(2) * torch.arange(height)).sum(1) / total
    return torch.stack([x, y], 1)


def squared_distances(
    places: Float[Tensor, "batch 2"], size: tuple[int, int]
) -> Float[Tensor, "batch height width"]:
    """Returns each pixel's squared distance (px²) from one place ``(x, y)`` px; ``size`` is (height, width)."""
    height, width = size
    y = torch.arange(height)[None, :, None]
    x = torch.arange(width)[None, None, :]
    return (x - places[:, 0, None, None]).square() + (y - places[:, 1, None, None]).square()


def pixel_positions(flat: Int[Tensor, " *shape"], size: tuple[int, int]) -> Float[Tensor, "*shape 2"]:
    """Returns ``(x, y)`` px of pixels that are numbered row by row; ``size`` is (height, width)."""
    y, x = torch.unravel_index(flat, size)
    return torch.stack([x, y], -1).float()


def grid_around(
    centres: Float[Tensor, "batch 2"], grid_size: int, grid_offset: float, size: tuple[int, int]
) -> Float[Tensor, "batch points 2"]:
    """Places ``grid_size`` × ``grid_size`` points around each centre, row by row, clipped to the image; px."""
    steps = (torch.arange(grid_size) - grid_size // 2) * grid_offset
    dy, dx = torch.meshgrid(steps, steps, indexing="ij")
    points = centres[:, None] + torch.stack([dx, dy], -1).reshape(1, -1, 2)
    height, width = size
    return points.clamp(min=0).minimum(torch.tensor([width - 1.0, height - 1.0]))


def point_prompts(foreground: Float[Tensor, "batch points 2"]) -> Prompts:
    """Makes one query per image with foreground points only."""
    labels = torch.full(foreground.shape[:2], FOREGROUND)
    return Prompts(torch.arange(len(foreground)), foreground, labels)


def component_of_peak(
    warm: Bool[Tensor, "batch height width"], values: Float[Tensor, "batch height width"]
) -> Bool[Tensor, "batch height width"]:
    """Keeps of each warm region the 8-connected component that holds the (first) maximum."""
    kept = []
    for region, value in zip(warm.numpy(), values.numpy(), strict=True):
        components, _ = ndimage.label(region, structure=np.ones((3, 3)))
        kept.append(components == components.flat[value.argmax()])
    return torch.from_numpy(np.stack(kept))
