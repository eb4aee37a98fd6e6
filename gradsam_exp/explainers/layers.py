"""These functions find target layers by name, check them, record their outputs and bring them to one layout."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.convnext import CNBlock
from torchvision.models.swin_transformer import SwinTransformer

from gradsam_exp.errors import InputError, did_you_mean

KEY = "explainer.target_layers"
Maps = Float[Tensor, "batch channels h w"]
Map = Float[Tensor, "batch h w"]
Pixels = Float[Tensor, "batch channels height width"]
Frame = tuple[int, int]
"""The height and the width of images or of the network's input, in pixels."""


def find_layer(model: nn.Module, path: str) -> nn.Module:
    """Find the submodule at a dotted path; numbers index into sequences, negative ones from the end.

    A model that keeps its network in ``backbone`` (as `ImageClassifier` does) is searched below that.

    Raises:
        InputError: if there is none; lists what exists at the place where the path went wrong.
    """
    module = getattr(model, "backbone", model)
    walked: list[str] = []
    for part in path.split("."):
        children = dict(module.named_children())
        name = part
        if part.lstrip("-").isdigit() and -len(children) <= int(part) < len(children):
            name = list(children)[int(part)]
        if name not in children:
            place = f"below {'.'.join(walked)!r}" if walked else f"in {type(module).__name__}"
            raise InputError(f"{KEY}={path!r}: there is no layer {part!r} {place}{did_you_mean(part, children)}")
        module = children[name]
        walked.append(part)
    return module


def layers_with_channels_last(model: nn.Module) -> frozenset[nn.Module]:
    """Find the layers whose maps have their channels last, which `as_maps` turns.

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


def as_maps(values: Tensor, layer: nn.Module, frame: Frame, channels_last: Collection[nn.Module] = ()) -> Maps:
    """Lay out a layer's output (or its gradient) as maps: channels first, then rows and columns.

    Convolutional maps are taken as they are; maps with their channels last are turned; a sequence of
    tokens ``(B, T, C)`` is laid out on the grid whose aspect is nearest to the frame's, without its class
    token if there is one.

    Args:
        values: the output of ``layer``.
        layer: whose output it is.
        frame: ``(height, width)`` of the network's input.
        channels_last: the layers whose maps are turned; see `layers_with_channels_last`.

    Raises:
        ValueError: if the output has no spatial layout.
    """
    if values.ndim == 4:
        return values.movedim(-1, 1) if layer in channels_last else values
    if values.ndim != 3:
        raise ValueError(
            f"target layer {type(layer).__name__} gives {tuple(values.shape)}, which has no rows and columns"
        )
    tokens = values.shape[1]
    for class_tokens in (0, 1):
        grid = _grid(tokens - class_tokens, frame)
        if grid is not None:
            return values[:, class_tokens:].transpose(1, 2).unflatten(2, grid)
    raise ValueError(f"{tokens} tokens do not form a grid with the aspect of a {frame[1]}×{frame[0]} px input")


def _grid(tokens: int, frame: Frame) -> tuple[int, int] | None:
    """Find the rows and columns of square patches; None if the number does not fit the frame's aspect."""
    rows = round(math.sqrt(tokens * frame[0] / frame[1]))
    if rows == 0 or tokens % rows:
        return None
    columns = tokens // rows
    return (rows, columns) if abs(frame[0] / rows - frame[1] / columns) < 1 else None


def frame_of(images: Tensor) -> Frame:
    """Tell the ``(height, width)`` in pixels of a batch of images or of network input."""
    return images.shape[-2], images.shape[-1]


def check_layers(
    network: nn.Module,
    layers: Mapping[str, nn.Module],
    frame: Frame,
    channels_last: Collection[nn.Module] = (),
    *,
    by_influence: bool = False,
    once: bool = False,
) -> None:
    """Refuse layers that give no maps, found out by one forward pass that computes nothing.

    A network that cannot run without values is not checked.

    Args:
        network: in eval mode on the meta device, where a pass takes milliseconds.
        layers: some of its modules, by the names that were given for them.
        frame: ``(height, width)`` px of the network's input.
        channels_last: see `as_maps`.
        by_influence: the layers are explained by what their patches change in the output.
        once: the network is run again behind each layer, which must have one place in it.

    Raises:
        InputError: a layer that is not used, has no rows and columns, or is used more often than it may be; one
            that only a class token leaves, if influence counts. Names the layer and the hint what to do.
    """
    outputs: dict[nn.Module, list[Any]] = {layer: [] for layer in layers.values()}
    last_in_sight: dict[nn.Module, bool] = dict.fromkeys(outputs, False)  # no attention has begun since

    def keep(module: nn.Module, _: object, output: Any) -> None:
        outputs[module].append(output)
        last_in_sight[module] = True

    def attend(_: nn.Module, __: object) -> None:
        last_in_sight.update(dict.fromkeys(last_in_sight, False))

    attentions = [module for module in network.modules() if isinstance(module, nn.MultiheadAttention)]
    try:
        with ExitStack() as hooks, torch.no_grad():
            for layer in outputs:
                hooks.enter_context(layer.register_forward_hook(keep))
            for module in attentions:
                hooks.enter_context(module.register_forward_pre_hook(attend))
            network(torch.empty(2, 3, *frame, device="meta"))
    except Exception:  # of many kinds; whether the network runs is not the question here
        return
    for name, layer in layers.items():
        given = f"{KEY}={name}"
        if not outputs[layer]:
            raise InputError(f"{given} is not used when the network runs; take the block that it is in")
        if once and len(outputs[layer]) > 1:
            raise InputError(
                f"{given} is used {len(outputs[layer])} times when the network runs, and this explainer runs what "
                "comes after a layer: take the block that it is in"
            )
        tokens = _check_map(given, layer, outputs[layer][-1], frame, channels_last)
        if by_influence and attentions and tokens and last_in_sight[layer]:
            raise InputError(
                f"{given} comes after the last attention: only the class token goes on, no patch has any "
                "influence, and every heatmap is empty. Take a layer before it, such as encoder.layers.-1.ln_1"
            )


def _check_map(given: str, layer: nn.Module, output: Any, frame: Frame, turned: Collection[nn.Module]) -> bool:
    """Tell whether a layer gives a class token beside the map of each of two images; refuse it without a map."""
    hint = "take one that does, such as layer2.-1 of a ResNet or encoder.layers.-1.ln_1 of a ViT"
    if not isinstance(output, Tensor):
        raise InputError(f"{given} gives a {type(output).__name__}, which has no rows and columns; {hint}")
    if len(output) != 2:
        raise InputError(f"{given} does not give one map for each image; {hint}")
    try:
        maps = as_maps(output, layer, frame, turned)
    except ValueError as error:
        shape = "×".join(map(str, output.shape[1:]))
        numbers = f"{given} ({type(layer).__name__}) gives {shape} numbers for an image"
        raise InputError(f"{numbers}, which have no rows and columns; {hint}") from error
    return output.ndim == 3 and maps[0, 0].numel() < output.shape[1]


def tensor_of(layer: nn.Module, output: object) -> Tensor:
    """Check that a target layer's output is a tensor.

    Raises:
        TypeError: if it is something else.
    """
    if not isinstance(output, Tensor):
        raise TypeError(f"target layer {type(layer).__name__} gives a {type(output).__name__}, not a tensor")
    return output


@contextmanager
def recording(layers: Sequence[nn.Module], *, gradients: bool) -> Iterator[dict[nn.Module, Tensor]]:
    """Record the layers' outputs of one forward pass.

    Args:
        layers: whose outputs are kept.
        gradients: switch gradients on behind the first of the layers to run, so that the graph starts
            there; what follows gets a copy and may work in place.

    Raises:
        TypeError: inside, when a layer gives something else than a tensor.
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
