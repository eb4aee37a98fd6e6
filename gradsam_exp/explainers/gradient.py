"""Class activation maps weighted by gradients. Hooks live for one call, gradients for one layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gradsam_exp.explainers.base import EXPLAINERS, Upsample, combine_layers, evaluation_mode
from gradsam_exp.explainers.layers import find_layer
from gradsam_exp.types import Heatmaps


class GradientCAM(ABC):
    """Base of the methods that look at one layer's activations and the class score's gradient there.

    The network runs once, in eval mode. Up to the first target layer nothing is recorded; from there on
    the graph is kept and the gradient goes back to the target layers and no further. Images of a batch
    do not influence one another: their scores are summed, so each gets its own gradient.

    Args:
        model: any network that maps a batch of images to logits ``(B, classes)``.
        target_layers: modules, or dotted names such as ``layer2.-1``; each layer's map is scaled to
            [0, 1] and the maps are averaged.
        upsample: interpolation from the layer's resolution to the image's.

    Raises:
        InputError: if a named layer does not exist.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[str | nn.Module],
        *,
        upsample: Upsample = "bilinear",
    ) -> None:
        self.model = model
        self.target_layers = [
            layer if isinstance(layer, nn.Module) else find_layer(model, layer) for layer in target_layers
        ]
        if not self.target_layers:
            raise ValueError("target_layers is empty: name at least one layer, such as layer2.-1")
        self.upsample = upsample

    def __call__(self, images: Tensor, targets: Int[Tensor, " batch"] | None = None) -> Heatmaps:
        """See `Explainer.__call__`. Works inside ``torch.no_grad`` as well, not in ``inference_mode``."""
        activations, gradients, targets, logits = self._record(images, targets)
        maps = [self.weigh(a, g) for a, g in zip(activations, gradients, strict=True)]
        size = (images.shape[-2], images.shape[-1])
        return combine_layers(maps, size, targets, logits, self.upsample)

    @abstractmethod
    def weigh(
        self, activations: Float[Tensor, "batch channels h w"], gradients: Float[Tensor, "batch channels h w"]
    ) -> Float[Tensor, "batch h w"]:
        """The raw map of one layer: what tells one method from another."""

    def _record(self, images: Tensor, targets: Tensor | None) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        with evaluation_mode(self.model), _recording(self.target_layers) as recorded, torch.no_grad():
            logits = self.model(images)  # a hook switches gradients on behind the first target layer
            if targets is None:
                targets = logits.detach().argmax(1)
            targets = targets.to(logits.device)
            if ((targets < 0) | (targets >= logits.shape[1])).any():
                raise ValueError(f"targets must be class ids in 0..{logits.shape[1] - 1}, got {targets.tolist()}")
            missing = [k for k, layer in enumerate(self.target_layers) if layer not in recorded]
            if missing:
                raise ValueError(f"target layers {missing} were not used in the forward pass")
            activations = [recorded[layer] for layer in self.target_layers]
            with torch.enable_grad():
                score = logits.gather(1, targets[:, None]).sum()
            gradients = torch.autograd.grad(score, activations)
        return [a.detach() for a in activations], list(gradients), targets, logits.detach()


@contextmanager
def _recording(layers: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Keep the layers' outputs of one forward pass; the graph starts at the first of them to run."""
    recorded: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _: object, output: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            torch.set_grad_enabled(True)
        if output.requires_grad:
            recorded[module] = output
        else:
            recorded[module] = output.detach().requires_grad_()
        return recorded[module].clone()  # what follows may work in place

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


@EXPLAINERS.register("gradcam")
class GradCAM(GradientCAM):
    """Grad-CAM (Selvaraju et al., ICCV 2017, eq. 1 and 2): channels weighted by their mean gradient, then ReLU."""

    def weigh(
        self, activations: Float[Tensor, "batch channels h w"], gradients: Float[Tensor, "batch channels h w"]
    ) -> Float[Tensor, "batch h w"]:
        """``ReLU(Σ_k α_k A_k)`` with ``α_k`` the gradient averaged over the layer's pixels."""
        weights = gradients.mean((2, 3))
        return torch.einsum("bk,bkhw->bhw", weights, activations).relu()
