"""These functions run the network that is explained: any dtype and output, further arguments, compiled or not."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradsam_exp.errors import InputError
from gradsam_exp.explainers.scores import Logits
from gradsam_exp.types import logits_of

Pixels = Float[Tensor, "batch channels height width"]
SAME = {torch.float32: 1e-3, torch.float64: 1e-3}
"""By how much of their largest value two passes' logits may differ; other dtypes: a tenth."""


class Bound(nn.Module):
    """Bound is a network together with the further arguments of one call.

    Args:
        network: called as ``network(pixels, *args, **kwargs)``.
        args, kwargs: tensors with a row for each of the ``images`` are given row by row, all else as it is.
        images: how many images there are.
    """

    def __init__(self, network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], images: int) -> None:
        super().__init__()
        self.network, self.args, self.kwargs, self.images = network, args, kwargs, images

    def forward(self, pixels: Tensor, of: Tensor | None = None) -> Any:
        """Run the network; ``of`` tells for each row which of the images it is made of, by default each of one."""

        def rows(value: Any) -> Any:
            has_rows = isinstance(value, Tensor) and value.ndim and len(value) == self.images
            return value[of.to(value.device)] if has_rows and of is not None else value

        kwargs = {name: rows(value) for name, value in self.kwargs.items()}
        return self.network(pixels, *map(rows, self.args), **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Look up what is not here in the network: its ``transform``, say."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network itself, without `Bound` and without what `torch.compile` puts around it."""
    while isinstance(model, Bound) or "_orig_mod" in model._modules:
        model = model.network if isinstance(model, Bound) else model._modules["_orig_mod"]  # type: ignore[assignment]
    return model


def run(model: nn.Module, pixels: Pixels, of: Tensor | None = None) -> Logits:
    """Run a network on input in its own dtype, and read its logits in float32, whatever it returns.

    Args:
        model: any network; see `gradsam_exp.types.logits_of` for what it may return.
        pixels: network input; cast to the dtype of the network's parameters.
        of: which image each row is made of, where the rows are not the images; for further arguments.

    Raises:
        InputError: if what the network returns is not logits.
    """
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), pixels.dtype)
    pixels = pixels.to(dtype)
    output = logits_of(model(pixels, of) if isinstance(model, Bound) else model(pixels))
    if len(output) != len(pixels):
        raise InputError(f"the classifier gives {len(output)} rows of logits for {len(pixels)} images")
    return output


def widened(values: Tensor) -> Tensor:
    """Bring half precision to float32; what is more precise stays as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def gradients(score: Tensor, inputs: Sequence[Tensor], *, create_graph: bool = False) -> tuple[Tensor, ...]:
    """Take a score's gradient with respect to tensors that it was computed from.

    Raises:
        InputError: if no gradient reaches one of them, as in a network that computes under ``torch.no_grad``.
    """
    found: Sequence[Tensor | None] = [None]
    if score.requires_grad and all(one.requires_grad for one in inputs):
        found = torch.autograd.grad(score, inputs, create_graph=create_graph, allow_unused=True)
    if any(gradient is None for gradient in found):
        raise InputError(
            "no gradient goes from the logits back to what is explained: the network computes something in "
            "between under torch.no_grad() or detaches it (take that out), or the target layer has no part in the "
            "logits (explainer.target_layers); explainer=eigencam, scorecam and rise need no gradients"
        )
    return tuple(found)  # type: ignore[arg-type]


def check_same_logits(model: nn.Module, pixels: Pixels, logits: Logits) -> None:
    """Check, on the first image, that the network gave the logits that it gives when nobody watches.

    Raises:
        InputError: if it did not; the heatmaps would be those of another network.
    """
    with torch.no_grad():
        plain = run(model, pixels[:1], torch.zeros(1, dtype=torch.long))
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    difference = (plain - logits[:1].detach()).abs().amax()
    if difference > SAME.get(dtype, 0.1) * plain.abs().amax():
        raise InputError(
            f"while it is explained the network gives logits that differ by {float(difference):.2g} from those of "
            "a plain pass: it draws random numbers in eval mode, or its forward does not go through its modules"
        )


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, uncompiled, and give every submodule its own training flag back afterwards.

    Hooks do not run inside compiled graphs, so those are not used meanwhile.
    """
    flags = [(module, module.training) for module in model.modules()]
    compiled = any(m._compiled_call_impl is not None or "_orig_mod" in m._modules for m, _ in flags)
    model.train(False)
    try:
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            yield
    finally:
        for module, flag in flags:
            module.training = flag


def network_input(model: nn.Module, images: Tensor) -> Pixels:
    """Transform uint8 images into what the network's first layer sees; floating-point images are that already."""
    if images.is_floating_point():
        return images
    transform = getattr(model, "transform", None)
    if transform is None:
        raise ValueError("uint8 images need a model with a `transform`; give floating-point network input instead")
    return transform(images)
