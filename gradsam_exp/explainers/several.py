"""These explainers are made of others: several that vote, or one that sees an image and its mirror image."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY
from functools import cached_property
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from gradsam_exp.explainers.base import EXPLAINERS, Asked, Combine, Explainer, ModelExplainer, scale_to_unit
from gradsam_exp.types import Heatmaps


@EXPLAINERS.register("ensemble")
@dataclass(frozen=True)
class Ensemble(ModelExplainer):
    """Ensemble lets several explainers vote: the mean (or maximum, or product) of their heatmaps, each in [0, 1].

    Members whose map is empty do not vote; the result is empty only if all are.

    Attributes:
        of: the members' config nodes, such as ``[{"name": "gradcam", "target_layers": ["layer2.-1"]}, …]``.
        combine: ``mean``, ``max`` or ``product``.
    """

    of: Sequence[Mapping[str, Any]]
    _: KW_ONLY
    combine: Combine = "mean"

    def __post_init__(self) -> None:
        if not self.of:
            raise ValueError("explainer.of is empty: name at least one explainer")
        _ = self.members  # so that what is wrong with one of them is an error at once

    @cached_property
    def members(self) -> list[Explainer]:
        """Build the explainers that vote."""
        return [EXPLAINERS.build(node, model=self.model) for node in self.of]

    @property
    def caveat(self) -> str | None:
        """Join the members' caveats."""
        caveats = [member.caveat for member in self.members if isinstance(member, ModelExplainer)]
        return "; ".join(filter(None, caveats)) or None

    def check(self, frame: tuple[int, int]) -> None:
        """Refuse what one of the members refuses."""
        for member in self.members:
            if isinstance(member, ModelExplainer):
                member.check(frame)

    def __call__(self, images: Tensor, targets: Asked = None, *args: Any, **kwargs: Any) -> Heatmaps:
        """Explain a batch, see `Explainer`; without targets, all explain the first member's arg-max."""
        first = self.members[0](images, targets, *args, **kwargs)
        found = [first, *(member(images, first.targets, *args, **kwargs) for member in self.members[1:])]
        return together(found, self.combine)


class Mirrored:
    """Mirrored averages an image's heatmap and its mirror image's, mirrored back: test-time augmentation.

    Args:
        explainer: makes both heatmaps.
    """

    def __init__(self, explainer: Explainer) -> None:
        self.explainer = explainer

    def __call__(self, images: Tensor, targets: Asked = None, *args: Any, **kwargs: Any) -> Heatmaps:
        """Explain a batch, see `Explainer`; the class and the logits are those of the image as it is."""
        plain = self.explainer(images, targets, *args, **kwargs)
        mirror = self.explainer(images.flip(-1), plain.targets, *args, **kwargs)
        back = Heatmaps(mirror.values.flip(-1), mirror.empty, mirror.targets)
        return together([plain, back], "mean")


def together(found: Sequence[Heatmaps], combine: Combine) -> Heatmaps:
    """Merge several heatmaps of the same images and classes into one, with the first one's targets and logits."""
    values = torch.stack([heatmaps.values for heatmaps in found])
    filled = ~torch.stack([heatmaps.empty for heatmaps in found])
    if combine == "mean":
        voters = filled.sum(0).clamp(min=1)[:, None, None]
        merged = (values * filled[:, :, None, None]).sum(0) / voters
    elif combine == "product":
        merged = torch.where(filled[:, :, None, None], values, 1.0).prod(0) * filled.any(0)[:, None, None]
    else:
        merged = values.amax(0)
    scaled, empty = scale_to_unit(merged)
    return Heatmaps(scaled, empty, found[0].targets, found[0].logits)
