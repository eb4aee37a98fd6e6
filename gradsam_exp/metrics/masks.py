"""Intersection over union of the predicted and the true masks."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from gradsam_exp.metrics.base import METRICS, ExampleMetric
from gradsam_exp.overlap import iou


@METRICS.register("miou")
class MeanMaskIoU(ExampleMetric):
    """Intersection over union of each image's two masks, averaged over images, in [0, 1]; two empty masks have 1.

    >>> import torch
    >>> metric = MeanMaskIoU()
    >>> metric.update(torch.tensor([[[True, True]]]), torch.tensor([[[True, False]]]))
    >>> float(metric.compute())
    0.5
    """

    name, column, title, group = "miou", "iou", "mIoU", "masks"
    needs = ("masks", "truth")
    higher_is_better = True

    def measure(
        self, masks: Bool[Tensor, "batch height width"], truth: Bool[Tensor, "batch height width"]
    ) -> Float[Tensor, " batch"]:
        """IoU of each image."""
        return iou(masks, truth)
