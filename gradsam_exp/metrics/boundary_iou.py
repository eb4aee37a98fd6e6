"""This metric compares the masks' boundaries: it is sensitive to contours where mask IoU is to areas."""

import math
from typing import Annotated, Any

from pydantic import Field
from torch.nn.functional import max_pool2d, pad

from gradsam_exp.metrics.base import METRICS, ExampleMetric
from gradsam_exp.overlap import iou, only_counted
from gradsam_exp.types import Masks, PerImage


def boundary(masks: Masks, distance: int, counted: Masks | None = None) -> Masks:
    """Find the pixels of each mask that are at most ``distance`` px from its outside, or from the image's border.

    Distances are the larger of those along x and y: as many erosions by 3×3 pixels, the outside of the image
    counting as background. Pixels that are not ``counted`` are neither in a mask nor outside of it: the edge of
    what does not count is no boundary.
    """
    masks, around = only_counted(masks, ~masks, counted=counted)
    outside = pad(around[:, None].float(), (distance,) * 4, value=1.0)
    side = 2 * distance + 1
    near = max_pool2d(max_pool2d(outside, (side, 1), 1), (1, side), 1)[:, 0]
    return masks & (near > 0)


@METRICS.register("boundary_iou")
class BoundaryIoU(ExampleMetric):
    """Boundary IoU is the IoU of the two masks' boundaries, in [0, 1]; two empty masks have 1.

    Cheng et al. (CVPR 2021).

    Args:
        dilation: width of the boundary as a share of the image's diagonal, rounded to pixels, at least 1 px; the
            paper's is 0.02.
    """

    name, title, group = "boundary_iou", "boundary IoU", "masks"
    needs = ("masks", "truth", "counted")
    higher_is_better = True

    def __init__(self, dilation: Annotated[float, Field(gt=0, le=1)] = 0.02, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dilation = dilation

    def measure(self, masks: Masks, truth: Masks, counted: Masks | None = None) -> PerImage:
        """Compute the IoU of each image's two boundaries."""
        distance = max(1, round(self.dilation * math.hypot(*masks.shape[-2:])))
        return iou(boundary(masks, distance, counted), boundary(truth, distance, counted))
