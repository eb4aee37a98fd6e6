"""These metrics say where point prompts lie, compared with the true masks."""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from gradsam_exp.metrics.base import METRICS, ExampleMetric
from gradsam_exp.overlap import only_counted
from gradsam_exp.types import BACKGROUND, FOREGROUND, Masks, PerImage, Prompts


class PointMetric(ExampleMetric):
    """A point metric averages a number over an image's points; an image without such points has none (NaN).

    Points on pixels that do not count are left out.
    """

    group, needs = "prompts", ("prompts", "truth", "counted")

    @staticmethod
    def mean(values: Tensor, asked: Bool[Tensor, "queries points"], prompts: Prompts, images: int) -> PerImage:
        """Average over the points that are ``asked`` for, of all queries of an image."""
        sums = [
            torch.zeros(images, dtype=torch.float64).index_add(0, prompts.example_index, part.double().sum(1))
            for part in (values * asked, asked)
        ]
        return sums[0] / sums[1]


class PointHitRate(PointMetric):
    """The hit rate is the share of an image's foreground points on its mask, or background points off it.

    In [0, 1]. A point is on the mask if the pixel that it rounds to is set.

    >>> import torch
    >>> from gradsam_exp.types import Prompts
    >>> mask = torch.tensor([[[False, True], [False, True]]])
    >>> points = Prompts(torch.tensor([0]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[1, 1]]))
    >>> metric = PointHitRate()
    >>> metric.update(points, mask)
    >>> float(metric.compute())
    0.5

    Args:
        label: ``FOREGROUND`` (1) or ``BACKGROUND`` (0): which points are looked at.
    """

    name, title = "hit_rate", "hit rate"
    higher_is_better = True

    def __init__(self, label: int = FOREGROUND, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if label not in (FOREGROUND, BACKGROUND):
            raise ValueError(f"label must be 1 (foreground) or 0 (background), got {label}")
        self.label = label

    def measure(self, prompts: Prompts, truth: Masks, counted: Masks | None = None) -> PerImage:
        """Count the points that lie where they should."""
        right = points_on_masks(prompts, truth) == (self.label == FOREGROUND)
        return self.mean(right, _asked(prompts, self.label, counted), prompts, len(truth))


@METRICS.register("fg_hit_rate")
class ForegroundHitRate(PointHitRate):
    """The foreground hit rate is the share of an image's foreground points on its true mask, in [0, 1]."""

    name, title = "fg_hit_rate", "fg hit rate"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(FOREGROUND, **kwargs)


@METRICS.register("bg_hit_rate")
class BackgroundHitRate(PointHitRate):
    """The background hit rate is the share of an image's background points off its true mask, in [0, 1]."""

    name, title = "bg_hit_rate", "bg hit rate"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(BACKGROUND, **kwargs)


@METRICS.register("distance_px")
class PointDistance(PointMetric):
    """Point distance is the mean distance of an image's foreground points from the true mask's centre of mass.

    In pixels. NaN for an image with an empty mask.
    """

    name, title, unit = "distance_px", "distance", "px"
    higher_is_better = False

    def measure(self, prompts: Prompts, truth: Masks, counted: Masks | None = None) -> PerImage:
        """Average the distances of each image."""
        (truth,) = only_counted(truth, counted=counted)
        weights = truth.double()
        height, width = truth.shape[-2:]
        area = weights.sum((1, 2))
        centre_x = (weights.sum(1) * torch.arange(width)).sum(1) / area
        centre_y = (weights.sum(2) * torch.arange(height)).sum(1) / area
        centres = torch.stack([centre_x, centre_y], 1)[prompts.example_index]
        distance = (prompts.points.double() - centres[:, None]).norm(dim=2)
        return self.mean(distance, _asked(prompts, FOREGROUND, counted), prompts, len(truth))


def _asked(prompts: Prompts, label: int, counted: Masks | None) -> Bool[Tensor, "queries points"]:
    """Tell which points have this label and lie on a pixel that counts."""
    asked = prompts.labels == label
    return asked if counted is None else asked & points_on_masks(prompts, counted)


def points_on_masks(prompts: Prompts, masks: Masks) -> Bool[Tensor, "queries points"]:
    """Tell whether each point hits its image's mask: whether the pixel that it rounds to is set.

    Halves round up (x = 2.5 is the border of pixels 2 and 3 and counts as 3).
    """
    height, width = masks.shape[-2:]
    x = (prompts.points[..., 0] + 0.5).floor().long().clamp(0, width - 1)
    y = (prompts.points[..., 1] + 0.5).floor().long().clamp(0, height - 1)
    return masks[prompts.example_index[:, None], y, x]
