"""Selection by SAM's own predicted IoU."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from gradsam_exp.selectors.base import SELECTORS, best_by, candidates_only
from gradsam_exp.types import Choice, PromptContext, Segmentation


@SELECTORS.register("predicted_iou")
@dataclass(frozen=True)
class PredictedIoU:
    """The best-scored of the three candidates, as the reference pipeline does."""

    needs_truth: ClassVar[bool] = False

    def __call__(self, ctx: PromptContext, segmentation: Segmentation) -> Choice:
        """See `MaskSelector.__call__`."""
        del ctx
        return best_by(candidates_only(segmentation.predicted_iou), segmentation)


@SELECTORS.register("single")
@dataclass(frozen=True)
class SingleMask:
    """SAM's single-mask output, which its authors recommend for several points."""

    needs_truth: ClassVar[bool] = False

    def __call__(self, ctx: PromptContext, segmentation: Segmentation) -> Choice:
        """See `MaskSelector.__call__`."""
        del ctx
        values = segmentation.predicted_iou
        single = torch.zeros(len(values), dtype=torch.long) if segmentation.single is None else segmentation.single
        own = torch.arange(values.shape[1], device=values.device) == single.to(values.device)[:, None]
        return best_by(torch.where(own, values, -torch.inf), segmentation)
