"""`Suffix` re-runs a network from a given layer on, with changed activations; AblationCAM uses it.

The first forward pass notes every module call that has ended when the target layer ends. In later passes
these calls return what they returned then, without computing; the target layer returns what it is given;
what comes after runs as usual. So any module graph will do, residual connections and reused modules
included; only arithmetic written between modules before the layer is done again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradsam_exp.errors import InputError
from gradsam_exp.explainers.layers import tensor_of
from gradsam_exp.explainers.network import run

log = logging.getLogger(__name__)


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
        InputError: if the layer is not used, or used more than once, or gives something else than a tensor; if the
            network has parts before it whose outputs cannot be told apart by image.
    """

    def __init__(self, model: nn.Module, layer: nn.Module, images: Tensor) -> None:
        self.model, self.layer, self.images = model, layer, images
        self.logits, calls = self._noted_calls()
        # Calls within calls that have ended are not made again.
        self._before = [call for call in calls if call.parent is None or not call.parent.ended]
        self.activations = tensor_of(layer, self._before[-1].output)

    def check(self, axis: int = 0) -> None:
        """See that the first image's own activations, given twice, give its logits.

        Args:
            axis: of the images in the layer's output.

        Raises:
            InputError: if they do not: something before the layer has no part for each image.
        """
        rows = torch.zeros(2, dtype=torch.long, device=self.images.device)
        try:
            found: Tensor = self(self.activations.index_select(axis, rows), 0, axis)
            difference = float((found - self.logits[:1]).abs().amax() / self.logits[:1].abs().amax())
        except (RuntimeError, IndexError, ValueError) as error:  # shapes that do not fit
            log.debug("the rest of the network does not run alone (%s)", error)
            difference = torch.inf
        if difference > 0.01:
            raise InputError(
                f"what comes after the target layer {type(self.layer).__name__} cannot be run alone: take the "
                "block that it is in, or another explainer such as gradcam"
            )

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
            logits = run(self.model, self.images)
        if uses != 1:
            raise InputError(
                f"target layer {type(self.layer).__name__} was used {uses} times in the forward pass: take the "
                "block that it is in"
            )
        return logits, ended

    @torch.no_grad()
    def __call__(self, activations: Tensor, image: int, axis: int = 0) -> Float[Tensor, "rows classes"]:
        """Compute one image's logits with the layer's output replaced by each row, along ``axis``."""
        rows = activations.shape[axis]
        outputs: dict[nn.Module, list[Any]] = {}
        for call in self._before:
            own = call.module is self.layer
            output = activations if own else _repeated(call.output, image, rows, len(self.images))
            outputs.setdefault(call.module, []).append(output)
        with ExitStack() as patches:
            patches.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
            torch.backends.mha.set_fastpath_enabled(False)  # it does not go through the modules
            for module, in_turn in outputs.items():
                patches.enter_context(_replaying(module, in_turn))
            of = torch.full((rows,), image, device=self.images.device)
            return run(self.model, self.images[of], of)


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


def _repeated(output: Any, image: int, rows: int, images: int) -> Any:
    """Give one image's part of an output for every row, if it can be without copying it.

    The images' axis is the first, or of tokens the second; windows lie image after image along the first.
    """
    if isinstance(output, Tensor) and output.ndim:
        if len(output) == images:
            return output[image].expand(rows, *output.shape[1:])
        if output.ndim > 1 and output.shape[1] == images:
            return output[:, image : image + 1].expand(-1, rows, *output.shape[2:])
        if len(output) % images == 0:
            return output.unflatten(0, (images, -1))[image].repeat(rows, *[1] * (output.ndim - 1))
    if isinstance(output, Mapping):
        return type(output)(**{name: _repeated(part, image, rows, images) for name, part in output.items()})
    if isinstance(output, (tuple, list)):
        return type(output)(_repeated(part, image, rows, images) for part in output)
    return output


def _copied(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.clone()  # a later module may work in place
    if isinstance(output, Mapping):
        return type(output)(**{name: _copied(part) for name, part in output.items()})
    return type(output)(map(_copied, output)) if isinstance(output, (tuple, list)) else output
