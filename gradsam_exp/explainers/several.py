"""Explainers made of explainers: several that vote, and one on several versions of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from gradsam_exp.explainers.base import EXPLAINERS, Combine, Explainer, scale_to_unit
from gradsam_exp.types import Heatmaps


@EXPLAINERS.register("ensemble")
class Ensemble:
    """Several explainers vote: the mean (or maximum) of their heatmaps, each in [0, 1].

    Members whose map is empty do not vote; the result is empty only if all are.

    Args:
        model: what they explain.
        of: their config nodes, such as ``[{"name": "gradcam", "target_layers": ["layer2.-1"]}, …]``.
        combine: ``mean`` or ``max``.
    """

    def __init__(self, model: nn.Module, of: Sequence[Mapping[str, Any]], *, combine: Combine = "mean") -> None:
        if not of:
            raise ValueError("explainer.of is empty: name at least one explainer")
        self.members = [EXPLAINERS.build(node, model=model) for node in of]
        self.combine = combine

    def __call__(self, images: Tensor, targets: Int[Tensor, " batch"] | None = None) -> Heatmaps:
        """See `Explainer.__call__`; without targets, the first member's arg-max is explained by all."""
        first = self.members[0](images, targets)
        found = [first, *(member(images, first.targets) for member in self.members[1:])]
        return together(found, self.combine)


class Mirrored:
    """Test-time augmentation: the mean of an image's heatmap and of its mirror image's, mirrored back.

    Args:
        explainer: any other.
    """

    def __init__(self, explainer: Explainer) -> None:
        self.explainer = explainer

    def __call__(self, images: Tensor, targets: Int[Tensor, " batch"] | None = None) -> Heatmaps:
        """See `Explainer.__call__`; the class and the logits are those of the image as it is."""
        plain = self.explainer(images, targets)
        mirror = self.explainer(images.flip(-1), plain.targets)
        back = Heatmaps(mirror.values.flip(-1), mirror.empty, mirror.targets)
        return together([plain, back], "mean")


def together(found: Sequence[Heatmaps], combine: Combine) -> Heatmaps:
    """One heatmap from several of the same images and classes; the first one's targets and logits are kept."""
    values = torch.stack([heatmaps.values for heatmaps in found])
    filled = ~torch.stack([heatmaps.empty for heatmaps in found])
    if combine == "mean":
        voters = filled.sum(0).clamp(min=1)[:, None, None]
        merged = (values * filled[:, :, None, None]).sum(0) / voters
    else:
        merged = values.amax(0)
    scaled, empty = scale_to_unit(merged)
    return Heatmaps(scaled, empty, found[0].targets, found[0].logits)
