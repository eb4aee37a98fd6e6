"""This metric compares the predicted and the true masks by their intersection over union."""

from gradsam_exp.metrics.base import METRICS, ExampleMetric
from gradsam_exp.overlap import iou, only_counted
from gradsam_exp.types import Masks, PerImage


@METRICS.register("miou")
class MeanMaskIoU(ExampleMetric):
    """Mask IoU is the intersection over union of an image's two masks, in [0, 1]; two empty masks have 1.

    Only pixels that count are looked at.

    >>> import torch
    >>> metric = MeanMaskIoU()
    >>> metric.update(torch.tensor([[[True, True]]]), torch.tensor([[[True, False]]]))
    >>> float(metric.compute())
    0.5
    """

    name, column, title, group = "miou", "iou", "mIoU", "masks"
    needs = ("masks", "truth", "counted")
    higher_is_better = True

    def measure(self, masks: Masks, truth: Masks, counted: Masks | None = None) -> PerImage:
        """Compute the IoU of each image."""
        return iou(*only_counted(masks, truth, counted=counted))
