"""This module defines the explainer interface, and scales and resizes raw maps to `Heatmaps` of the image size."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY
from functools import cached_property
from typing import Annotated, ClassVar, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from gradsam_exp.explainers.layers import (
    Frame,
    Map,
    Maps,
    as_maps,
    check_layers,
    find_layer,
    frame_of,
    layers_with_channels_last,
)
from gradsam_exp.explainers.scores import Logits, Targets
from gradsam_exp.registry import Registry
from gradsam_exp.types import Heatmaps

Explained = tuple[Float[Tensor, "batch _ _"], Targets, Logits]
"""Raw maps, the class ids explained, and the logits of the forward pass."""
Upsample = Literal["bilinear", "bicubic"]
"""How maps are interpolated from their own resolution (a layer's, the patches', the input's) to the image's."""
Combine = Literal["mean", "max"]
Count = Annotated[int, Field(ge=1)]
Width = Annotated[float, Field(ge=0)]


def _listed(layers: object) -> object:
    """One layer needs no list."""
    return [layers] if isinstance(layers, str | nn.Module) else layers


def _not_empty(layers: Sequence[str | nn.Module]) -> Sequence[str | nn.Module]:
    if not layers:
        raise ValueError("target_layers is empty: name at least one layer, such as layer2.-1")
    return layers


TargetLayers = Annotated[Sequence[str | nn.Module], BeforeValidator(_listed), AfterValidator(_not_empty)]
"""Modules of a network, or their dotted names, such as ``layer2.-1``."""


@runtime_checkable
class Explainer(Protocol):
    """An explainer turns images into heatmaps of the class that is explained."""

    def __call__(self, images: Tensor, targets: Targets | None = None) -> Heatmaps:
        """Explain a batch of images of one size.

        Args:
            images: ``(B, 3, H, W)``, on the model's device; whatever the model's ``forward`` takes.
            targets: the class ids to explain, on any device; None explains each image's arg-max.

        Returns:
            Heatmaps whose tensors are all on the images' device.
        """


EXPLAINERS: Registry[Explainer] = Registry("explainer", "gradsam_exp.explainers")


def scale_to_unit(maps: Map) -> tuple[Map, Bool[Tensor, " batch"]]:
    """Scale each map so that its values span [0, 1].

    Returns:
        The scaled maps, and which of them are *empty*: without any positive value. An empty map is all
        zero. A constant positive map has no minimum to subtract and becomes all one.
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    span = high - low
    scaled = torch.where(span > 0, (maps - low) / span.clamp(min=torch.finfo(maps.dtype).tiny), 1.0)
    empty = high <= 0
    return torch.where(empty, 0.0, scaled), empty.flatten()


def to_frame(maps: Map, size: Frame, upsample: Upsample = "bilinear") -> Float[Tensor, "batch height width"]:
    """Interpolate maps of a layer's resolution to ``size``, pixel centres kept."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps[:, None].float(), size, mode=upsample, align_corners=False)[:, 0]


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


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A record holds the raw maps of a batch, before anything is scaled.

    Attributes:
        maps: one raw map ``(B, h, w)`` per target layer, at the layer's resolution.
        targets: the class ids explained.
        logits: of the forward pass.
    """

    maps: Sequence[Float[Tensor, "batch _ _"]]
    targets: Targets
    logits: Logits


def combine_layers(found: Recorded, size: Frame, upsample: Upsample, combine: Combine = "mean") -> Heatmaps:
    """Bring each layer's map to the original frame, scale it to [0, 1], and take their mean or maximum.

    An image's heatmap is empty only if every layer's map is.
    """
    scaled = [scale_to_unit(to_frame(raw, size, upsample)) for raw in found.maps]
    if len(scaled) == 1:
        return Heatmaps(*scaled[0], found.targets, found.logits)
    stacked = torch.stack([values for values, _ in scaled])
    together, empty = scale_to_unit(stacked.mean(0) if combine == "mean" else stacked.amax(0))
    return Heatmaps(together, empty, found.targets, found.logits)


@dataclass(frozen=True)
class ModelExplainer(ABC):
    """A model explainer explains one network; its fields are the parameters that a configuration may give.

    Attributes:
        model: any network that maps a batch of images to logits ``(B, classes)``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        arbitrary_types_allowed=True, extra="forbid", allow_inf_nan=False
    )

    model: nn.Module = dataclasses.field(repr=False)

    @abstractmethod
    def __call__(self, images: Tensor, targets: Targets | None = None) -> Heatmaps:
        """Explain a batch of images of one size; see `Explainer`."""

    @property
    def caveat(self) -> str | None:
        """Say what readers of this network's heatmaps should know, in a sentence; None if there is nothing."""
        return None

    def check(self, frame: tuple[int, int]) -> None:
        """Refuse a network that cannot be explained, before any image is; most explainers take all that they get.

        Args:
            frame: ``(height, width)`` px of the network's input.

        Raises:
            InputError: naming what does not fit, and the hint what to do.
        """
        del frame


@dataclass(frozen=True)
class LayerExplainer(ModelExplainer):
    """A layer explainer makes one map for each target layer and combines them.

    Attributes:
        target_layers: modules of the network, or their dotted names such as ``layer2.-1``.
        combine: each layer's map is scaled to [0, 1]; then their ``mean`` or ``max`` is taken.
        by_influence: what counts is how the output changes with the layer (gradients, ablation).
        once: runs the network again behind a layer, which must have one place in it.

    Raises:
        InputError: if a named layer does not exist.
    """

    by_influence: ClassVar[bool] = False
    once: ClassVar[bool] = False

    target_layers: TargetLayers
    _: KW_ONLY
    upsample: Upsample = "bilinear"
    combine: Combine = "mean"

    def __post_init__(self) -> None:
        _ = self.layers  # so that a name that does not exist is an error at once

    @cached_property
    def layers(self) -> list[nn.Module]:
        """Find the target layers' modules."""
        return [one if isinstance(one, nn.Module) else find_layer(self.model, one) for one in self.target_layers]

    def __call__(self, images: Tensor, targets: Targets | None = None) -> Heatmaps:
        """Explain a batch of images; works inside ``torch.no_grad`` as well, not in ``inference_mode``."""
        with evaluation_mode(self.model):
            found = self.layer_maps(network_input(self.model, images), targets)
        return combine_layers(found, frame_of(images), self.upsample, self.combine)

    def check(self, frame: tuple[int, int]) -> None:
        """Refuse layers that give no maps; only for a model on the meta device, in eval mode."""
        network = getattr(self.model, "backbone", self.model)
        names = [type(layer).__name__ if isinstance(layer, nn.Module) else layer for layer in self.target_layers]
        layers = dict(zip(names, self.layers, strict=True))
        check_layers(network, layers, frame, self._channels_last, by_influence=self.by_influence, once=self.once)

    @abstractmethod
    def layer_maps(self, pixels: Tensor, targets: Tensor | None = None) -> Recorded:
        """Make the raw maps from the network's input; the model is in eval mode."""

    def as_maps(self, values: Tensor, layer: nn.Module, pixels: Tensor) -> Maps:
        """Bring a layer's output for ``pixels``, or its gradient, to one layout; see `layers.as_maps`."""
        return as_maps(values, layer, frame_of(pixels), self._channels_last)

    @cached_property
    def _channels_last(self) -> frozenset[nn.Module]:
        return layers_with_channels_last(self.model)

    def recorded_output(self, recorded: Mapping[nn.Module, Tensor], layer: nn.Module) -> Tensor:
        """Look up what ``layer`` gave in the forward pass.

        Raises:
            ValueError: if it did not run.
        """
        if layer not in recorded:
            number = self.layers.index(layer)
            raise ValueError(f"target layer {number} ({type(layer).__name__}) was not used in the forward pass")
        return recorded[layer]


def network_input(model: nn.Module, images: Tensor) -> Float[Tensor, "batch channels height width"]:
    """Transform uint8 images into what the network's first layer sees; floating-point images are that already."""
    if images.is_floating_point():
        return images
    transform = getattr(model, "transform", None)
    if transform is None:
        raise ValueError("uint8 images need a model with a `transform`; give floating-point network input instead")
    return transform(images)


def checked_targets(targets: Tensor | None, logits: Logits) -> Targets:
    """Check the given class ids and bring them to the logits' device, or take each image's arg-max.

    Raises:
        ValueError: if an id is not one of the logits.
    """
    if targets is None:
        return logits.detach().argmax(1)
    if ((targets < 0) | (targets >= logits.shape[1])).any():
        raise ValueError(f"targets must be class ids in 0..{logits.shape[1] - 1}, got {targets.tolist()}")
    return targets.to(logits.device)
