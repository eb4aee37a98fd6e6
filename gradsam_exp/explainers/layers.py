"""These functions find target layers by name, record their outputs and bring them to one layout."""

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.convnext import CNBlock
from torchvision.models.swin_transformer import SwinTransformer

from gradsam_exp.errors import InputError, did_you_mean
from gradsam_exp.explainers.network import unwrapped

KEY = "explainer.target_layers"
Maps = Float[Tensor, "batch channels h w"]
Map = Float[Tensor, "batch h w"]
Frame = tuple[int, int]
"""The height and the width of images or of the network's input, in pixels."""
Layout = Literal["channels_first", "channels_last", "tokens", "tokens_first"]
"""Where a layer has what: ``(B, C, h, w)``, ``(B, h, w, C)``, ``(B, T, C)`` or ``(T, B, C)``."""
MOST_PREFIX_TOKENS = 8
_CONVOLUTIONAL = (nn.Conv2d, _BatchNorm)
_POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


def roots(model: nn.Module) -> list[nn.Module]:
    """List the modules below which layers are named: the one in ``backbone``, if there is one, and the network."""
    network = unwrapped(model)
    backbone = getattr(network, "backbone", None)
    return [backbone, network] if isinstance(backbone, nn.Module) else [network]


def find_layer(model: nn.Module, path: str, key: str = KEY) -> nn.Module:
    """Find the submodule at a dotted path; numbers index into sequences, negative ones from the end.

    A model that keeps its network in ``backbone`` (as `ImageClassifier` does) is searched below that first.

    Raises:
        InputError: if there is none; lists what exists at the place where the path went wrong.
    """
    first, *others = roots(model)
    beginning = path.split(".", maxsplit=1)[0]
    elsewhere = [root for root in others if beginning in root._modules]
    root = elsewhere[0] if elsewhere and beginning not in first._modules else first
    return _below(root, path, key)


def _below(module: nn.Module, path: str, key: str) -> nn.Module:
    walked: list[str] = []
    for part in path.split("."):
        children = dict(module.named_children())
        name = part
        if part.lstrip("-").isdigit() and -len(children) <= int(part) < len(children):
            name = list(children)[int(part)]
        if name not in children:
            place = f"below {'.'.join(walked)!r}" if walked else f"in {type(module).__name__}"
            raise InputError(f"{key}={path!r}: there is no layer {part!r} {place}{did_you_mean(part, children)}")
        module = children[name]
        walked.append(part)
    return module


def layers_with_channels_last(model: nn.Module) -> frozenset[nn.Module]:
    """Find the layers of torchvision's networks that are known to have their channels last.

    Types do not tell: a LayerNorm has its channels last in one network and not in another. In torchvision's
    SwinTransformer (V1 and V2) all layers do, but for the first convolution and what comes after ``norm``;
    in its ConvNeXt those between the two permutations of a block.
    """
    found: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, SwinTransformer):
            first_convolution = module.features[0][0]
            others = {module, first_convolution, module.permute, module.avgpool}
            found.update(layer for layer in module.modules() if layer not in others)
        elif isinstance(module, CNBlock):
            found.update(module.block[1:-1])
    return frozenset(found)


def find_layout(
    shape: Sequence[int], layer: nn.Module, frame: Frame, images: int, channels_last: Collection[nn.Module] = ()
) -> Layout | None:
    """Find where a layer's output has its channels, from its shape; None if several layouts fit, or none.

    Rows and columns are those axes whose numbers fit the frame's aspect, up to one row or column at the borders;
    the images' axis of tokens is the one with as many entries as there are images.

    Args:
        shape: of the layer's output.
        layer: convolutional modules have their channels first, whatever fits.
        frame: ``(height, width)`` px of the network's input.
        images: how many there are.
        channels_last: layers known to be so; see `layers_with_channels_last`.

    Raises:
        ValueError: if the output has no rows and columns.
    """
    if len(shape) not in (3, 4):
        raise ValueError(f"{tuple(shape)} has no rows and columns")
    if len(shape) == 3:
        own: list[Layout] = [k for k, n in (("tokens", shape[0]), ("tokens_first", shape[1])) if n == images]  # type: ignore[misc]
        if not own:
            raise ValueError(f"{tuple(shape)} has no axis for {images} images")
        return own[0] if len(own) == 1 else None
    if shape[0] != images:
        raise ValueError(f"{tuple(shape)} does not begin with an axis for {images} images")
    if layer in channels_last:
        return "channels_last"
    if isinstance(layer, _CONVOLUTIONAL + _POOLING):
        return "channels_first"
    first, last = _fit(shape[2], shape[3], frame), _fit(shape[1], shape[2], frame)
    if first != last:
        return "channels_first" if first else "channels_last"
    parts = [isinstance(m, _CONVOLUTIONAL) for m in layer.modules() if isinstance(m, (*_CONVOLUTIONAL, *_LAST))]
    return "channels_first" if parts and all(parts) else None


_LAST = (nn.Linear, nn.LayerNorm)


def _fit(rows: int, columns: int, frame: Frame) -> bool:
    """Tell whether one stride gives so many rows and columns, up to one of them at the borders."""
    low, high = zip(
        *((n / (k + 1), n / (k - 1) if k > 1 else math.inf) for n, k in zip(frame, (rows, columns), strict=True)),
        strict=True,
    )
    return max(low) < min(high)


def as_maps(values: Tensor, layout: Layout, frame: Frame, prefix: int | None = None) -> Maps:
    """Lay out a layer's output (or its gradient) as maps: channels first, then rows and columns; a view.

    Convolutional maps are taken as they are; maps with their channels last are turned; a sequence of tokens is
    laid out on the grid whose aspect is nearest to the frame's, without the tokens before the patches (class,
    distillation, registers): ``prefix`` of them if that leaves a grid, else none, one, or the only number up to
    eight that does.

    Args:
        values: the output.
        layout: where it has what.
        frame: ``(height, width)`` of the network's input.
        prefix: how many such tokens the network says that it has; see `prefix_tokens`.

    Raises:
        ValueError: if the output does not have this layout.
    """
    if values.ndim != (4 if layout.startswith("channels") else 3):
        raise ValueError(
            f"explainer.layout={layout} does not fit {tuple(values.shape)}, which so has no rows and columns"
        )
    if layout == "channels_first":
        return values
    if layout == "channels_last":
        return values.movedim(-1, 1)
    values = values if layout == "tokens" else values.transpose(0, 1)
    skipped, grid = token_grid(values.shape[1], frame, prefix)
    return values[:, skipped:].transpose(1, 2).unflatten(2, grid)


def prefix_tokens(model: nn.Module) -> int | None:
    """Tell how many tokens come before the patches, if the network says so (``num_prefix_tokens``, as timm's)."""
    numbers = (getattr(module, "num_prefix_tokens", None) for module in model.modules())
    return next((number for number in numbers if isinstance(number, int)), None)


def token_grid(tokens: int, frame: Frame, prefix: int | None = None) -> tuple[int, tuple[int, int]]:
    """Find how many tokens come before the patches, and the rows and columns of these; see `as_maps`.

    Raises:
        ValueError: if no number of tokens leaves a grid, or several do.
    """
    for count in (prefix, 0, 1):
        grid = None if count is None else _grid(tokens - count, frame)
        if grid is not None:
            return count, grid  # type: ignore[return-value]
    grids = ((count, _grid(tokens - count, frame)) for count in range(2, MOST_PREFIX_TOKENS + 1))
    others = [(count, grid) for count, grid in grids if grid is not None and grid != (1, 1)]
    if len(others) == 1:
        return others[0]
    if others:
        counts = " or ".join(str(k) for k, _ in others)
        raise ValueError(
            f"of {tokens} tokens {counts} may come before the patches: give the network a num_prefix_tokens"
        )
    raise ValueError(f"{tokens} tokens do not form a grid with the aspect of a {frame[1]}×{frame[0]} px input")


def _grid(tokens: int, frame: Frame) -> tuple[int, int] | None:
    """Find the rows and columns of square patches; None if the number does not fit the frame's aspect."""
    rows = round(math.sqrt(max(tokens, 0) * frame[0] / frame[1]))
    if rows == 0 or tokens % rows:
        return None
    columns = tokens // rows
    return (rows, columns) if abs(frame[0] / rows - frame[1] / columns) < 1 else None


def frame_of(images: Tensor) -> Frame:
    """Tell the ``(height, width)`` in pixels of a batch of images or of network input."""
    return images.shape[-2], images.shape[-1]


def tensor_of(layer: nn.Module, output: object) -> Tensor:
    """Check that a target layer's output is a tensor.

    Raises:
        InputError: if it is something else.
    """
    if not isinstance(output, Tensor):
        raise InputError(
            f"target layer {type(layer).__name__} gives a {type(output).__name__}, not a tensor: {KEY} must name "
            "modules that do, such as a part of it"
        )
    return output


@contextmanager
def recording(layers: Sequence[nn.Module], *, gradients: bool) -> Iterator[dict[nn.Module, Tensor]]:
    """Record the layers' outputs of one forward pass.

    Args:
        layers: whose outputs are kept.
        gradients: switch gradients on behind the first of the layers to run, so that the graph starts
            there; what follows gets a copy and may work in place.

    Raises:
        InputError: inside, when a layer gives something else than a tensor.
    """
    recorded: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _: object, output: object) -> Tensor:
        output = tensor_of(module, output)
        if not gradients:
            recorded[module] = output.clone()
            return output
        torch.set_grad_enabled(True)
        recorded[module] = output if output.requires_grad else output.detach().requires_grad_()
        return recorded[module].clone()

    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_hook(keep))
        yield recorded
