"""Foreground points: a small grid around the heatmap's warm centre."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy import ndimage
from torch import Tensor

from gradsam_exp.prompts.base import STRATEGIES, Fraction, OddInt, PromptStrategy
from gradsam_exp.types import FOREGROUND, Heatmaps, PromptContext, Prompts

Region = Literal["all", "peak"]
Weighting = Literal["activation", "uniform"]


@STRATEGIES.register("fg")
@dataclass(frozen=True)
class Foreground(PromptStrategy):
    """A grid of foreground points around the centre of mass of the warm pixels.

    Attributes:
        fg_threshold: warm pixels have at least this share of the heatmap's maximum.
        grid_size: points along each side of the grid; odd.
        grid_offset: distance of neighbouring points, in pixels.
        region: ``all`` warm pixels count, or only the connected component that holds the ``peak``.
        weighting: the centre is weighted by ``activation``, or every warm pixel counts alike (``uniform``).
    """

    fg_threshold: Fraction = 0.8
    grid_size: OddInt = 3
    grid_offset: Annotated[float, Field(gt=0)] = 1.0
    region: Region = "all"
    weighting: Weighting = "activation"

    @property
    def ignored(self) -> frozenset[str]:
        """A single point has no neighbours."""
        return frozenset({"grid_offset"} if self.grid_size == 1 else ())

    def propose(self, ctx: PromptContext) -> Prompts:
        """One query per image: ``grid_size²`` foreground points, clipped to the image."""
        return point_prompts(self.foreground_points(ctx))

    def foreground_points(self, ctx: PromptContext) -> Float[Tensor, "batch points 2"]:
        """The grid of every image, ``(x, y)`` px."""
        centres = warm_centres(ctx.heatmaps, self.fg_threshold, self.region, self.weighting)
        return grid_around(centres, self.grid_size, self.grid_offset, ctx.size)


@STRATEGIES.register("ensemble")
@dataclass(frozen=True)
class EnsembleForeground(Foreground):
    """`Foreground` where several explainers, or layers, vote: its configuration chooses ``explainer=ensemble``."""


def warm_centres(
    heatmaps: Heatmaps, threshold: float, region: Region = "all", weighting: Weighting = "activation"
) -> Float[Tensor, "batch 2"]:
    """Centre of mass ``(x, y)`` px of the pixels ≥ ``threshold`` × the heatmap's maximum.

    An empty heatmap's centre is the image's centre.
    """
    values = heatmaps.values.double()  # in double, so that a batch sums to the same as its images one by one
    warm = values >= threshold * values.amax((1, 2), keepdim=True)
    if region == "peak":
        warm = component_of_peak(warm, values)
    weights = warm * values if weighting == "activation" else warm.double()
    centres = centre_of_mass(weights)
    height, width = values.shape[-2:]
    middle = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=values.device)
    return torch.where(heatmaps.empty[:, None], middle, centres.float())


def centre_of_mass(weights: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch 2"]:
    """Weighted mean position ``(x, y)`` px of each image; NaN where all weights are zero."""
    height, width = weights.shape[-2:]
    total = weights.sum((1, 2))
    x = (weights.sum(1) * torch.arange(width, device=weights.device)).sum(1) / total
    y = (weights.sum(2) * torch.arange(height, device=weights.device)).sum(1) / total
    return torch.stack([x, y], 1)


def squared_distances(
    places: Float[Tensor, "batch 2"], size: tuple[int, int]
) -> Float[Tensor, "batch height width"]:
    """Of every pixel of an image of ``size`` (height, width) from one place ``(x, y)`` px."""
    height, width = size
    y = torch.arange(height, device=places.device)[None, :, None]
    x = torch.arange(width, device=places.device)[None, None, :]
    return (x - places[:, 0, None, None]).square() + (y - places[:, 1, None, None]).square()


def grid_around(
    centres: Float[Tensor, "batch 2"], grid_size: int, grid_offset: float, size: tuple[int, int]
) -> Float[Tensor, "batch points 2"]:
    """A ``grid_size`` × ``grid_size`` grid of points around each centre, row by row, clipped to the image."""
    steps = (torch.arange(grid_size, device=centres.device) - grid_size // 2) * grid_offset
    dy, dx = torch.meshgrid(steps, steps, indexing="ij")
    points = centres[:, None] + torch.stack([dx, dy], -1).reshape(1, -1, 2)
    height, width = size
    return points.clamp(min=0).minimum(torch.tensor([width - 1.0, height - 1.0], device=centres.device))


def point_prompts(foreground: Float[Tensor, "batch points 2"]) -> Prompts:
    """One query per image with foreground points only."""
    labels = torch.full(foreground.shape[:2], FOREGROUND)
    return Prompts(torch.arange(len(foreground)), foreground, labels)


def component_of_peak(
    warm: Bool[Tensor, "batch height width"], values: Float[Tensor, "batch height width"]
) -> Bool[Tensor, "batch height width"]:
    """The 8-connected component of each warm region that holds the (first) maximum."""
    kept = []
    for region, value in zip(warm.cpu().numpy(), values.cpu().numpy(), strict=True):
        components, _ = ndimage.label(region, structure=np.ones((3, 3)))
        kept.append(components == components.flat[value.argmax()])
    return torch.from_numpy(np.stack(kept)).to(warm.device)
