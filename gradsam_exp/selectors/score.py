"""Selection by SAM's own predicted IoU."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from gradsam_exp.selectors.base import SELECTORS, Choice, best_by
from gradsam_exp.types import Heatmaps, Segmentation


@SELECTORS.register("predicted_iou")
@dataclass(frozen=True)
class PredictedIoU:
    """The best-scored of the three candidates, as the reference pipeline does."""

    needs_truth: ClassVar[bool] = False

    def __call__(self, heatmaps: Heatmaps, segmentation: Segmentation) -> Choice:
        """See `MaskSelector.__call__`."""
        scores = segmentation.scores.clone()
        scores[:, 0] = -torch.inf  # token 0 is the single-mask output, not one of the three
        return best_by(scores, segmentation, len(heatmaps))


@SELECTORS.register("single")
@dataclass(frozen=True)
class SingleMask:
    """SAM's single-mask output, which its authors recommend for several points."""

    needs_truth: ClassVar[bool] = False

    def __call__(self, heatmaps: Heatmaps, segmentation: Segmentation) -> Choice:
        """See `MaskSelector.__call__`."""
        scores = segmentation.scores.clone()
        scores[:, 1:] = -torch.inf
        return best_by(scores, segmentation, len(heatmaps))
