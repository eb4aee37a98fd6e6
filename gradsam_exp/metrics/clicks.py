"""These metrics say how good masks are after some clicks, and how many clicks a good mask takes."""

from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from gradsam_exp.metrics.base import METRICS, ExampleMetric
from gradsam_exp.types import Masks, PerImage

RoundIoUs = Float[Tensor, "batch rounds"]


class ClickMetric(ExampleMetric):
    """A click metric looks at the IoU after each click of ``pipeline=robot_user``; without these it has no value.

    Sofiiuk et al., *Reviving Iterative Training with Mask Guidance* (RITM, ICIP 2022, section 4). An image whose
    mask has no error left gets no more clicks, and keeps its IoU.
    """

    group = "masks"
    needs = ("round_ious", "counted")


class IoUAtClick(ClickMetric):
    """The IoU after a number of clicks, in [0, 1]."""

    higher_is_better = True
    clicks: ClassVar[int]

    def measure(self, round_ious: RoundIoUs, counted: Masks | None = None) -> PerImage:
        """Take each image's IoU after that click, or after its last."""
        del counted
        return round_ious[:, min(self.clicks, round_ious.shape[1]) - 1]


@METRICS.register("miou_at_1")
class IoUAt1(IoUAtClick):
    """The IoU after the first click, in [0, 1]."""

    name, title, clicks = "miou_at_1", "mIoU@1", 1


@METRICS.register("miou_at_3")
class IoUAt3(IoUAtClick):
    """The IoU after three clicks, in [0, 1]."""

    name, title, clicks = "miou_at_3", "mIoU@3", 3


@METRICS.register("miou_at_5")
class IoUAt5(IoUAtClick):
    """The IoU after five clicks, in [0, 1]."""

    name, title, clicks = "miou_at_5", "mIoU@5", 5


class NumberOfClicks(ClickMetric):
    """The number of clicks (NoC) after which the IoU is first at least a threshold.

    Args:
        max_clicks: an image that never reaches the threshold counts as so many, as one does that needs more; that
            of ``pipeline.max_rounds``. RITM's is 20.
    """

    higher_is_better = False
    threshold: ClassVar[float]

    def __init__(self, max_clicks: Annotated[int, Field(ge=1)] = 20, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_clicks = max_clicks

    def measure(self, round_ious: RoundIoUs, counted: Masks | None = None) -> PerImage:
        """Count the clicks of each image."""
        del counted
        reached = round_ious[:, : self.max_clicks] >= self.threshold
        first = reached.double().argmax(1) + 1
        return torch.where(reached.any(1), first, self.max_clicks).double()


@METRICS.register("noc_85")
class NumberOfClicks85(NumberOfClicks):
    """The number of clicks to an IoU of 0.85. See `NumberOfClicks`."""

    name, title, threshold = "noc_85", "NoC@85", 0.85


@METRICS.register("noc_90")
class NumberOfClicks90(NumberOfClicks):
    """The number of clicks to an IoU of 0.90. See `NumberOfClicks`."""

    name, title, threshold = "noc_90", "NoC@90", 0.90
