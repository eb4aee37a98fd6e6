"""CAM, Eigen-CAM, KPCA-CAM and FEM need a layer's activations, of one forward pass, and no gradient."""

from abc import abstractmethod
from contextlib import ExitStack

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from gradsam_exp.errors import InputError
from gradsam_exp.explainers.base import EXPLAINERS, LayerExplainer, Recorded, Width, checked_targets
from gradsam_exp.explainers.layers import Map, Maps, find_layer, recording
from gradsam_exp.explainers.network import widened
from gradsam_exp.explainers.projection import Kernel, first_component, first_kernel_component
from gradsam_exp.explainers.scores import Score, class_score
from gradsam_exp.types import logits_of


class ActivationCAM(LayerExplainer):
    """An activation CAM needs one forward pass and no gradient."""

    @abstractmethod
    def weigh(self, activations: Maps, targets: Tensor, logits: Tensor) -> Map:
        """Make the raw map of one layer."""

    def layer_maps(self, pixels: Tensor, targets: Tensor | None = None) -> Recorded:
        """Make the raw map of every target layer from one forward pass."""
        with recording(self.layers, gradients=False) as recorded, torch.no_grad():
            logits = self.run(pixels)
        targets = checked_targets(targets, logits)
        layers = [
            widened(self.as_maps(self.recorded_output(recorded, layer), layer, pixels)) for layer in self.layers
        ]
        return Recorded([self.weigh(activations, targets, logits) for activations in layers], targets, logits)


@EXPLAINERS.register("eigencam")
class EigenCAM(ActivationCAM):
    """EigenCAM shows the first principal component of a layer's activations, then ReLU.

    Muhammad and Yeasin: *Eigen-CAM* (IJCNN 2020). The mean is removed first, as the grad-cam package does and the
    paper does not. It looks at no class, so there is no score to choose.
    """

    def weigh(self, activations: Maps, targets: Tensor, logits: Tensor) -> Map:
        """Project every pixel on the first principal component."""
        del targets, logits
        return first_component(activations).relu()


@EXPLAINERS.register("kpcacam")
@dataclass(frozen=True, kw_only=True)
class KPCACAM(ActivationCAM):
    """KPCACAM shows the first component of a kernel PCA of a layer's activations, then ReLU.

    Karmani et al.: *KPCA-CAM* (2024). It looks at no class, so there is no score to choose.

    Attributes:
        kernel: ``sigmoid`` (the paper's best), ``rbf`` or ``linear``.
    """

    kernel: Kernel = "sigmoid"

    def weigh(self, activations: Maps, targets: Tensor, logits: Tensor) -> Map:
        """Project every pixel on the first component in the kernel's feature space."""
        del targets, logits
        return first_kernel_component(activations, self.kernel).relu()


@EXPLAINERS.register("fem")
@dataclass(frozen=True, kw_only=True)
class FEM(ActivationCAM):
    """FEM weights a layer's channels by the share of their pixels that stand out, then ReLU.

    The Feature Explanation Method of Fuad et al., "Features Understanding in 3D CNNs for Actions Recognition in
    Video" (IPTA 2020), as the grad-cam package has it. It looks at no class, so there is no score to choose.

    Attributes:
        k: a pixel stands out if it lies more than so many standard deviations above its channel's mean. In a map
            of fewer than ``k² + 2`` pixels none can.
    """

    k: Width = 2.0

    def weigh(self, activations: Maps, targets: Tensor, logits: Tensor) -> Map:
        """Compute ``ReLU(Σ_k w_k A_k)`` with ``w_k = mean(A_k > μ_k + k·σ_k)``."""
        del targets, logits
        deviation = activations.std((2, 3), correction=0, keepdim=True)
        outstanding = activations > activations.mean((2, 3), keepdim=True) + self.k * deviation
        weights = outstanding.to(activations.dtype).mean((2, 3))
        return torch.einsum("bk,bkhw->bhw", weights, activations).relu()


@EXPLAINERS.register("cam")
@dataclass(frozen=True, kw_only=True)
class CAM(ActivationCAM):
    """CAM weights a layer's channels by the class's row of the network's last linear layer.

    Zhou et al. (CVPR 2016), eq. 2. For networks that end in global average pooling and one linear layer, at the
    last convolutional layer. As in eq. 2 and the authors' code there is no ReLU: 0 of the heatmap is where most
    speaks against the class.

    Attributes:
        score: what is explained; see `class_score`. ``margin`` weighs by the difference between the rows of
            the class and of the runner-up.
        head: dotted name of the linear layer; None takes the one that gives the logits.

    Raises:
        InputError: if there is no such layer, or it does not take the target layer's channels.
    """

    score: Score = "logit"
    head: str | None = None

    def layer_maps(self, pixels: Tensor, targets: Tensor | None = None) -> Recorded:
        """Make the raw map of every target layer; the first time, find the linear layer that gives the logits."""
        if "head" not in self.known:
            self.known["head"] = self._head(pixels)
        return super().layer_maps(pixels, targets)

    def _head(self, pixels: Tensor) -> nn.Linear | None:
        if self.head is not None:
            named = find_layer(self.model, self.head, key="explainer.head")
            if not isinstance(named, nn.Linear):
                raise InputError(f"explainer.head={self.head} is a {type(named).__name__}, not a linear layer")
            return named
        linear = [module for module in self.model.modules() if isinstance(module, nn.Linear)]
        given: list[tuple[nn.Linear, Tensor]] = []
        with ExitStack() as hooks, torch.no_grad():
            for module in linear:
                hooks.enter_context(module.register_forward_hook(lambda m, _, output: given.append((m, output))))
            logits = self.run(pixels)
        found = [(m, logits_of(output)) for m, output in given if output.ndim == 2]
        found = [(m, own) for m, own in found if own.shape == logits.shape and not (own != logits).any()]
        return found[-1][0] if found else None

    def weigh(self, activations: Maps, targets: Tensor, logits: Tensor) -> Map:
        """Compute ``Σ_k w_k A_k`` with ``w = Σ_d w_d ∂score/∂y_d``, which is ``w_c`` for the logit."""
        head: nn.Linear | None = self.known["head"]
        if head is None or head.in_features != activations.shape[1]:
            raise InputError(
                f"explainer=cam needs a network that pools the target layer ({activations.shape[1]} channels) and "
                "ends in one linear layer on it, which gives the logits (explainer.head names another), such as "
                "explainer.target_layers=[layer4.-1] of a ResNet; explainer=gradcam takes any layer"
            )
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            shares = torch.autograd.grad(class_score(self.score, leaf, targets).sum(), leaf)[0]
        weight = head.weight.detach().to(activations.dtype)
        if len(weight) == 1:  # of one logit, which `logits_of` makes two of
            weight = torch.cat([-weight / 2, weight / 2])
        return torch.einsum("bk,bkhw->bhw", shares.to(weight.dtype) @ weight, activations)
