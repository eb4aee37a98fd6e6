"""Foreground points with background points: what the reference report found to make masks worse."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from gradsam_exp.prompts.base import STRATEGIES, Fraction
from gradsam_exp.prompts.foreground import Foreground, point_prompts, warm_centres
from gradsam_exp.types import BACKGROUND, FOREGROUND, NO_POINT, PromptContext, Prompts

Tie = Literal["first", "median", "farthest"]
Placement = Literal["extreme", "ring"]


@STRATEGIES.register("fgbg")
@dataclass(frozen=True)
class ForegroundBackground(Foreground):
    """`Foreground` plus background points on the coldest parts of the heatmap.

    Cold pixels are those with heatmap < ``bg_threshold``. An image without any gets no background
    points; neither does one with an empty heatmap, of which nothing is known.

    Attributes:
        bg_threshold: see above; must lie below ``fg_threshold``.
        n: how many background points; 0 makes it `Foreground`.
        placement: ``extreme`` takes the top-most, bottom-most, left-most and right-most cold pixel, in
            that order and again from the start for more than four, each from the pixels not yet taken.
            ``ring`` takes the cold pixels nearest to a circle of ``ring_distance`` px around the warm
            region, at ``n`` evenly spaced directions.
        tie: which of several equally extreme pixels: the ``first`` in scan order (mostly an image
            corner), the ``median`` of them, or the one ``farthest`` from the foreground centre.
        ring_distance: gap in pixels between the warm region (≥ 0.5 of the maximum) and the ring.
    """

    bg_threshold: Fraction = 0.1
    n: Annotated[int, Field(ge=0)] = 4
    placement: Placement = "extreme"
    tie: Tie = "first"
    ring_distance: Annotated[float, Field(ge=0)] = 6.0

    @model_validator(mode="after")
    def _below(self) -> ForegroundBackground:
        if self.bg_threshold >= self.fg_threshold:
            raise ValueError(
                f"bg_threshold={self.bg_threshold} must be below fg_threshold={self.fg_threshold}, "
                "or warm pixels would be taken for background"
            )
        return self

    @property
    def ignored(self) -> frozenset[str]:
        """Each placement has a parameter of its own; without background points none matters."""
        own = {"bg_threshold", "placement", "tie", "ring_distance"}
        return super().ignored | (
            own if not self.n else {"ring_distance" if self.placement == "extreme" else "tie"}
        )

    def propose(self, ctx: PromptContext) -> Prompts:
        """One query per image: the foreground grid, then up to ``n`` background points."""
        foreground = self.foreground_points(ctx)
        if self.n == 0:
            return point_prompts(foreground)
        background, found = self.background_points(ctx)
        labels = torch.full((*foreground.shape[:2],), FOREGROUND)
        background_labels = torch.where(found.cpu(), BACKGROUND, NO_POINT)
        return Prompts(
            image_index=torch.arange(len(ctx)),
            points=torch.cat([foreground, background], 1),
            labels=torch.cat([labels, background_labels], 1),
        )

    def background_points(
        self, ctx: PromptContext
    ) -> tuple[Float[Tensor, "batch points 2"], Bool[Tensor, "batch points"]]:
        """``(x, y)`` px of the background points, and which of them exist."""
        cold = (ctx.heatmaps.values < self.bg_threshold) & ~ctx.heatmaps.empty[:, None, None]
        centres = warm_centres(ctx.heatmaps, self.fg_threshold, self.region, self.weighting)
        points, found = [], []
        for number in range(self.n):
            if self.placement == "extreme":
                cost = self._extremeness(number, cold, centres)
            else:
                cost = self._off_ring(number, ctx, centres)
            cost = torch.where(cold, cost, torch.inf)
            best = cost.flatten(1).argmin(1)
            width = cold.shape[-1]
            points.append(torch.stack([best % width, best // width], 1).float())
            found.append(cold.flatten(1).any(1))
            cold = cold.clone()
            cold.flatten(1)[torch.arange(len(ctx)), best] = False
        return torch.stack(points, 1), torch.stack(found, 1)

    def _extremeness(self, number: int, cold: Tensor, centres: Tensor) -> Tensor:
        """Lower is more extreme in direction ``number``; ties are broken by the decimals."""
        height, width = cold.shape[-2:]
        y = torch.arange(height, device=cold.device, dtype=torch.float64)[:, None].expand(height, width)
        x = torch.arange(width, device=cold.device, dtype=torch.float64).expand(height, width)
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
        distance = (x - centres[:, 0, None, None]).square() + (y - centres[:, 1, None, None]).square()
        return torch.where(tied, -distance, torch.inf)

    def _off_ring(self, number: int, ctx: PromptContext, centres: Tensor) -> Tensor:
        """Squared distance of every pixel from place ``number`` on the ring around the warm region."""
        values = ctx.heatmaps.values
        height, width = values.shape[-2:]
        warm = values >= 0.5 * values.amax((1, 2), keepdim=True)
        radius = (warm.sum((1, 2)) / torch.pi).sqrt() + self.ring_distance
        angle = torch.tensor(2 * torch.pi * number / self.n)
        place_x = centres[:, 0] + radius * angle.sin()
        place_y = centres[:, 1] - radius * angle.cos()
        y = torch.arange(height, device=values.device)[None, :, None]
        x = torch.arange(width, device=values.device)[None, None, :]
        return (x - place_x[:, None, None]).square() + (y - place_y[:, None, None]).square()
