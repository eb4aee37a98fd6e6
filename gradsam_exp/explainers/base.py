"""What an explainer is, and the steps from raw maps to `Heatmaps` that all of them share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gradsam_exp.registry import Registry
from gradsam_exp.types import Heatmaps

Upsample = Literal["bilinear", "bicubic"]


@runtime_checkable
class Explainer(Protocol):
    """Turns images into heatmaps of the class that is explained."""

    def __call__(self, images: Tensor, targets: Int[Tensor, " batch"] | None = None) -> Heatmaps:
        """Explain a batch of images of one size.

        Args:
            images: ``(B, 3, H, W)``; whatever the model's ``forward`` takes.
            targets: the class ids to explain; None explains each image's arg-max.
        """


EXPLAINERS: Registry[Explainer] = Registry("explainer", "gradsam_exp.explainers")


def scale_to_unit(
    maps: Float[Tensor, "batch h w"],
) -> tuple[Float[Tensor, "batch h w"], Bool[Tensor, " batch"]]:
    """Min–max scale each map to [0, 1].

    Returns:
        The scaled maps, and which of them are *empty*: without any positive value. An empty map is all
        zero, never NaN. A constant positive map has no minimum to subtract and becomes all one.
    """
    maps = torch.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    span = high - low
    scaled = torch.where(span > 0, (maps - low) / span.clamp(min=torch.finfo(maps.dtype).tiny), 1.0)
    empty = high <= 0
    return torch.where(empty, 0.0, scaled), empty.flatten()


def to_frame(
    maps: Float[Tensor, "batch h w"], size: tuple[int, int], upsample: Upsample = "bilinear"
) -> Float[Tensor, "batch height width"]:
    """Interpolate maps of a layer's resolution to ``size`` = (height, width), pixel centres kept."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps[:, None].float(), size, mode=upsample, align_corners=False)[:, 0]


def combine_layers(
    layer_maps: Sequence[Float[Tensor, "batch _ _"]],
    size: tuple[int, int],
    targets: Int[Tensor, " batch"],
    logits: Float[Tensor, "batch classes"] | None = None,
    upsample: Upsample = "bilinear",
) -> Heatmaps:
    """Bring each layer's map to the original frame, scale it to [0, 1], and average.

    An image's heatmap is empty only if every layer's map is.
    """
    values, empties = [], []
    for raw in layer_maps:
        scaled, empty = scale_to_unit(to_frame(raw, size, upsample))
        values.append(scaled)
        empties.append(empty)
    if len(values) == 1:
        return Heatmaps(values[0], empties[0], targets, logits)
    mean, empty = scale_to_unit(torch.stack(values).mean(0))
    return Heatmaps(mean, empty, targets, logits)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode and give every submodule its own training flag back afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag
