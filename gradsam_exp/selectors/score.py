"""These selectors follow the segmenter's own judgement: its predicted IoU, or its single-mask output."""

import torch
from pydantic.dataclasses import dataclass

from gradsam_exp.selectors.base import SELECTORS, MaskSelector, best_by, candidates_only
from gradsam_exp.types import Choice, PromptContext, Segmentation


@SELECTORS.register("predicted_iou")
@dataclass(frozen=True)
class PredictedIoU(MaskSelector):
    """PredictedIoU keeps the candidate with the largest predicted IoU, as the reference report does."""

    def __call__(self, ctx: PromptContext, segmentation: Segmentation) -> Choice:
        """Choose for each image, see `MaskSelector.__call__`."""
        del ctx
        return best_by(candidates_only(segmentation.predicted_iou), segmentation)


@SELECTORS.register("single")
@dataclass(frozen=True)
class SingleMask(MaskSelector):
    """SingleMask keeps the segmenter's single-mask output, which SAM's authors recommend for several points."""

    def __call__(self, ctx: PromptContext, segmentation: Segmentation) -> Choice:
        """Choose for each image, see `MaskSelector.__call__`."""
        del ctx
        values = segmentation.predicted_iou
        single = segmentation.single
        if single is None:
            single = torch.zeros(len(values), dtype=torch.long, device=values.device)
        own = torch.arange(values.shape[1], device=values.device) == single[:, None]
        return best_by(torch.where(own, values, -torch.inf), segmentation)
