"""How good is the mask?"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gradsam_exp.metrics.base import PerImageMetric


def mask_iou(
    predicted: Bool[Tensor, "batch height width"], truth: Bool[Tensor, "batch height width"]
) -> Float[Tensor, " batch"]:
    """Intersection over union of each pair; two empty masks have IoU 1."""
    intersection = (predicted & truth).sum((1, 2)).double()
    union = (predicted | truth).sum((1, 2)).double()
    return torch.where(union > 0, intersection / union.clamp(min=1), 1.0)


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
