"""Selection by SAM's own predicted IoU."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from gradsam_exp.selectors.base import SELECTORS, Choice, best_by, candidates_only
from gradsam_exp.types import PromptContext, Segmentation


@SELECTORS.register("predicted_iou")
@dataclass(frozen=True)
class PredictedIoU:
    """The best-scored of the three candidates, as the reference pipeline does."""

    needs_truth: ClassVar[bool] = False

    def __call__(self, ctx: PromptContext, segmentation: Segmentation) -> Choice:
        """See `MaskSelector.__call__`."""
        return best_by(candidates_only(segmentation.scores), segmentation, len(ctx.heatmaps))


@SELECTORS.register("single")
@dataclass(frozen=True)
class SingleMask:
    """SAM's single-mask output, which its authors recommend for several points."""

    needs_truth: ClassVar[bool] = False

    def __call__(self, ctx: PromptContext, segmentation: Segmentation) -> Choice:
        """See `MaskSelector.__call__`."""
        scores = segmentation.scores.clone()
        scores[:, 1:] = -torch.inf
        return best_by(scores, segmentation, len(ctx.heatmaps))
