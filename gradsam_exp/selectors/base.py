"""What a mask selector is: it picks one query's one mask token for every image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsam_exp.registry import Registry
from gradsam_exp.types import PromptContext, Segmentation


@dataclass(frozen=True)
class Choice:
    """The mask kept for each image.

    Attributes:
        query: row of the segmentation, −1 for an image that had no query.
        token: mask token 0..3 of that row (0 is SAM's single-mask output).
        score: its predicted IoU; 0 without a query.
    """

    query: Int[Tensor, " batch"]
    token: Int[Tensor, " batch"]
    score: Float[Tensor, " batch"]


@runtime_checkable
class MaskSelector(Protocol):
    """Chooses among all candidate masks of an image."""

    needs_truth: ClassVar[bool]

    def __call__(self, ctx: PromptContext, segmentation: Segmentation) -> Choice:
        """One choice per image of the batch that ``ctx`` describes."""


SELECTORS: Registry[MaskSelector] = Registry("selector", "gradsam_exp.selectors")


def best_by(values: Float[Tensor, "queries 4"], segmentation: Segmentation, batch: int) -> Choice:
    """The candidate with the largest value for each image; −inf rules a candidate out. First wins ties."""
    rows = segmentation.image_index.to(values.device)
    per_query, token = values.max(1)
    query = torch.full((batch,), -1, device=values.device)
    for image in range(batch):
        own = torch.nonzero(rows == image).flatten()
        if len(own):
            query[image] = own[per_query[own].argmax()]
    found = query >= 0
    safe = query.clamp(min=0)
    if not len(values):
        nothing = torch.zeros(batch, device=values.device)
        return Choice(query, nothing.long(), nothing)
    chosen = token[safe]
    score = segmentation.scores[safe, chosen]
    return Choice(query, torch.where(found, chosen, 0), torch.where(found, score, 0.0))


def candidates_only(values: Float[Tensor, "queries 4"]) -> Float[Tensor, "queries 4"]:
    """Rules token 0, the single-mask output, out: it is not one of the three candidates."""
    return torch.cat([torch.full_like(values[:, :1], -torch.inf), values[:, 1:]], 1)
