"""These metrics say in which way a mask is wrong: too large, too small, or spread over what is beside it."""

from typing import Annotated

import torch
from pydantic import Field

from gradsam_exp.metrics.base import METRICS, ExampleMetric
from gradsam_exp.overlap import only_counted
from gradsam_exp.types import Masks, PerImage


@METRICS.register("mask_precision")
class MaskPrecision(ExampleMetric):
    """Mask precision is the share of a mask that lies on the object, in [0, 1]; an empty mask has none.

    Only pixels that count are looked at.

    >>> import torch
    >>> metric = MaskPrecision()
    >>> metric.update(torch.tensor([[[True, True]]]), torch.tensor([[[True, False]]]))
    >>> float(metric.compute())
    0.5
    """

    name, title, group = "mask_precision", "mask precision", "masks"
    needs = ("masks", "truth", "counted")
    higher_is_better = True

    def measure(self, masks: Masks, truth: Masks, counted: Masks | None = None) -> PerImage:
        """Compute the precision of each image's mask; NaN for an empty one."""
        masks, truth = only_counted(masks, truth, counted=counted)
        return _share(masks & truth, masks)


@METRICS.register("mask_recall")
class MaskRecall(ExampleMetric):
    """Mask recall is the share of the object that a mask covers, in [0, 1]; an empty object has none.

    Only pixels that count are looked at.

    >>> import torch
    >>> metric = MaskRecall()
    >>> metric.update(torch.tensor([[[True, False]]]), torch.tensor([[[True, True]]]))
    >>> float(metric.compute())
    0.5
    """

    name, title, group = "mask_recall", "mask recall", "masks"
    needs = ("masks", "truth", "counted")
    higher_is_better = True

    def measure(self, masks: Masks, truth: Masks, counted: Masks | None = None) -> PerImage:
        """Compute the recall of each image's mask; NaN for an empty object."""
        masks, truth = only_counted(masks, truth, counted=counted)
        return _share(masks & truth, truth)


@METRICS.register("leak_rate")
class LeakRate(ExampleMetric):
    """The leak rate is the share of the images whose mask covers the object and much that is not the object.

    A mask leaks if it covers more than half of the object, and pixels beside the object that are more than
    ``share`` of the object's area. A mask of something else altogether misses, it does not leak.

    Args:
        share: of the object's area.

    >>> import torch
    >>> metric = LeakRate()
    >>> metric.update(torch.tensor([[[True, True, True]]]), torch.tensor([[[True, False, False]]]))
    >>> float(metric.compute())
    1.0
    """

    name, title, group = "leak_rate", "leak rate", "masks"
    needs = ("masks", "truth", "counted")
    higher_is_better = False

    def __init__(self, share: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.share = share

    def measure(self, masks: Masks, truth: Masks, counted: Masks | None = None) -> PerImage:
        """Tell of each image whether its mask leaks, 1 or 0; NaN for an empty object."""
        masks, truth = only_counted(masks, truth, counted=counted)
        beside = (masks & ~truth).sum((1, 2)).double() / truth.sum((1, 2)).clamp(min=1)
        leaks = (_share(masks & truth, truth) > 0.5) & (beside > self.share)
        return torch.where(truth.flatten(1).any(1), leaks.double(), torch.nan)


def _share(part: Masks, whole: Masks) -> PerImage:
    area = whole.sum((1, 2)).double()
    return torch.where(area > 0, part.sum((1, 2)) / area, torch.nan)
