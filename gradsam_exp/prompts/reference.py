"""These baselines use no heatmap: the image's centre, or points and a box from the true mask (upper bounds)."""

from dataclasses import replace
from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from gradsam_exp.prompts.base import GRID_OFFSET, GRID_SIZE, STRATEGIES, Length, OddInt, PromptStrategy
from gradsam_exp.prompts.foreground import (
    Foreground,
    centre_of_mass,
    pixel_positions,
    point_prompts,
    squared_distances,
)
from gradsam_exp.prompts.regions import bounding_boxes, box_prompts
from gradsam_exp.types import Masks, PromptContext, Prompts


@STRATEGIES.register("center")
@dataclass(frozen=True)
class Center(PromptStrategy):
    """Center clicks the image's centre: what a prompt is worth that knows nothing."""

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query of one point per image."""
        return point_prompts(ctx.centre.expand(len(ctx), 1, 2))


@STRATEGIES.register("oracle")
@dataclass(frozen=True)
class Oracle(PromptStrategy):
    """Oracle clicks the true mask's centre of mass: an upper bound, not a method.

    If the centre of mass lies outside the mask (a ring, say), the mask's pixel nearest to it is taken;
    an empty mask gets the image's centre.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"truth"})

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query of one point per image."""
        truth = _truth(ctx)
        masks = truth.double()
        centres = centre_of_mass(masks)
        nearest = torch.where(truth, squared_distances(centres, ctx.size), torch.inf).flatten(1).argmin(1)
        on_mask = pixel_positions(nearest, ctx.size).double()
        rounded = centres.round().nan_to_num().long()
        rows = torch.arange(len(ctx))
        inside = truth[rows, rounded[:, 1], rounded[:, 0]]
        points = torch.where(inside[:, None], centres, on_mask)
        empty = ~truth.flatten(1).any(1)
        points = torch.where(empty[:, None], ctx.centre.double(), points)
        return point_prompts(points.float()[:, None])


@STRATEGIES.register("oracle_heatmap")
@dataclass(frozen=True)
class OracleHeatmap(PromptStrategy):
    """OracleHeatmap places the points of `Foreground` as if the true mask were the heatmap.

    It is an upper bound, not a method. Against `Foreground` it says what the heatmap costs, against `Oracle` what
    these points cost. An empty mask gets the image's centre.

    Attributes:
        grid_size, grid_offset: as those of `Foreground`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"truth"})

    grid_size: OddInt = GRID_SIZE
    grid_offset: Length = GRID_OFFSET

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query of a grid of points per image."""
        truth = _truth(ctx)
        perfect = replace(ctx.heatmaps, values=truth.float(), empty=~truth.flatten(1).any(1))
        points = Foreground(grid_size=self.grid_size, grid_offset=self.grid_offset)
        return points.propose(replace(ctx, heatmaps=perfect))


@STRATEGIES.register("oracle_box")
@dataclass(frozen=True)
class OracleBox(PromptStrategy):
    """OracleBox gives the true mask's bounding box, the most that any box can say: an upper bound, not a method.

    An empty mask gets the whole image.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"boxes"})
    needs: ClassVar[frozenset[str]] = frozenset({"truth"})

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query of one box per image."""
        return box_prompts(bounding_boxes(_truth(ctx)))


def _truth(ctx: PromptContext) -> Masks:
    if ctx.masks is None:
        raise ValueError("an oracle strategy needs true masks")
    return ctx.masks
