"""A dry run finds out which layers of a network give maps, where its attention is, and which layer to explain.

It is one forward pass on PyTorch's ``meta`` device, which computes shapes and no values, in milliseconds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torchvision.ops import Permute

from gradsam_exp.errors import InputError, first_line
from gradsam_exp.explainers.layers import (
    KEY,
    Frame,
    Layout,
    Maps,
    as_maps,
    find_layout,
    layers_with_channels_last,
    prefix_tokens,
    roots,
)
from gradsam_exp.explainers.network import Pixels, evaluation_mode, run

IMAGES = 2  # in a dry run
_IDLE = (nn.Identity, nn.Dropout, nn.AdaptiveAvgPool2d, Permute)


@dataclass(frozen=True)
class Call:
    """One call of a module in a dry run, for two images.

    Attributes:
        name: dotted, as `gradsam_exp.explainers.layers.find_layer` takes it.
        within: the modules that were running around it.
        attentions: how many attentions had been computed when it ended.
    """

    name: str
    module: nn.Module
    output: Any
    within: Sequence[nn.Module]
    attentions: int


@dataclass
class DryRun:
    """What was seen in a dry run.

    Attributes:
        calls: in the order in which they ended.
        attending: for each attention that was computed, the innermost module that was running.
    """

    network: nn.Module
    frame: Frame
    calls: list[Call] = field(default_factory=list)
    attending: list[nn.Module] = field(default_factory=list)

    def maps(self) -> list[tuple[Call, tuple[int, int, int], bool]]:
        """List the calls that gave maps: with channels, rows and columns, and whether tokens came before them.

        Those inside attention, those that do nothing, and the whole network are left out.
        """
        turned, prefix, inside = (
            layers_with_channels_last(self.network),
            prefix_tokens(self.network),
            set(self.attending),
        )
        found = []
        for call in self.calls:
            if (
                not isinstance(call.output, Tensor)
                or isinstance(call.module, _IDLE)
                or inside.intersection(call.within)
            ):
                continue
            try:
                layout = find_layout(call.output.shape, call.module, self.frame, IMAGES, turned)
                maps = as_maps(call.output, layout or "channels_first", self.frame, prefix)
            except ValueError:
                continue
            channels, rows, columns = maps.shape[1:]
            if channels == 1 and call.output.ndim == 3:  # channels, pooled, and not tokens
                continue
            found.append((call, (channels, rows, columns), maps[0, 0].numel() * channels < call.output[0].numel()))
        return [one for one in found if one[0].within]

    def listed(self) -> str:
        """Word the layers that give maps: the last of each shape, with its channels, rows and columns."""
        last = {shape: call.name for call, shape, _ in self.maps()}
        named = [f"{name} ({'×'.join(map(str, shape))})" for shape, name in list(last.items())[-8:]]
        return f"; layers that give maps: {', '.join(named)}" if named else ""


class Attentions(TorchFunctionMode):
    """Attentions calls back before every attention that any network computes by PyTorch's functions."""

    def __init__(self, begun: Callable[[], object]) -> None:
        super().__init__()
        self.begun = begun

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of PyTorch."""
        if getattr(func, "__name__", "") in ("scaled_dot_product_attention", "multi_head_attention_forward"):
            self.begun()
        result = func(*args, **(kwargs or {}))
        if is_softmax(func, result):
            self.begun()
        return result


def is_softmax(func: Any, result: Any) -> bool:
    """Tell whether a function of PyTorch has computed an attention matrix ``(B, heads, T, T)``."""
    if getattr(func, "__name__", "") != "softmax" or result.ndim != 4:
        return False
    return bool(result.shape[-1] == result.shape[-2] > 1)


def dry_run(model: nn.Module, frame: Frame, *, images: int = IMAGES, channels: int = 3) -> DryRun:
    """Run a network in eval mode once, without values if it can, else with them, and see what its modules give.

    Args:
        model: on any device, ``meta`` included.
        frame: ``(height, width)`` px of the network's input.
        images, channels: how many.

    Raises:
        Exception: whatever the network raises.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    device = next((tensor.device for tensor in tensors.values()), torch.device("cpu"))
    weightless = {f"model.{name}": tensor.to("meta") for name, tensor in tensors.items()}
    found = DryRun(model, frame)
    try:
        with _watching(found):
            functional_call(_Run(model), weightless, (torch.empty(images, channels, *frame, device="meta"),))
    except InputError:
        raise
    except Exception:  # of many kinds: it needs values to run
        if device.type == "meta":
            raise
        found = DryRun(model, frame)
        with _watching(found):
            _Run(model)(torch.zeros(images, channels, *frame, device=device))
    return found


class _Run(nn.Module):
    """Calls `run`, with whichever parameters the network has for the moment."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return run(self.model, pixels, torch.zeros(len(pixels), dtype=torch.long))


@contextmanager
def _watching(found: DryRun) -> Iterator[None]:
    """Note the calls of all modules, and the attentions, of what is run inside."""
    running: list[nn.Module] = []
    names = {module: name for root in reversed(roots(found.network)) for name, module in root.named_modules()}

    def end(module: nn.Module, _: object, output: Any) -> None:
        running.pop()
        found.calls.append(Call(names.get(module, ""), module, output, tuple(running), len(found.attending)))

    with evaluation_mode(found.network), ExitStack() as hooks, torch.no_grad():
        for module in found.network.modules():
            hooks.enter_context(module.register_forward_pre_hook(lambda m, _: running.append(m)))
            hooks.enter_context(module.register_forward_hook(end))
        hooks.enter_context(Attentions(lambda: found.attending.append(running[-1])))
        yield


def default_frame(model: nn.Module) -> Frame:
    """Tell the ``(height, width)`` px that a network is made for, if it says so; else 224×224."""
    size = getattr(getattr(model, "transform", None), "size", None)
    named = (getattr(m, name, None) for m in model.modules() for name in ("img_size", "image_size"))
    size = size or next((one for one in named if isinstance(one, (int, tuple, list))), None)
    size = size or (getattr(roots(model)[0], "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))[1:]
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def find_target_layers(network: nn.Module, frame: Frame, *, channels: int = 3) -> list[str]:
    """Find the layer to explain: the last one that gives maps of more than one pixel.

    In a network whose output looks at a token of its own, as a ViT's class token, it is the last before the last
    attention (``blocks.11.norm1`` of timm's ViT): behind that no patch has any influence.

    Args:
        network: any classifier.
        frame: ``(height, width)`` px of its input.
        channels: of its input.

    Returns:
        The layer's dotted name, alone in a list.

    Raises:
        InputError: if the network does not take such input, or no layer gives maps.
    """
    try:
        seen = dry_run(network, frame, channels=channels)
    except InputError:
        raise
    except Exception as error:  # of many kinds
        raise InputError(
            f"{KEY}=auto: the network does not take images of {frame[0]}×{frame[1]} px (height × width), "
            f"{first_line(error)}: give model.size, or name the layers"
        ) from error
    maps = [one for one in seen.maps() if one[0].name]
    maps = [one for one in maps if one[1][1] * one[1][2] > 1] or maps
    if not maps:
        raise InputError(f"{KEY}=auto: no layer gives rows and columns; name one, or choose explainer=rise")
    if maps[-1][2]:
        maps = [one for one in maps if one[0].attentions < len(seen.attending)] or maps
    return [maps[-1][0].name]


def probed_layout(model: nn.Module, layer: nn.Module, pixels: Pixels) -> Layout | None:
    """Find a layer's layout from what changes with larger images, or with one more; None if that tells nothing.

    Args:
        pixels: network input; only its shape counts.
    """
    images, channels, height, width = pixels.shape

    def shape(images: int, scale: int) -> torch.Size:
        seen = dry_run(model, (scale * height, scale * width), images=images, channels=channels)
        return next(call.output.shape for call in reversed(seen.calls) if call.module is layer)

    try:
        now = shape(images, 1)
        changed = shape(images + 1, 1) if len(now) == 3 else shape(images, 2)
    except Exception:  # of many kinds: it takes no other images
        return None
    kept = [after == before for after, before in zip(changed, now, strict=True)]
    layouts: dict[tuple[bool, ...], Layout] = {
        (True, True, False, False): "channels_first",
        (True, False, False, True): "channels_last",
        (False, True, True): "tokens",
        (True, False, True): "tokens_first",
    }
    return layouts.get(tuple(kept))


def check_layers(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    frame: Frame,
    lay_out: Callable[[Tensor, nn.Module, Tensor], Maps],
    *,
    by_influence: bool = False,
    once: bool = False,
) -> None:
    """Refuse layers that give no maps, found out by a dry run; a network that cannot run without values passes.

    Args:
        model: on the meta device.
        layers: some of its modules, by the names that were given for them.
        frame: ``(height, width)`` px of the network's input.
        lay_out: makes maps of a layer's output for network input; raises `ValueError` if it cannot.
        by_influence: the layers are explained by what their patches change in the output.
        once: the network is run again behind each layer, which must have one place in it.

    Raises:
        InputError: a layer that is not used, has no rows and columns, or is used more often than it may be; one
            that only a class token leaves, if influence counts. Names the layer and the hint what to do.
    """
    try:
        seen = dry_run(model, frame)
    except InputError:
        raise
    except Exception:  # of many kinds; whether the network runs is not the question here
        return
    # Else, as in a network that averages its tokens, patches count behind the last attention, too.
    class_token_only = any(
        isinstance(module, nn.MultiheadAttention) or getattr(module, "global_pool", "") == "token"
        for module in model.modules()
    )
    for name, layer in layers.items():
        given, calls = f"{KEY}={name}", [call for call in seen.calls if call.module is layer]
        if not calls:
            raise InputError(
                f"{given} is not used when the network runs; take the block that it is in{seen.listed()}"
            )
        if once and len(calls) > 1:
            raise InputError(
                f"{given} is used {len(calls)} times when the network runs, and this explainer runs what "
                "comes after a layer: take the block that it is in"
            )
        tokens = _check_map(given, layer, calls[-1].output, lay_out, seen)
        if by_influence and class_token_only and tokens and 0 < calls[-1].attentions == len(seen.attending):
            raise InputError(
                f"{given} comes after the last attention: only the class token goes on, no patch has any "
                "influence, and every heatmap is empty. Take a layer before it, such as encoder.layers.-1.ln_1"
            )


def _check_map(
    given: str, layer: nn.Module, output: Any, lay_out: Callable[[Tensor, nn.Module, Tensor], Maps], seen: DryRun
) -> bool:
    """Tell whether a layer gives tokens beside the map of each of two images; refuse it without a map."""
    hint = f"take one that does, such as layer2.-1 of a ResNet or encoder.layers.-1.ln_1 of a ViT{seen.listed()}"
    if not isinstance(output, Tensor):
        raise InputError(f"{given} gives a {type(output).__name__}, which has no rows and columns; {hint}")
    if IMAGES not in output.shape[:2]:
        raise InputError(f"{given} does not give one map for each image; {hint}")
    try:
        maps = lay_out(output, layer, torch.empty(IMAGES, 3, *seen.frame, device="meta"))
    except ValueError as error:
        shape = "×".join(map(str, output.shape[1:]))
        raise InputError(
            f"{given} ({type(layer).__name__}) gives {shape} numbers for an image: {error}; {hint}"
        ) from error
    return output.ndim == 3 and maps.numel() < output.numel()
