"""How good is the mask?"""

from __future__ import annotations

from torch import Tensor

from gradsam_exp.metrics.base import ExampleMetric
from gradsam_exp.overlap import iou


class MeanMaskIoU(ExampleMetric):
    """IoU per image, averaged over images (mIoU), in [0, 1].

    >>> import torch
    >>> metric = MeanMaskIoU()
    >>> metric.update(torch.tensor([[[True, True]]]), torch.tensor([[[True, False]]]))
    >>> float(metric.compute())
    0.5
    """

    higher_is_better = True

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Add a batch of bool masks ``(batch, height, width)``; two empty masks have IoU 1."""
        self.record(iou(predicted, truth))
