"""This module defines the explainer interface, and scales and resizes raw maps to `Heatmaps` of the image size."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from gradsam_exp.errors import InputError
from gradsam_exp.explainers.dry_run import check_layers, default_frame, dry_run, find_target_layers, probed_layout
from gradsam_exp.explainers.layers import (
    KEY,
    Frame,
    Layout,
    Map,
    Maps,
    as_maps,
    find_layer,
    find_layout,
    frame_of,
    layers_with_channels_last,
    prefix_tokens,
)
from gradsam_exp.explainers.network import (
    Bound,
    Pixels,
    check_same_logits,
    evaluation_mode,
    network_input,
    run,
    widened,
)
from gradsam_exp.explainers.scores import Logits, Targets
from gradsam_exp.registry import Registry
from gradsam_exp.types import Heatmaps

Explained = tuple[Float[Tensor, "batch _ _"], Targets, Logits]
"""Raw maps, the class ids explained, and the logits of the forward pass."""
Upsample = Literal["bilinear", "bicubic"]
"""How maps are interpolated from their own resolution (a layer's, the patches', the input's) to the image's."""
Combine = Literal["mean", "max", "product"]
ROUNDING = 1e-6
"""A map whose values span less, as a share of the largest, is constant."""
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
"""Modules of a network, or their dotted names, such as ``layer2.-1``; ``auto`` is for `find_target_layers`."""
AUTO = "auto"
Asked = Tensor | Sequence[int] | int | None
"""Class ids that are to be explained: one for each image, one for all of them, or None for the arg-max."""


@runtime_checkable
class Explainer(Protocol):
    """An explainer turns images into heatmaps of the class that is explained."""

    def __call__(self, images: Tensor, targets: Asked = None, *args: Any, **kwargs: Any) -> Heatmaps:
        """Explain a batch of images of one size.

        Args:
            images: ``(B, 3, H, W)``, on the model's device; whatever the model's ``forward`` takes.
            targets: the class ids to explain, on any device; None explains each image's arg-max.
            args, kwargs: what else the model's ``forward`` takes.

        Returns:
            Heatmaps whose tensors are all on the images' device.
        """


EXPLAINERS: Registry[Explainer] = Registry("explainer", "gradsam_exp.explainers")


def scale_to_unit(maps: Map) -> tuple[Map, Bool[Tensor, " batch"]]:
    """Scale each map so that its values span [0, 1].

    Returns:
        The scaled maps, and which of them are *empty*: without any positive value, or with one that is NaN or
        infinite, so that nothing is known. An empty map is all zero. A positive map that is constant up to
        rounding has no minimum to subtract and becomes all one.
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    span = high - low
    varies = span > ROUNDING * torch.maximum(high, -low)
    scaled = torch.where(varies, (maps - low) / span.clamp(min=torch.finfo(maps.dtype).tiny), 1.0)
    empty = ~((high > 0) & span.isfinite())
    return torch.where(empty, 0.0, scaled), empty.flatten()


def to_frame(maps: Map, size: Frame, upsample: Upsample = "bilinear") -> Float[Tensor, "batch height width"]:
    """Interpolate maps of a layer's resolution to ``size``, pixel centres kept."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps[:, None].float(), size, mode=upsample, align_corners=False)[:, 0]


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
    """Bring each layer's map to the original frame, scale it to [0, 1], and take their mean, maximum or product.

    An image's heatmap is empty only if every layer's map is; the product also if the maps have no pixel in common.
    """
    scaled = [scale_to_unit(to_frame(raw, size, upsample)) for raw in found.maps]
    if len(scaled) == 1:
        return Heatmaps(*scaled[0], found.targets, found.logits)
    together, empty = scale_to_unit(combine_maps(torch.stack([values for values, _ in scaled]), combine))
    return Heatmaps(together, empty, found.targets, found.logits)


def combine_maps(maps: Float[Tensor, "maps *shape"], combine: Combine) -> Float[Tensor, "*shape"]:
    """Combine several maps of the same images, each in [0, 1], pixel by pixel."""
    if combine == "product":
        return maps.prod(0)
    return maps.mean(0) if combine == "mean" else maps.amax(0)


@dataclass(frozen=True)
class ModelExplainer(ABC):
    """A model explainer explains one network; its fields are the parameters that a configuration may give.

    Attributes:
        model: any network that maps a batch of images to logits ``(B, classes)``, in whatever
            `gradsam_exp.types.logits_of` can read.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        arbitrary_types_allowed=True, extra="forbid", allow_inf_nan=False
    )

    model: nn.Module = dataclasses.field(repr=False)

    @abstractmethod
    def __call__(self, images: Tensor, targets: Asked = None, *args: Any, **kwargs: Any) -> Heatmaps:
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
class MapExplainer(ModelExplainer):
    """A map explainer makes raw maps, which are scaled to [0, 1] and to the image's size."""

    _: KW_ONLY
    upsample: Upsample = "bilinear"

    def __call__(self, images: Tensor, targets: Asked = None, *args: Any, **kwargs: Any) -> Heatmaps:
        """Explain a batch, see `Explainer`; works inside ``torch.no_grad`` as well, not in ``inference_mode``."""
        targets = asked_targets(targets, len(images))
        if args or kwargs:
            bound = dataclasses.replace(self, model=Bound(self.model, args, kwargs, len(images)))
            bound.__dict__["known"] = self.known
            return bound(images, targets)
        with evaluation_mode(self.model):
            pixels = widened(network_input(self.model, images))
            found = self.explain(pixels, targets)
            if "checked" not in self.known:
                check_same_logits(self.model, pixels, found.logits)
                self.known["checked"] = True
        return self.combined(found, frame_of(images))

    @abstractmethod
    def explain(self, pixels: Pixels, targets: Tensor | None) -> Recorded:
        """Make the raw maps, in float32, from the network's input; the model is in eval mode."""

    @cached_property
    def known(self) -> dict[str, Any]:
        """Keep what an earlier batch has shown of the network."""
        return {}

    def combined(self, found: Recorded, frame: Frame) -> Heatmaps:
        """Make heatmaps of raw maps; see `combine_layers`."""
        return combine_layers(found, frame, self.upsample)

    def run(self, pixels: Pixels, of: Tensor | None = None) -> Logits:
        """Run the network; see `gradsam_exp.explainers.network.run`."""
        return run(self.model, pixels, of)


@dataclass(frozen=True)
class LayerExplainer(MapExplainer):
    """A layer explainer makes one map for each target layer and combines them.

    Attributes:
        target_layers: modules of the network, or their dotted names such as ``layer2.-1``; ``auto`` is the last
            that gives maps, see `find_target_layers`.
        layout: where the layers' outputs have their channels or tokens (see `Layout`); ``auto`` finds out from
            their shapes.
        combine: each layer's map is scaled to [0, 1]; then their ``mean``, ``max`` or ``product`` is taken.
        by_influence: what counts is how the output changes with the layer (gradients, ablation).
        once: runs the network again behind a layer, which must have one place in it.

    Raises:
        InputError: if a named layer does not exist.
    """

    by_influence: ClassVar[bool] = False
    once: ClassVar[bool] = False

    target_layers: TargetLayers
    _: KW_ONLY
    layout: Literal["auto"] | Layout = "auto"
    combine: Combine = "mean"

    def __post_init__(self) -> None:
        if self.target_layers != [AUTO]:
            _ = self.layers  # so that a name that does not exist is an error at once

    @property
    def layers(self) -> list[nn.Module]:
        """Find the target layers' modules."""
        if "layers" not in self.known:
            self._find(torch.empty(0, 3, *default_frame(self.model)))
        return self.known["layers"]

    def _find(self, pixels: Pixels) -> None:
        """Find the layers for network input of this size."""
        names = self.target_layers
        if names == [AUTO]:
            names = find_target_layers(self.model, frame_of(pixels), channels=pixels.shape[1])
        try:
            found = [one if isinstance(one, nn.Module) else find_layer(self.model, one) for one in names]
        except InputError as error:
            raise InputError(f"{error}{self._candidates()}") from error
        self.known["layers"] = found

    def _candidates(self) -> str:
        """Word which layers give maps; nothing if the network does not run."""
        try:
            return dry_run(self.model, default_frame(self.model)).listed()
        except Exception:  # of many kinds
            return ""

    def explain(self, pixels: Pixels, targets: Tensor | None) -> Recorded:
        """See `MapExplainer.explain`."""
        if "layers" not in self.known:
            self._find(pixels)
        return self.layer_maps(pixels, targets)

    def combined(self, found: Recorded, frame: Frame) -> Heatmaps:
        """Make heatmaps of each layer's raw map; see `combine_layers`."""
        return combine_layers(found, frame, self.upsample, self.combine)

    def check(self, frame: tuple[int, int]) -> None:
        """Refuse layers that give no maps; only for a model on the meta device, in eval mode."""
        if "layers" not in self.known:
            self._find(torch.empty(0, 3, *frame))
        names = [type(layer).__name__ if isinstance(layer, nn.Module) else layer for layer in self.target_layers]
        layers = dict(zip(names, self.layers, strict=True))
        check_layers(self.model, layers, frame, self._laid_out, by_influence=self.by_influence, once=self.once)

    @abstractmethod
    def layer_maps(self, pixels: Tensor, targets: Tensor | None = None) -> Recorded:
        """Make the raw maps from the network's input; the model is in eval mode."""

    def as_maps(self, values: Tensor, layer: nn.Module, pixels: Tensor) -> Maps:
        """Bring a layer's output for ``pixels``, or its gradient, to one layout; see `layers.as_maps`.

        Raises:
            InputError: if it has no rows and columns, or which axes they are cannot be told.
        """
        try:
            return self._laid_out(values, layer, pixels)
        except ValueError as error:
            raise InputError(f"target layer {type(layer).__name__}: {error}") from error

    def _laid_out(self, values: Tensor, layer: nn.Module, pixels: Tensor) -> Maps:
        frame = frame_of(pixels)
        return as_maps(values, self.layout_of(values, layer, pixels), frame, self._prefix)

    def layout_of(self, values: Tensor, layer: nn.Module, pixels: Tensor) -> Layout:
        """Find where a layer has its channels; when it is first asked, from its output ``values`` for ``pixels``.

        Raises:
            ValueError: if it has no rows and columns, or which axes they are cannot be told.
        """
        layouts: dict[nn.Module, Layout] = self.known.setdefault("layouts", {})
        if layer in layouts:
            return layouts[layer]
        found: Layout | None = None if self.layout == "auto" else self.layout
        if found is None:
            found = find_layout(values.shape, layer, frame_of(pixels), len(pixels), self._channels_last)
        if found is None:
            found = probed_layout(self.model, layer, pixels)
        if found is None:
            raise ValueError(
                f"which axes of {tuple(values.shape)} are rows and columns cannot be told from a network input of "
                f"{tuple(pixels.shape)}: give explainer.layout={'|'.join(get_args(Layout))}"
            )
        layouts[layer] = found
        return found

    @cached_property
    def _prefix(self) -> int | None:
        return prefix_tokens(self.model)

    @cached_property
    def _channels_last(self) -> frozenset[nn.Module]:
        return layers_with_channels_last(self.model)

    def recorded_output(self, recorded: Mapping[nn.Module, Tensor], layer: nn.Module) -> Tensor:
        """Look up what ``layer`` gave in the forward pass.

        Raises:
            InputError: if it did not run.
        """
        if layer not in recorded:
            number = self.layers.index(layer)
            raise InputError(
                f"target layer {number} ({type(layer).__name__}) was not used in the forward pass: {KEY} must "
                "name modules that are called, such as the block that it is in"
            )
        return recorded[layer]


def asked_targets(targets: Asked, images: int) -> Targets | None:
    """Bring class ids to one for each image; one alone is for all of them.

    Raises:
        InputError: if there are more or fewer, or they are not whole numbers.
    """
    if targets is None:
        return None
    ids = torch.as_tensor(targets)
    if ids.is_floating_point() or ids.ndim > 1 or ids.numel() not in (1, images):
        raise InputError(
            f"targets must be one class id, or one for each of the {images} images; got {tuple(ids.shape)} "
            f"of {ids.dtype}"
        )
    return ids.expand(images)


def checked_targets(targets: Tensor | None, logits: Logits) -> Targets:
    """Check the given class ids and bring them to the logits' device, or take each image's arg-max.

    Raises:
        InputError: if an id is not one of the logits, or there are not as many as images.
    """
    if targets is None:
        return logits.detach().argmax(1)
    ids = asked_targets(targets, len(logits))
    assert ids is not None
    if ((ids < 0) | (ids >= logits.shape[1])).any():
        raise InputError(f"targets must be class ids in 0..{logits.shape[1] - 1}, got {ids.tolist()}")
    return ids.to(logits.device)
