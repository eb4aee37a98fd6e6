"""Target layers: found by name, brought to one layout, their outputs recorded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import swin_transformer

from gradsam_exp.errors import InputError, did_you_mean

_CHANNELS_LAST = (swin_transformer.SwinTransformerBlock, swin_transformer.PatchMerging)


def find_layer(model: nn.Module, path: str, *, key: str = "explainer.target_layers") -> nn.Module:
    """The submodule at a dotted path; numbers index into sequences, negative ones from the end.

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
            raise InputError(f"{key}={path!r}: there is no layer {part!r} {place}{did_you_mean(part, children)}")
        module = children[name]
        walked.append(part)
    return module


def as_maps(values: Tensor, layer: nn.Module, frame: tuple[int, int]) -> Float[Tensor, "batch channels h w"]:
    """A layer's output (or its gradient) as maps: one channel dimension, then rows and columns.

    Convolutional maps are taken as they are; the channels-last maps of Swin blocks are turned; a sequence
    of tokens ``(B, T, C)`` is laid out on the grid whose aspect is nearest to the frame's, without its
    class token if there is one.

    Args:
        values: the output of ``layer``.
        layer: decides between channels first and channels last.
        frame: ``(height, width)`` of the network's input.

    Raises:
        ValueError: if the output has no spatial layout.
    """
    if values.ndim == 4:
        last = isinstance(layer, _CHANNELS_LAST) or (
            isinstance(layer, (nn.LayerNorm, nn.Sequential))
            and any(isinstance(m, _CHANNELS_LAST) for m in layer.modules())
        )
        return values.movedim(-1, 1) if last else values
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


def _grid(tokens: int, frame: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of square patches; None if the number does not fit the frame's aspect."""
    rows = round(math.sqrt(tokens * frame[0] / frame[1]))
    if rows == 0 or tokens % rows:
        return None
    columns = tokens // rows
    return (rows, columns) if abs(frame[0] / rows - frame[1] / columns) < 1 else None


def frame_of(images: Tensor) -> tuple[int, int]:
    """``(height, width)`` px of a batch of images or of network input."""
    return images.shape[-2], images.shape[-1]


@contextmanager
def recording(layers: Sequence[nn.Module], *, gradients: bool) -> Iterator[dict[nn.Module, Tensor]]:
    """Keep the layers' outputs of one forward pass.

    Args:
        layers: whose outputs are kept.
        gradients: switch gradients on behind the first of the layers to run, so that the graph starts
            there; what follows gets a copy and may work in place.
    """
    recorded: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _: object, output: Tensor) -> Tensor:
        if not gradients:
            recorded[module] = output.clone()
            return output
        torch.set_grad_enabled(True)
        recorded[module] = output if output.requires_grad else output.detach().requires_grad_()
        return recorded[module].clone()

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()
