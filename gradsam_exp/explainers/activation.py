"""Maps from activations alone: no gradient, and (but for CAM) no class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradsam_exp.errors import InputError
from gradsam_exp.explainers.base import EXPLAINERS, Combine, LayerExplainer, Recorded, Upsample, checked_targets
from gradsam_exp.explainers.layers import as_maps, frame_of, recording
from gradsam_exp.explainers.projection import Kernel, first_component, first_kernel_component
from gradsam_exp.explainers.scores import Score, class_score

Maps = Float[Tensor, "batch channels h w"]
Map = Float[Tensor, "batch h w"]


class ActivationCAM(LayerExplainer):
    """Base of the methods that need one forward pass and no gradient."""

    @abstractmethod
    def weigh(self, activations: Maps, targets: Tensor, logits: Tensor) -> Map:
        """The raw map of one layer."""

    def layer_maps(self, pixels: Tensor, targets: Tensor | None = None) -> Recorded:
        """See `LayerExplainer.layer_maps`."""
        with recording(self.target_layers, gradients=False) as recorded, torch.no_grad():
            logits = self.model(pixels)
            targets = checked_targets(targets, logits)
            frame = frame_of(pixels)
            maps = [
                self.weigh(as_maps(self.recorded_output(recorded, layer), layer, frame), targets, logits)
                for layer in self.target_layers
            ]
        return Recorded(maps, targets, logits)


@EXPLAINERS.register("eigencam")
class EigenCAM(ActivationCAM):
    """Eigen-CAM (Muhammad and Yeasin, IJCNN 2020): first principal component of the activations, then ReLU.

    The mean is removed first, as the grad-cam package does and the paper does not. It looks at no class, so
    there is no score to choose.
    """

    def weigh(self, activations: Maps, targets: Tensor, logits: Tensor) -> Map:
        """See `first_component`."""
        del targets, logits
        return first_component(activations).relu()


@EXPLAINERS.register("kpcacam")
class KPCACAM(ActivationCAM):
    """KPCA-CAM (Karmani et al. 2024): first component of a kernel PCA of the activations, then ReLU.

    It looks at no class, so there is no score to choose.

    Args:
        kernel: ``sigmoid`` (the paper's best), ``rbf`` or ``linear``.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[str | nn.Module],
        *,
        kernel: Kernel = "sigmoid",
        upsample: Upsample = "bilinear",
        combine: Combine = "mean",
    ) -> None:
        super().__init__(model, target_layers, upsample=upsample, combine=combine)
        self.kernel: Kernel = kernel

    def weigh(self, activations: Maps, targets: Tensor, logits: Tensor) -> Map:
        """See `first_kernel_component`."""
        del targets, logits
        return first_kernel_component(activations, self.kernel).relu()


@EXPLAINERS.register("cam")
class CAM(ActivationCAM):
    """The original CAM (Zhou et al., CVPR 2016, eq. 2): channels weighted by the class's row of the last layer.

    For networks that end in global average pooling and one linear layer, at the last convolutional layer.
    As in eq. 2 and the authors' code there is no ReLU: 0 of the heatmap is where most speaks against the class.

    Args:
        model, target_layers, upsample, combine: see `GradientCAM`.
        score: what is explained; see `class_score`. ``margin`` weighs by the difference between the rows of
            the class and of the runner-up.

    Raises:
        InputError: if the network's last linear layer does not take the target layer's channels.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[str | nn.Module],
        *,
        score: Score = "logit",
        upsample: Upsample = "bilinear",
        combine: Combine = "mean",
    ) -> None:
        super().__init__(model, target_layers, upsample=upsample, combine=combine)
        self.score: Score = score

    def weigh(self, activations: Maps, targets: Tensor, logits: Tensor) -> Map:
        """``Σ_k w_k A_k`` with ``w = Σ_d w_d ∂score/∂y_d``, which is ``w_c`` for the logit."""
        heads = [m for m in self.model.modules() if isinstance(m, nn.Linear)]
        if not heads or heads[-1].in_features != activations.shape[1]:
            raise InputError(
                f"explainer=cam needs a network that pools the target layer ({activations.shape[1]} channels) and "
                "ends in one linear layer on it, such as explainer.target_layers=[layer4.-1] of a ResNet; "
                "explainer=gradcam takes any layer"
            )
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            shares = torch.autograd.grad(class_score(self.score, leaf, targets).sum(), leaf)[0]
        return torch.einsum("bk,bkhw->bhw", shares @ heads[-1].weight.detach(), activations)
