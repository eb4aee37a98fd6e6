"""These explainers weight a layer's activations by the class score's gradient: class activation maps.

Hooks live for one call; gradients go back to the target layers and no further. Notation: ``A`` a layer's
activations, ``g = ∂y_c/∂A`` the gradient of the explained score, ``k`` a channel, sums without
index over a map's pixels.
"""

from abc import abstractmethod
from contextlib import nullcontext
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradsam_exp.explainers.base import (
    EXPLAINERS,
    Combine,
    Count,
    LayerExplainer,
    Recorded,
    Width,
    checked_targets,
)
from gradsam_exp.explainers.layers import Map, Maps, recording
from gradsam_exp.explainers.network import Pixels, gradients, widened
from gradsam_exp.explainers.projection import first_component
from gradsam_exp.explainers.scores import Logits, Score, Targets, class_score, finer_score
from gradsam_exp.types import PerImage

Derivatives = tuple[list[Tensor], list[Tensor], Targets, Logits]


class GradientCAM(LayerExplainer):
    """A gradient CAM looks at a layer's activations and the class score's gradient there.

    The network runs once, in eval mode. Up to the first target layer nothing is recorded; from there on
    the graph is kept and the gradient goes back to the target layers and no further. Images of a batch
    do not influence one another: their scores are summed, so each gets its own gradient.
    """

    by_influence = True
    second_order: ClassVar[bool] = False

    @abstractmethod
    def weigh(self, activations: Maps, gradients: Maps) -> Map:
        """Compute one layer's raw map from activations and gradients; each method defines its own."""

    @abstractmethod
    def explained(self, logits: Tensor, targets: Tensor) -> PerImage:
        """Compute the score of each image whose gradient is taken."""

    def layer_maps(self, pixels: Tensor, targets: Tensor | None = None) -> Recorded:
        """Weigh the activations of every target layer by their gradients."""
        activations, slopes, targets, logits = self.activations_and_gradients(pixels, targets)
        maps = [self.weigh(a, g) for a, g in zip(activations, slopes, strict=True)]
        return Recorded(maps, targets, logits)

    def activations_and_gradients(
        self, pixels: Pixels, targets: Tensor | None, of: Tensor | None = None
    ) -> Derivatives:
        """Run one forward and one backward pass; for ``of`` see `run`.

        Returns:
            Activations and gradients ``(B, C, h, w)`` of every target layer, the targets, and the logits.
        """
        # Only the plain attention kernel has second derivatives.
        kernel = sdpa_kernel(SDPBackend.MATH) if self.second_order else nullcontext()
        with kernel, recording(self.layers, gradients=True) as recorded, torch.no_grad():
            logits = self.run(pixels, of)  # a hook switches gradients on behind the first target layer
            targets = checked_targets(targets, logits)
            activations = [self.recorded_output(recorded, layer) for layer in self.layers]
            with torch.enable_grad():
                score = self.explained(logits, targets).sum()
                found = gradients(score, activations, create_graph=self.second_order)
                if self.second_order:
                    found = tuple(map(_second_order, found, activations))
        as_layers = [
            [
                widened(self.as_maps(v.detach(), layer, pixels))
                for v, layer in zip(values, self.layers, strict=True)
            ]
            for values in (activations, found)
        ]
        return as_layers[0], as_layers[1], targets, logits.detach()


def _second_order(gradient: Tensor, activation: Tensor) -> Tensor:
    """Compute ``g − ½·H·A`` with ``H`` the Hessian of the score with respect to the activations."""
    if not gradient.requires_grad:  # the score is linear in these activations
        return gradient
    product = torch.autograd.grad(gradient, activation, activation, retain_graph=True, allow_unused=True)[0]
    return gradient if product is None else gradient - 0.5 * product


def _channel_sum(weights: Float[Tensor, "batch channels"], activations: Maps) -> Map:
    return torch.einsum("bk,bkhw->bhw", weights, activations).relu()


@dataclass(frozen=True, kw_only=True)
class ClassCAM(GradientCAM):
    """A class CAM is a gradient CAM whose score can be chosen."""

    score: Score = "logit"

    def explained(self, logits: Tensor, targets: Tensor) -> PerImage:
        """Compute the chosen score of each image's class."""
        return class_score(self.score, logits, targets)


@EXPLAINERS.register("gradcam")
class GradCAM(ClassCAM):
    """GradCAM weights a layer's channels by their mean gradient (Selvaraju et al., ICCV 2017, eq. 1 and 2)."""

    def weigh(self, activations: Maps, gradients: Maps) -> Map:
        """Compute ``ReLU(Σ_k α_k A_k)`` with ``α_k = mean(g_k)``."""
        return _channel_sum(gradients.mean((2, 3)), activations)


@EXPLAINERS.register("gradcam++")
class GradCAMPlusPlus(ClassCAM):
    """GradCAMPlusPlus weights a layer's channels by their positive gradients, which are weighted pixel by pixel.

    Chattopadhyay et al.: *Grad-CAM++* (WACV 2018), eq. 10 and 19. For the score ``exp(y_c)`` the paper's
    derivatives are powers of the gradient. Two readings of eq. 19 are in circulation; ours takes the printed one:
    ``g³`` at the pixel times the sum of ``A``.
    """

    def weigh(self, activations: Maps, gradients: Maps) -> Map:
        """Compute ``ReLU(Σ_k w_k A_k)``, ``w_k = Σ α ReLU(g)``, ``α = g² / (2g² + ΣA·g³)``."""
        return plus_plus(activations, gradients, gradients.square(), gradients.pow(3))


def plus_plus(activations: Maps, first: Maps, second: Maps, third: Maps) -> Map:
    """Compute Grad-CAM++ from the first three derivatives of the score."""
    denominator = 2 * second + activations.sum((2, 3), keepdim=True) * third
    alpha = torch.where(denominator != 0, second / denominator, 0.0)
    return _channel_sum((alpha * first.relu()).sum((2, 3)), activations)


@EXPLAINERS.register("hirescam")
class HiResCAM(ClassCAM):
    """HiResCAM multiplies activations by gradients without averaging (Draelos and Carin 2020, eq. 5)."""

    def weigh(self, activations: Maps, gradients: Maps) -> Map:
        """Compute ``ReLU(Σ_k g_k A_k)``."""
        return (gradients * activations).sum(1).relu()


@EXPLAINERS.register("xgradcam")
class XGradCAM(ClassCAM):
    """XGradCAM weights channels by gradients averaged by activation (Fu et al., BMVC 2020, eq. 8)."""

    def weigh(self, activations: Maps, gradients: Maps) -> Map:
        """Compute ``ReLU(Σ_k α_k A_k)`` with ``α_k = Σ(g_k A_k) / ΣA_k``."""
        total = activations.sum((2, 3))
        weights = torch.where(total != 0, (gradients * activations).sum((2, 3)) / total, 0.0)
        return _channel_sum(weights, activations)


@EXPLAINERS.register("layercam")
class LayerCAM(ClassCAM):
    """LayerCAM weights each pixel by its own positive gradient (Jiang et al., TIP 2021, eq. 6 and 7)."""

    def weigh(self, activations: Maps, gradients: Maps) -> Map:
        """Compute ``ReLU(Σ_k ReLU(g_k) A_k)``."""
        return (gradients.relu() * activations).sum(1).relu()


@EXPLAINERS.register("elementwise_gradcam")
class ElementWiseGradCAM(ClassCAM):
    """ElementWiseGradCAM adds up the positive products of gradient and activation (grad-cam package)."""

    def weigh(self, activations: Maps, gradients: Maps) -> Map:
        """Compute ``Σ_k ReLU(g_k A_k)``."""
        return (gradients * activations).relu().sum(1)


@EXPLAINERS.register("eigengradcam")
class EigenGradCAM(ClassCAM):
    """EigenGradCAM shows the first principal component of gradient × activation, then ReLU (grad-cam package)."""

    def weigh(self, activations: Maps, gradients: Maps) -> Map:
        """Project every pixel on the first principal component."""
        return first_component(gradients * activations).relu()


@EXPLAINERS.register("segeigencam")
class SegEigenCAM(ClassCAM):
    """SegEigenCAM shows the first principal component of absolute gradient × activation, then ReLU.

    Chung and Ying: *Seg-Eigen-CAM* (Applied Sciences 15(13), 7562, 2025), eq. 10 to 13. It is meant for networks
    that segment; here the score is a classifier's. The projection whose largest absolute value is positive counts.
    """

    def weigh(self, activations: Maps, gradients: Maps) -> Map:
        """Project every pixel on the first principal component."""
        return first_component(gradients.abs() * activations, "largest").relu()


@EXPLAINERS.register("refinecam")
@dataclass(frozen=True, kw_only=True)
class RefineCAM(GradCAMPlusPlus):
    """RefineCAM multiplies the Grad-CAM++ maps of several layers, so that deep ones clear early ones of noise.

    arXiv 2605.14641, as the grad-cam package has it: each layer's map is scaled to [0, 1] first. Where one layer
    has no heat, the product has none. ``explainer.combine=product`` does the same with any other CAM.
    """

    combine: Combine = "product"

    @property
    def caveat(self) -> str | None:
        """Say that a single layer leaves nothing to multiply."""
        if self.combine != "product" or len(self.target_layers) > 1:
            return None
        return "explainer=refinecam of one layer is gradcam++: name several in explainer.target_layers"


@EXPLAINERS.register("shapleycam")
@dataclass(frozen=True, kw_only=True)
class ShapleyCAM(GradCAM):
    """ShapleyCAM is Grad-CAM with the gradient corrected to second order (Cai 2025, arXiv 2501.06261).

    ``α_k = mean(g − ½·H·A)``. The default score is ``rest``: for the plain logit of a piecewise linear
    network the Hessian vanishes and the map is Grad-CAM's.
    """

    second_order = True

    score: Score = "rest"


@EXPLAINERS.register("finercam")
@dataclass(frozen=True, kw_only=True)
class FinerCAM(GradientCAM):
    """FinerCAM is Grad-CAM of the logit minus those of the most similar classes (Zhang et al., CVPR 2025).

    There is no score to choose: the comparison with other classes, `finer_score`, is the method.

    Attributes:
        similar: with how many classes, those of the nearest logits, the target is compared.
        alpha: strength of the comparison; 0 is Grad-CAM.
    """

    similar: Count = 3
    alpha: Width = 1.0

    def weigh(self, activations: Maps, gradients: Maps) -> Map:
        """Compute the map of Grad-CAM, ``ReLU(Σ_k α_k A_k)`` with ``α_k = mean(g_k)``."""
        return _channel_sum(gradients.mean((2, 3)), activations)

    def explained(self, logits: Tensor, targets: Tensor) -> PerImage:
        """Compare the logit of each image's class with the most similar ones."""
        return finer_score(logits, targets, similar=self.similar, alpha=self.alpha)


@EXPLAINERS.register("smoothgradcam++")
@dataclass(frozen=True, kw_only=True)
class SmoothGradCAMPlusPlus(GradCAMPlusPlus):
    """SmoothGradCAMPlusPlus is Grad-CAM++ with derivatives averaged over noisy copies (Omeiza et al. 2019).

    As in the paper, the three derivatives ``D₁ D₂ D₃`` are averaged over the copies before the weights are
    formed from them, so there is one map, not a mean of maps: ``w_k = Σ α ReLU(mean D₁)``. The activations are
    those of the clean image. Two remarks on ``α = mean D₂ / (2 mean D₂ + ΣA·mean D₃)``: the paper prints ``D₁``
    in the numerator, which is no longer Grad-CAM++ without noise; ours has Grad-CAM++'s ``D₂``, as torchcam.
    torchcam's map still differs: its ReLU takes ``D₁`` of the last copy and not the mean, it adds up the maps of
    the last copy and not of the image, its denominator ``Σ(A·mean D₃)`` is the other reading of Grad-CAM++'s
    eq. 19, and its noise is in units of the input.

    Attributes:
        samples: number of noisy copies.
        noise: standard deviation of the Gaussian noise, as a share of each image's range of values.
        seed: of the noise; the same for every image and batch.
        chunk: copies of one forward and backward pass; memory and speed only.
    """

    samples: Count = 10
    noise: Width = 0.1
    seed: int = 0
    chunk: Count = 32

    def layer_maps(self, pixels: Tensor, targets: Tensor | None = None) -> Recorded:
        """Make the maps of the clean images from the noisy copies' mean derivatives, image by image.

        The copies of two images never go through the network together; see `MeanGradient` for the reason.
        """
        with torch.no_grad():
            logits = self.run(pixels)
        targets = checked_targets(targets, logits)
        maps = [self._of_image(pixels[k : k + 1], target, k) for k, target in enumerate(targets)]
        return Recorded([torch.cat(layer) for layer in zip(*maps, strict=True)], targets, logits)

    def _of_image(self, image: Pixels, target: Tensor, number: int) -> list[Map]:
        """One image's raw map of every target layer."""
        rows = torch.cat([image, *noisy_copies(image, self.samples, self.noise, self.seed)])
        clean: list[Tensor] = []
        powers: list[list[Tensor]] = []
        for part in rows.split(self.chunk):
            of = torch.full((len(part),), number)
            activations, slopes, _, _ = self.activations_and_gradients(part, target.expand(len(part)), of)
            if not clean:
                clean, slopes = [a[:1] for a in activations], [slope[1:] for slope in slopes]
                powers = [[torch.zeros_like(a) for a in clean] for _ in range(3)]
            for power, sums in enumerate(powers, 1):
                for layer, gradient in enumerate(slopes):
                    sums[layer] += gradient.pow(power).sum(0, keepdim=True) / self.samples
        return [plus_plus(a, *derivatives) for a, *derivatives in zip(clean, *powers, strict=True)]


def noisy_copies(pixels: Pixels, samples: int, noise: float, seed: int) -> list[Pixels]:
    """Make copies with Gaussian noise of ``noise`` × (maximum − minimum) of each image, one pattern for all."""
    generator = torch.Generator().manual_seed(seed)
    span = pixels.amax((1, 2, 3), keepdim=True) - pixels.amin((1, 2, 3), keepdim=True)
    patterns = torch.randn(samples, 1, *pixels.shape[1:], generator=generator).to(pixels.device)
    return [pixels + noise * span * pattern for pattern in patterns]
