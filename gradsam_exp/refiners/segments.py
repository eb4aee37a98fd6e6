"""This refiner gives each mask that a segmenter finds in an image its mean heat."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from gradsam_exp.refiners.base import REFINERS, Heat, Picture, Refiner
from gradsam_exp.types import EverythingMode, MaskSet

Share = Annotated[float, Field(ge=0, le=1)]


@REFINERS.register("segments")
@dataclass(frozen=True)
class Segments(Refiner):
    """Segments gives each pixel the mean heat of a mask that the segmenter finds in its everything mode.

    Common practice since the Segment Anything Model; superpixels whose borders are a segmenter's. Pixels that are
    in no mask keep their heat.

    Attributes:
        overlap: of the masks that a pixel is in, the ``smallest`` counts, the ``largest``, or the ``mean`` of all.
        points_per_side, pred_iou_thresh, stability_score_thresh, box_nms_thresh: of `EverythingMode`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"everything"})

    overlap: Literal["smallest", "largest", "mean"] = "smallest"
    points_per_side: Annotated[int, Field(ge=1, le=128)] = EverythingMode.points_per_side
    pred_iou_thresh: Share = EverythingMode.pred_iou_thresh
    stability_score_thresh: Share = EverythingMode.stability_score_thresh
    box_nms_thresh: Share = EverythingMode.box_nms_thresh

    @property
    def everything(self) -> EverythingMode:  # type: ignore[override]
        """See `Refiner.everything`."""
        return EverythingMode(
            self.points_per_side, self.pred_iou_thresh, self.stability_score_thresh, self.box_nms_thresh
        )

    def refine(self, image: Picture, heat: Heat, everything: MaskSet | None = None) -> Heat:
        """Average the heat in each mask; without any, the heatmap is given back as it is."""
        del image
        assert everything is not None  # it is needed
        masks = everything.masks.numpy()
        areas = masks.sum((1, 2))
        means = (masks * heat).sum((1, 2)) / np.maximum(areas, 1)
        if self.overlap == "mean":
            covers = masks.sum(0)
            return np.where(covers > 0, np.tensordot(means, masks, 1) / np.maximum(covers, 1), heat)
        found = heat.copy()
        for number in np.argsort(-areas if self.overlap == "smallest" else areas, kind="stable"):
            found[masks[number]] = means[number]  # over those painted before
        return found
