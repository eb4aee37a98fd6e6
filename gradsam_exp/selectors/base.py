"""This module says what a mask selector is, and holds the registry of them.

A `Segmentation` is on the segmenter's device, the rest of what a selector sees, and its `Choice`, on the CPU.
"""

from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from gradsam_exp.registry import Registry
from gradsam_exp.types import Choice, PromptContext, Segmentation


@runtime_checkable
class MaskSelector(Protocol):
    """A mask selector chooses, for every image, which of the candidate masks are kept."""

    needs_truth: ClassVar[bool] = False

    def __call__(self, ctx: PromptContext, segmentation: Segmentation) -> Choice:
        """Choose for each image of the batch that ``ctx`` describes.

        Returns:
            On the CPU: no row for an image without a query, else one, or several whose masks are united.
        """


SELECTORS: Registry[MaskSelector] = Registry("selector", "gradsam_exp.selectors")


def best_by(values: Float[Tensor, "queries candidates"], segmentation: Segmentation) -> Choice:
    """Choose the candidate with the largest value for each image that has a query, the first of equal ones.

    Args:
        values: of each candidate, on any device; −inf rules it out.
        segmentation: the candidates.
    """
    values = values.cpu()
    per_query, candidates = values.max(1) if len(values) else (values, values)
    images = segmentation.example_index.unique()
    query = torch.zeros_like(images)
    for k, image in enumerate(images):
        own = torch.nonzero(segmentation.example_index == image).flatten()
        query[k] = own[per_query[own].argmax()]
    chosen = candidates[query] if len(query) else torch.zeros_like(query)
    return Choice(images, query, chosen, segmentation.predicted_iou.cpu()[query, chosen])


def candidates_only(values: Float[Tensor, "queries candidates"]) -> Float[Tensor, "queries candidates"]:
    """Rule out candidate 0, SAM's single-mask output, by the value −inf where there are alternatives to it."""
    if values.shape[1] == 1:
        return values
    return torch.cat([torch.full_like(values[:, :1], -torch.inf), values[:, 1:]], 1)
