"""Yardsticks that ignore the heatmap: a lower bound and an upper one."""

from __future__ import annotations

import torch
from pydantic.dataclasses import dataclass

from gradsam_exp.prompts.base import STRATEGIES, PromptStrategy
from gradsam_exp.prompts.foreground import centre_of_mass, point_prompts
from gradsam_exp.types import PromptContext, Prompts


@STRATEGIES.register("center")
@dataclass(frozen=True)
class Center(PromptStrategy):
    """One foreground point at the image's centre: what a prompt is worth that knows nothing."""

    def propose(self, ctx: PromptContext) -> Prompts:
        """One query of one point per image."""
        return point_prompts(ctx.centre.expand(len(ctx), 1, 2))


@STRATEGIES.register("oracle")
@dataclass(frozen=True)
class Oracle(PromptStrategy):
    """One foreground point at the true mask's centre of mass: an upper bound, not a method.

    If the centre of mass lies outside the mask (a ring, say), the mask's pixel nearest to it is taken;
    an empty mask gets the image's centre.
    """

    needs_truth = True

    def propose(self, ctx: PromptContext) -> Prompts:
        """One query of one point per image."""
        if ctx.masks is None:
            raise ValueError("the oracle strategy needs true masks")
        masks = ctx.masks.double()
        height, width = ctx.size
        centres = centre_of_mass(masks)
        y = torch.arange(height, device=masks.device)[None, :, None]
        x = torch.arange(width, device=masks.device)[None, None, :]
        distance = (x - centres[:, 0, None, None]).square() + (y - centres[:, 1, None, None]).square()
        nearest = torch.where(ctx.masks, distance, torch.inf).flatten(1).argmin(1)
        on_mask = torch.stack([nearest % width, nearest // width], 1).double()
        rounded = centres.round().nan_to_num().long()
        rows = torch.arange(len(ctx), device=masks.device)
        inside = ctx.masks[rows, rounded[:, 1], rounded[:, 0]]
        points = torch.where(inside[:, None], centres, on_mask)
        empty = ~ctx.masks.flatten(1).any(1)
        points = torch.where(empty[:, None], ctx.centre.to(points), points)
        return point_prompts(points.float()[:, None])
