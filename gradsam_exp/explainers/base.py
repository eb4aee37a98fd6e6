"""What an explainer is, and the steps from raw maps to `Heatmaps` that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gradsam_exp.explainers.layers import check_layers, find_layer, frame_of, note_channels_last
from gradsam_exp.registry import Registry
from gradsam_exp.types import Heatmaps

Upsample = Literal["bilinear", "bicubic"]
Combine = Literal["mean", "max"]


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
    combine: Combine = "mean",
) -> Heatmaps:
    """Bring each layer's map to the original frame, scale it to [0, 1], and take their mean or maximum.

    An image's heatmap is empty only if every layer's map is.
    """
    values, empties = [], []
    for raw in layer_maps:
        scaled, empty = scale_to_unit(to_frame(raw, size, upsample))
        values.append(scaled)
        empties.append(empty)
    if len(values) == 1:
        return Heatmaps(values[0], empties[0], targets, logits)
    stacked = torch.stack(values)
    together, empty = scale_to_unit(stacked.mean(0) if combine == "mean" else stacked.amax(0))
    return Heatmaps(together, empty, targets, logits)


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


@dataclass(frozen=True)
class Recorded:
    """What an explainer found before anything was scaled.

    Attributes:
        maps: one raw map ``(B, h, w)`` per target layer, at the layer's resolution.
        targets: the class ids explained.
        logits: of the forward pass.
    """

    maps: Sequence[Float[Tensor, "batch _ _"]]
    targets: Int[Tensor, " batch"]
    logits: Float[Tensor, "batch classes"]


class LayerExplainer(ABC):
    """Base of the explainers that give one map per target layer; see `GradientCAM` for the arguments.

    Attributes:
        by_influence: what counts is how the output changes with the layer (gradients, ablation).
        once: runs the network again behind a layer, which must have one place in it.

    Raises:
        InputError: if a named layer does not exist.
    """

    by_influence: ClassVar[bool] = False
    once: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[str | nn.Module],
        *,
        upsample: Upsample = "bilinear",
        combine: Combine = "mean",
    ) -> None:
        self.model = model
        named = [target_layers] if isinstance(target_layers, str) else target_layers
        self.target_layers = [
            layer if isinstance(layer, nn.Module) else find_layer(model, layer) for layer in named
        ]
        if not self.target_layers:
            raise ValueError("target_layers is empty: name at least one layer, such as layer2.-1")
        self._names = [type(layer).__name__ if isinstance(layer, nn.Module) else layer for layer in named]
        note_channels_last(model)
        self.upsample, self.combine = upsample, combine

    def __call__(self, images: Tensor, targets: Int[Tensor, " batch"] | None = None) -> Heatmaps:
        """See `Explainer.__call__`. Works inside ``torch.no_grad`` as well, not in ``inference_mode``."""
        with evaluation_mode(self.model):
            found = self.layer_maps(network_input(self.model, images), targets)
        return combine_layers(
            found.maps, frame_of(images), found.targets, found.logits, self.upsample, self.combine
        )

    def check(self, frame: tuple[int, int]) -> None:
        """Find out whether the layers give maps, before any image is explained.

        Only for a model on the meta device, in eval mode; see `check_layers`.

        Args:
            frame: ``(height, width)`` px of the network's input.

        Raises:
            InputError: naming the layer and the mend.
        """
        network = getattr(self.model, "backbone", self.model)
        layers = dict(zip(self._names, self.target_layers, strict=True))
        check_layers(network, layers, frame, by_influence=self.by_influence, once=self.once)

    @abstractmethod
    def layer_maps(self, pixels: Tensor, targets: Tensor | None = None) -> Recorded:
        """The raw maps for the network's input; the model is in eval mode."""

    def recorded_output(self, recorded: Mapping[nn.Module, Tensor], layer: nn.Module) -> Tensor:
        """What ``layer`` gave in the forward pass.

        Raises:
            ValueError: if it did not run.
        """
        if layer not in recorded:
            number = self.target_layers.index(layer)
            raise ValueError(f"target layer {number} ({type(layer).__name__}) was not used in the forward pass")
        return recorded[layer]


def network_input(model: nn.Module, images: Tensor) -> Float[Tensor, "batch channels height width"]:
    """uint8 images as the network's first layer sees them; floating-point images are taken as that."""
    if images.is_floating_point():
        return images
    transform = getattr(model, "transform", None)
    if transform is None:
        raise ValueError("uint8 images need a model with a `transform`; give floating-point network input instead")
    return transform(images)


def checked_targets(targets: Tensor | None, logits: Float[Tensor, "batch classes"]) -> Int[Tensor, " batch"]:
    """The given class ids on the logits' device, or each image's arg-max.

    Raises:
        ValueError: if an id is not one of the logits.
    """
    if targets is None:
        return logits.detach().argmax(1)
    if ((targets < 0) | (targets >= logits.shape[1])).any():
        raise ValueError(f"targets must be class ids in 0..{logits.shape[1] - 1}, got {targets.tolist()}")
    return targets.to(logits.device)
