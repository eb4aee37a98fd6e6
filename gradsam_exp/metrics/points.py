"""Where point prompts lie, compared with the true masks."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gradsam_exp.metrics.base import METRICS, ExampleMetric
from gradsam_exp.types import BACKGROUND, FOREGROUND, Prompts


def points_on_masks(prompts: Prompts, masks: Bool[Tensor, "batch height width"]) -> Bool[Tensor, "queries points"]:
    """Whether each point hits its image's mask: whether the pixel that it rounds to is set.

    Halves round up (x = 2.5 is the border of pixels 2 and 3 and counts as 3).
    """
    height, width = masks.shape[-2:]
    x = (prompts.points[..., 0] + 0.5).floor().long().clamp(0, width - 1)
    y = (prompts.points[..., 1] + 0.5).floor().long().clamp(0, height - 1)
    return masks[prompts.image_index[:, None], y, x]


def hit_rates(prompts: Prompts, masks: Bool[Tensor, "batch height width"], label: int) -> Float[Tensor, " batch"]:
    """Share of each image's foreground points inside its mask, or background points outside of it.

    Args:
        label: ``FOREGROUND`` (1) or ``BACKGROUND`` (0): which points are looked at.

    Returns:
        One value per image; NaN for an image without such points.
    """
    asked = prompts.labels == label
    right = points_on_masks(prompts, masks) == (label == FOREGROUND)
    return _per_image((right & asked).double().sum(1), asked.double().sum(1), prompts, len(masks))


def point_distances(prompts: Prompts, masks: Bool[Tensor, "batch height width"]) -> Float[Tensor, " batch"]:
    """Mean Euclidean distance (px) of an image's foreground points from the true mask's centre of mass.

    NaN for an image without foreground points or with an empty mask.
    """
    weights = masks.double()
    height, width = masks.shape[-2:]
    area = weights.sum((1, 2))
    centre_x = (weights.sum(1) * torch.arange(width)).sum(1) / area
    centre_y = (weights.sum(2) * torch.arange(height)).sum(1) / area
    centres = torch.stack([centre_x, centre_y], 1)[prompts.image_index]
    distance = (prompts.points.double() - centres[:, None]).norm(dim=2)
    asked = prompts.labels == FOREGROUND
    return _per_image((distance * asked).sum(1), asked.double().sum(1), prompts, len(masks))


class PointHitRate(ExampleMetric):
    """Share of an image's foreground points on its true mask, or of its background points off it, in [0, 1].

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

    name, title, group = "hit_rate", "hit rate", "prompts"
    needs = ("prompts", "truth")
    higher_is_better = True

    def __init__(self, label: int = FOREGROUND, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if label not in (FOREGROUND, BACKGROUND):
            raise ValueError(f"label must be 1 (foreground) or 0 (background), got {label}")
        self.label = label

    def measure(self, prompts: Prompts, truth: Bool[Tensor, "batch height width"]) -> Float[Tensor, " batch"]:
        """Hit rate of each image; see `hit_rates`."""
        return hit_rates(prompts, truth, self.label)


@METRICS.register("fg_hit_rate")
class ForegroundHitRate(PointHitRate):
    """Share of an image's foreground points that lie on its true mask, in [0, 1]."""

    name, title = "fg_hit_rate", "fg hit rate"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(FOREGROUND, **kwargs)


@METRICS.register("bg_hit_rate")
class BackgroundHitRate(PointHitRate):
    """Share of an image's background points that do not lie on its true mask, in [0, 1]."""

    name, title = "bg_hit_rate", "bg hit rate"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(BACKGROUND, **kwargs)


@METRICS.register("distance_px")
class PointDistance(ExampleMetric):
    """Mean distance of an image's foreground points from its true mask's centre of mass, in pixels."""

    name, title, unit, group = "distance_px", "distance", "px", "prompts"
    needs = ("prompts", "truth")
    higher_is_better = False

    def measure(self, prompts: Prompts, truth: Bool[Tensor, "batch height width"]) -> Float[Tensor, " batch"]:
        """Mean distance of each image; see `point_distances`."""
        return point_distances(prompts, truth)


def _per_image(sums: Tensor, counts: Tensor, prompts: Prompts, batch: int) -> Tensor:
    """Add up over an image's queries and divide; 0/0 is NaN."""
    total = torch.zeros(batch, dtype=torch.float64).index_add(0, prompts.image_index, sums)
    count = torch.zeros(batch, dtype=torch.float64).index_add(0, prompts.image_index, counts)
    return total / count
