"""CAM, Eigen-CAM and KPCA-CAM make heatmaps from a layer's activations in one forward pass, without gradients."""

from abc import abstractmethod

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from gradsam_exp.errors import InputError
from gradsam_exp.explainers.base import EXPLAINERS, LayerExplainer, Recorded, checked_targets
from gradsam_exp.explainers.layers import Map, Maps, recording
from gradsam_exp.explainers.projection import Kernel, first_component, first_kernel_component
from gradsam_exp.explainers.scores import Score, class_score


class ActivationCAM(LayerExplainer):
    """An activation CAM needs one forward pass and no gradient."""

    @abstractmethod
    def weigh(self, activations: Maps, targets: Tensor, logits: Tensor) -> Map:
        """Make the raw map of one layer."""

    def layer_maps(self, pixels: Tensor, targets: Tensor | None = None) -> Recorded:
        """Make the raw map of every target layer from one forward pass."""
        with recording(self.layers, gradients=False) as recorded, torch.no_grad():
            logits = self.model(pixels)
            targets = checked_targets(targets, logits)
            maps = [
                self.weigh(self.as_maps(self.recorded_output(recorded, layer), layer, pixels), targets, logits)
                for layer in self.layers
            ]
        return Recorded(maps, targets, logits)


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

    Raises:
        InputError: if the network's last linear layer does not take the target layer's channels.
    """

    score: Score = "logit"

    def weigh(self, activations: Maps, targets: Tensor, logits: Tensor) -> Map:
        """Compute ``Σ_k w_k A_k`` with ``w = Σ_d w_d ∂score/∂y_d``, which is ``w_c`` for the logit."""
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
