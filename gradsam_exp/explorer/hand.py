"""This strategy asks with prompts that a person has given on the page; it is chosen by nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gradsam_exp.explorer.choices import ByHand
from gradsam_exp.prompts.base import PromptStrategy
from gradsam_exp.types import PromptContext, Prompts


@dataclass(frozen=True)
class Handmade(PromptStrategy):
    """Handmade asks about one example of the batch with the prompts given.

    Attributes:
        given: the prompts, clipped to the image.
        example: row of the example.
    """

    given: ByHand
    example: int

    @property
    def asked(self) -> frozenset[str]:
        """Name the kinds of prompts that were given."""
        return frozenset((["points"] if self.given.points else []) + (["boxes"] if self.given.box else []))

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query with all points and the box, or none if there is neither."""
        height, width = ctx.size
        last = torch.tensor([width - 1.0, height - 1.0])
        queries = 1 if self.asked else 0
        rows = torch.tensor(self.given.points, dtype=torch.float32).reshape(1, -1, 3)[:queries]
        boxes = None
        if self.given.box is not None:
            corners = torch.tensor(self.given.box).view(2, 2).clamp(min=0).minimum(last).sort(0).values
            boxes = corners.reshape(1, 4)
        return Prompts(
            example_index=torch.full((queries,), self.example),
            points=rows[..., :2].clamp(min=0).minimum(last),
            labels=rows[..., 2].long(),
            boxes=boxes,
        )
