"""This metric scores the class maps that images' masks make together, as weakly supervised segmentation does."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsam_exp.metrics.base import METRICS, DatasetMetric, mean_share
from gradsam_exp.types import Heatmaps, Masks, PerImage

BACKGROUND = "background"
IGNORED = -1


def merge_scores(
    masks: Masks, heatmaps: Heatmaps, predicted_iou: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Score each mask by its predicted IoU × the mean heat on it, in [0, 1]; 0 for an empty mask.

    A mask of a segmenter that predicts no IoU (NaN) is scored by its mean heat.
    """
    area = masks.flatten(1).sum(1).clamp(min=1).double()
    heat = (heatmaps.values.double() * masks).flatten(1).sum(1)
    return predicted_iou.double().nan_to_num(nan=1.0) * heat / area


def merged(masks: Masks, classes: Int[Tensor, " batch"], scores: PerImage) -> Int[Tensor, "height width"]:
    """Merge the masks of one image into a class map: each pixel's class is that of the best mask that covers it.

    Args:
        classes: of each mask, 1 or more.
        scores: larger is better; of equal ones the first mask is on top.

    Returns:
        0 where there is no mask.
    """
    result = torch.zeros(masks.shape[1:], dtype=torch.long)
    for k in scores.argsort(descending=True, stable=True).flip(0).tolist():
        result[masks[k]] = classes[k]
    return result


@METRICS.register("class_miou")
class ClassMeanIoU(DatasetMetric):
    """Class mIoU is the mean over the classes and the background of their IoU in all images together, in [0, 1].

    PASCAL VOC's measure (Everingham et al., IJCV 2015, section 4.2.2): one confusion matrix of all pixels that
    count; a class has its true positives over these, its false positives and false negatives. A class that is
    neither in the truth nor predicted does not count.

    The masks of an image's examples are merged into one class map, see `merged` and `merge_scores`; each has the
    class that its heatmap explains. Of true masks that overlap the smaller one is on top. A pixel counts if it
    does for all examples of its image; those of a mask without a class do not.
    """

    name, title, group = "class_miou", "class mIoU", "masks"
    needs = ("masks", "truth", "heatmaps", "labels", "counted")
    higher_is_better = True
    COUNTS = ("both_px", "predicted_px", "true_px")

    def tally(self, known: Mapping[str, Any]) -> list[dict[str, Any]]:
        """See `DatasetMetric.tally`."""
        truth, labels, counted = known["truth"], known["labels"], known.get("counted")
        names = (BACKGROUND, *known["class_names"])
        examples: dict[str, list[int]] = {}
        for k, image in enumerate(known["image_ids"]):
            examples.setdefault(image, []).append(k)
        rows = []
        for image, own in examples.items():
            predicted = merged(known["masks"][own], known["heatmaps"].targets[own] + 1, known["scores"][own])
            areas = truth[own].flatten(1).sum(1)
            classes = torch.where(labels[own] >= 0, labels[own] + 1, IGNORED)
            true = merged(truth[own], classes, -areas.double())
            counts = true != IGNORED
            if counted is not None:
                counts &= counted[own].all(0)
            predicted, true = predicted[counts], true[counts]
            sums = [
                torch.bincount(part, minlength=len(names)) for part in (true[true == predicted], predicted, true)
            ]
            for part in torch.stack(sums).any(0).nonzero().flatten().tolist():
                numbers = zip(self.COUNTS, (int(one[part]) for one in sums), strict=True)
                rows.append({"image_id": image, "part": names[part], **dict(numbers)})
        return rows

    def figures(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `DatasetMetric.figures`."""
        both, predicted, true = np.moveaxis(counts.astype(np.float64), -1, 0)
        return mean_share(both, predicted + true - both)
