"""`Suffix` re-runs a network from a given layer on, with changed activations; AblationCAM uses it.

The first forward pass notes every module call that has ended when the target layer ends. In later passes
these calls return what they returned then, without computing; the target layer returns what it is given;
what comes after runs as usual. So any module graph will do, residual connections and reused modules
included; only arithmetic written between modules before the layer is done again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradsam_exp.explainers.layers import tensor_of


@dataclass(eq=False)
class _Call:
    """One call of a module; ``output`` stays None until it has ended."""

    module: nn.Module
    parent: _Call | None
    ended: bool = False
    output: Any = None


class Suffix:
    """A suffix is the part of a network that comes after one layer, for a batch of images.

    Args:
        model: in eval mode.
        layer: one of its modules, called once in a forward pass.
        images: the batch.

    Attributes:
        activations: the layer's output.
        logits: the batch's.

    Raises:
        ValueError: if the layer is not used, or used more than once.
        TypeError: if it gives something else than a tensor.
    """

    def __init__(self, model: nn.Module, layer: nn.Module, images: Tensor) -> None:
        self.model, self.layer, self.images = model, layer, images
        self.logits, calls = self._noted_calls()
        # Calls within calls that have ended are not made again.
        self._before = [call for call in calls if call.parent is None or not call.parent.ended]
        self.activations = tensor_of(layer, self._before[-1].output)

    def _noted_calls(self) -> tuple[Tensor, list[_Call]]:
        """Run the whole network; returns the logits and the calls that had ended when the layer's did."""
        running: list[_Call] = []
        ended: list[_Call] = []
        uses = 0

        def begin(module: nn.Module, _: object) -> None:
            running.append(_Call(module, running[-1] if running else None))

        def end(module: nn.Module, _: object, output: Any) -> None:
            nonlocal uses
            call = running.pop()
            if uses == 0:
                call.ended, call.output = True, _copied(output)
                ended.append(call)
            uses += module is self.layer

        with ExitStack() as hooks, torch.no_grad():
            for module in self.model.modules():
                hooks.callback(module.register_forward_pre_hook(begin).remove)
                hooks.callback(module.register_forward_hook(end).remove)
            logits = self.model(self.images)
        if uses != 1:
            raise ValueError(f"target layer {type(self.layer).__name__} was used {uses} times in the forward pass")
        return logits, ended

    @torch.no_grad()
    def __call__(self, activations: Tensor, image: int) -> Float[Tensor, "rows classes"]:
        """Compute one image's logits with the layer's output replaced by each row of ``activations``."""
        rows = len(activations)
        outputs: dict[nn.Module, list[Any]] = {}
        for call in self._before:
            output = activations if call.module is self.layer else _repeated(call.output, image, rows)
            outputs.setdefault(call.module, []).append(output)
        with ExitStack() as patches:
            for module, in_turn in outputs.items():
                patches.enter_context(_replaying(module, in_turn))
            return self.model(_repeated(self.images, image, rows))


@contextmanager
def _replaying(module: nn.Module, outputs: list[Any]) -> Iterator[None]:
    """Let a module return ``outputs`` in turn and then compute again."""
    original: Callable[..., Any] = module.forward
    own = module.__dict__.get("forward")
    turn = iter(outputs)

    def forward(*args: Any, **kwargs: Any) -> Any:
        for output in turn:
            return output
        return original(*args, **kwargs)

    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def _repeated(output: Any, image: int, rows: int) -> Any:
    """Give one image's part of an output for every row, without copying it."""
    if isinstance(output, Tensor):
        return output[image].expand(rows, *output.shape[1:])
    if isinstance(output, (tuple, list)):
        return type(output)(_repeated(part, image, rows) for part in output)
    return output


def _copied(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.clone()  # a later module may work in place
    return type(output)(map(_copied, output)) if isinstance(output, (tuple, list)) else output
