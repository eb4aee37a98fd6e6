"""A mask selector chooses, for every image, which of the segmenter's candidate masks are kept."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from gradsam_exp.registry import Registry
from gradsam_exp.types import Choice, PromptContext, Segmentation


@runtime_checkable
class MaskSelector(Protocol):
    """Chooses among all candidate masks of an image."""

    needs_truth: ClassVar[bool]

    def __call__(self, ctx: PromptContext, segmentation: Segmentation) -> Choice:
        """One choice per image of the batch that ``ctx`` describes."""


SELECTORS: Registry[MaskSelector] = Registry("selector", "gradsam_exp.selectors")


def best_by(values: Float[Tensor, "queries candidates"], segmentation: Segmentation) -> Choice:
    """The candidate with the largest value for each image that has a query; the first of several equal ones.

    Args:
        values: −inf rules a candidate out.
        segmentation: what the candidates are of.
    """
    per_query, candidates = (tensor.cpu() for tensor in values.max(1)) if len(values) else (values, values)
    images = segmentation.image_index.unique()
    query = torch.zeros_like(images)
    for k, image in enumerate(images):
        own = torch.nonzero(segmentation.image_index == image).flatten()
        query[k] = own[per_query[own].argmax()]
    chosen = candidates[query] if len(query) else torch.zeros_like(query)
    return Choice(images, query, chosen, segmentation.predicted_iou.cpu()[query, chosen])


def candidates_only(values: Float[Tensor, "queries candidates"]) -> Float[Tensor, "queries candidates"]:
    """The values with −inf for candidate 0, SAM's single-mask output, which is not one of the alternatives."""
    return torch.cat([torch.full_like(values[:, :1], -torch.inf), values[:, 1:]], 1)
