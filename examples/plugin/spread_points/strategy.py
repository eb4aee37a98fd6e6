"""Chooses foreground points that lie far apart: farthest-point sampling (Gonzalez 1985) of the warm pixels."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from gradsam_exp.prompts.base import STRATEGIES, Fraction, PromptStrategy
from gradsam_exp.prompts.foreground import point_prompts
from gradsam_exp.types import PromptContext, Prompts


@STRATEGIES.register("spread")
@dataclass(frozen=True)
class SpreadPoints(PromptStrategy):
    """Clicks the hottest pixel, and then again and again the warm pixel farthest from all that were clicked.

    Attributes:
        points: foreground points for each image; where there are fewer warm pixels, some are clicked twice.
        fg_threshold: warm pixels have at least this share of the heatmap's maximum; in an empty heatmap all are.
    """

    points: Annotated[int, Field(ge=1)] = 4
    fg_threshold: Fraction = 0.8

    def propose(self, ctx: PromptContext) -> Prompts:
        """Give one query of ``points`` foreground points for each image."""
        return point_prompts(torch.stack([self._spread(values) for values in ctx.heatmaps.values.cpu()]))

    def _spread(self, values: Tensor) -> Tensor:
        """Choose the points ``(points, 2)``, x before y, of one heatmap ``(height, width)``."""
        rows, columns = torch.nonzero(values >= self.fg_threshold * values.max(), as_tuple=True)
        warm = torch.stack([columns, rows], 1).float()  # in the order of reading: of equally far ones the first
        chosen = [int(values[rows, columns].argmax())]
        nearest = torch.full((len(warm),), torch.inf)
        while len(chosen) < self.points:
            nearest = torch.minimum(nearest, (warm - warm[chosen[-1]]).norm(dim=1))
            chosen.append(int(nearest.argmax()))
        return warm[chosen]
