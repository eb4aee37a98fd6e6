"""This module holds ``pipeline=fgbg``, which adds background points to the foreground points.

The reference report found that they make masks worse; `docs/background-points.md` says why.
"""

from __future__ import annotations

from itertools import product
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from scipy import ndimage
from torch import Tensor

from gradsam_exp.prompts.base import BG_THRESHOLD, STRATEGIES, Gap, pixels
from gradsam_exp.prompts.foreground import Foreground, pixel_positions, point_prompts, squared_distances
from gradsam_exp.prompts.thresholds import Threshold, at_least, below, is_below
from gradsam_exp.types import BACKGROUND, FOREGROUND, NO_POINT, Masks, PromptContext, Prompts

Tie = Literal["first", "median", "farthest"]
Placement = Literal["extreme", "ring", "argmin", "corner_far", "corner_cold"]
_USED: dict[str, set[str]] = {"extreme": {"bg_threshold", "tie"}, "ring": {"bg_threshold", "ring_distance"}}
"""Parameters that placements look at besides ``n``; the others look at none."""


@dataclass(frozen=True)
class WithColdPixels(Foreground):
    """Base class of strategies that treat pixels of low heat (``bg_threshold``) as background.

    Attributes:
        bg_threshold: cold pixels have heatmap < this, or by a rule, see `Threshold`; none is warm too. A number
            must lie below that of ``fg_threshold``, and a quantile below its quantile.
    """

    bg_threshold: Threshold = BG_THRESHOLD

    @model_validator(mode="after")
    def _below(self) -> WithColdPixels:
        if not is_below(self.bg_threshold, self.fg_threshold):
            raise ValueError(
                f"bg_threshold={self.bg_threshold} must be below fg_threshold={self.fg_threshold}, "
                "or warm pixels would be taken for background"
            )
        return self

    def cold_pixels(self, ctx: PromptContext) -> Masks:
        """Find the pixels of low heat, also of an empty heatmap; where a rule finds a threshold, no warm ones."""
        values = ctx.heatmaps.values
        cold = below(values, self.bg_threshold)
        if isinstance(self.bg_threshold, str) or isinstance(self.fg_threshold, str):
            cold &= ~at_least(values, self.fg_threshold)
        return cold


@STRATEGIES.register("fgbg")
@dataclass(frozen=True)
class ForegroundBackground(WithColdPixels):
    """ForegroundBackground asks with `Foreground` and background points on the coldest parts of the heatmap.

    An image without cold pixels gets no background points; neither does one with an empty heatmap, of which
    nothing is known.

    Attributes:
        n: so many background points are placed; 0 makes it `Foreground`.
        placement: ``extreme`` takes the top-most, bottom-most, left-most and right-most cold pixel, in
            that order and again from the start for more than four, each from the pixels not yet taken.
            ``ring`` goes from the foreground centre in ``n`` evenly spaced directions until the warm region
            (≥ 0.5 of the maximum) is ``ring_distance`` away, and takes the cold pixels nearest to these places.
            The others are those of public solutions of the reference exercise, which place one (``n=1``) and look
            at no threshold: ``argmin`` takes the coldest pixels, ``corner_far`` the image corners farthest from
            the foreground centre, and ``corner_cold`` the coldest corners, of equal ones the first in scan order.
        tie: which of several equally extreme pixels is taken: the ``first`` in scan order (mostly an image
            corner), the ``median`` of them, or the one ``farthest`` from the foreground centre.
        ring_distance: gap between the warm region and the ring: pixels, or a share (``2%``) of the shorter side.
    """

    n: Annotated[int, Field(ge=0, le=1000)] = 4
    placement: Placement = "extreme"
    tie: Tie = "first"
    ring_distance: Gap = 6.0

    @property
    def ignored(self) -> frozenset[str]:
        """Name the parameters of other placements; without background points, all that place them."""
        used = {"placement"} | _USED.get(self.placement, set()) if self.n else set()
        return super().ignored | ({"bg_threshold", "placement", "tie", "ring_distance"} - used)

    @property
    def ignoring(self) -> tuple[str, ...]:
        """See `PromptStrategy.ignoring`."""
        return (*super().ignoring, f"pipeline.placement={self.placement}" if self.n else "pipeline.n=0")

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query per image: the foreground grid, then up to ``n`` background points."""
        foreground = self.foreground_points(ctx)
        if self.n == 0:
            return point_prompts(foreground)
        background, found = self.background_points(ctx)
        labels = torch.full((*foreground.shape[:2],), FOREGROUND)
        background_labels = torch.where(found, BACKGROUND, NO_POINT)
        return Prompts(
            example_index=torch.arange(len(ctx)),
            points=torch.cat([foreground, background], 1),
            labels=torch.cat([labels, background_labels], 1),
        )

    def background_points(
        self, ctx: PromptContext
    ) -> tuple[Float[Tensor, "batch points 2"], Bool[Tensor, "batch points"]]:
        """Find ``(x, y)`` px of the background points, and which of them exist."""
        eligible = self._eligible(ctx) & ~ctx.heatmaps.empty[:, None, None]
        centres = self.warm_centres(ctx)
        places = self._ring(ctx, centres) if self.placement == "ring" else None
        points, found = [], []
        for number in range(self.n):
            if places is not None:
                cost = squared_distances(places[:, number], ctx.size)
            elif self.placement == "extreme":
                cost = self._extremeness(number, eligible, centres)
            elif self.placement == "corner_far":
                cost = -squared_distances(centres.double(), ctx.size)
            else:
                cost = ctx.heatmaps.values
            cost = torch.where(eligible, cost, torch.inf)
            best = cost.flatten(1).argmin(1)
            points.append(pixel_positions(best, ctx.size))
            found.append(eligible.flatten(1).any(1))
            eligible = eligible.clone()
            eligible.flatten(1)[torch.arange(len(ctx)), best] = False
        return torch.stack(points, 1), torch.stack(found, 1)

    def _eligible(self, ctx: PromptContext) -> Masks:
        """Find the pixels among which background points are chosen."""
        if self.placement in ("extreme", "ring"):
            return self.cold_pixels(ctx)
        eligible = torch.full_like(ctx.heatmaps.values, self.placement == "argmin", dtype=torch.bool)
        height, width = ctx.size
        for y, x in product((0, height - 1), (0, width - 1)):
            eligible[:, y, x] = True
        return eligible

    def _extremeness(self, number: int, cold: Tensor, centres: Tensor) -> Tensor:
        """Give a cost for each pixel: lower is more extreme in direction ``number``; decimals break ties."""
        height, width = cold.shape[-2:]
        y = torch.arange(height, dtype=torch.float64)[:, None].expand(height, width)
        x = torch.arange(width, dtype=torch.float64).expand(height, width)
        position = (y, height - 1 - y, x, width - 1 - x)[number % 4]
        along = (x, x, y, y)[number % 4]
        if self.tie == "first":  # scan order: along the row, or down the column
            return (position + along / (2 * max(height, width))).expand_as(cold)
        extreme = torch.where(cold, position, torch.inf).amin((1, 2), keepdim=True)
        tied = cold & (position == extreme)
        if self.tie == "median":
            places = torch.where(tied, along, torch.nan).flatten(1)
            middle = places.nanmedian(1).values[:, None, None]
            return torch.where(tied, (along - middle).abs(), torch.inf)
        return torch.where(tied, -squared_distances(centres.double(), (height, width)), torch.inf)

    def _ring(self, ctx: PromptContext, centres: Tensor) -> Float[Tensor, "batch points 2"]:
        """Find ``(x, y)`` px of the places on the ring, clockwise from the top; outside of the image too."""
        values = ctx.heatmaps.values.numpy()
        height, width = ctx.size
        reach = height + width
        steps = np.arange(0, reach, 0.5)
        angles = 2 * np.pi * np.arange(self.n) / self.n
        directions = np.stack([np.sin(angles), -np.cos(angles)], 1)
        places = np.zeros((len(values), self.n, 2), dtype=np.float32)
        for image, centre in enumerate(centres.numpy()):
            warm = np.pad(values[image] >= 0.5 * values[image].max(), reach)
            gap = ndimage.distance_transform_edt(~warm)
            ways = centre + steps[:, None, None] * directions  # (steps, n, 2)
            x, y = np.round(ways + reach).astype(int).clip(0, np.array(gap.shape[::-1]) - 1).transpose(2, 0, 1)
            far = gap[y, x] >= pixels(self.ring_distance, ctx.size)
            outermost = len(steps) - 1 - np.argmin(far[::-1], axis=0)  # the last step that is too near
            first = np.where(far.all(0), 0, np.minimum(outermost + 1, len(steps) - 1))
            places[image] = ways[first, np.arange(self.n)]
        return torch.from_numpy(places)
