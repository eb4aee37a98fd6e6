"""How good is the mask?"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from gradsam_exp.metrics.base import PerImageMetric
from gradsam_exp.overlap import iou


def mask_iou(
    predicted: Bool[Tensor, "batch height width"], truth: Bool[Tensor, "batch height width"]
) -> Float[Tensor, " batch"]:
    """Intersection over union of each pair; two empty masks have IoU 1."""
    return iou(predicted, truth)


class MeanMaskIoU(PerImageMetric):
    """IoU per image, averaged over images (mIoU), in [0, 1].

    >>> import torch
    >>> metric = MeanMaskIoU()
    >>> metric.update(torch.tensor([[[True, True]]]), torch.tensor([[[True, False]]]))
    >>> float(metric.compute())
    0.5
    """

    higher_is_better = True

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Add a batch; see `mask_iou`."""
        self.record(mask_iou(predicted, truth))
