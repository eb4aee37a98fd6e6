"""Class activation maps weighted by gradients. Hooks live for one call, gradients for one layer.

Notation: ``A`` a layer's activations, ``g = ∂y_c/∂A`` the gradient of the explained score, ``k`` a channel,
sums without index over a map's pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradsam_exp.explainers.base import EXPLAINERS, Combine, LayerExplainer, Recorded, Upsample, checked_targets
from gradsam_exp.explainers.layers import as_maps, frame_of, recording
from gradsam_exp.explainers.projection import first_component
from gradsam_exp.explainers.scores import Score, class_score, finer_score

Maps = Float[Tensor, "batch channels h w"]
Map = Float[Tensor, "batch h w"]


class GradientCAM(LayerExplainer):
    """Base of the methods that look at a layer's activations and the class score's gradient there.

    The network runs once, in eval mode. Up to the first target layer nothing is recorded; from there on
    the graph is kept and the gradient goes back to the target layers and no further. Images of a batch
    do not influence one another: their scores are summed, so each gets its own gradient.

    Args:
        model: any network that maps a batch of images to logits ``(B, classes)``.
        target_layers: modules, or dotted names such as ``layer2.-1``.
        score: what is explained; see `class_score`.
        upsample: interpolation from the layer's resolution to the image's.
        combine: each layer's map is scaled to [0, 1]; then their ``mean`` or ``max`` is taken.

    Raises:
        InputError: if a named layer does not exist.
    """

    by_influence = True
    second_order: ClassVar[bool] = False

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
        self.score = score

    @abstractmethod
    def weigh(self, activations: Maps, gradients: Maps) -> Map:
        """The raw map of one layer: what tells one method from another."""

    def explained(self, logits: Tensor, targets: Tensor) -> Float[Tensor, " batch"]:
        """The score whose gradient is taken."""
        return class_score(self.score, logits, targets)

    def layer_maps(self, pixels: Tensor, targets: Tensor | None = None) -> Recorded:
        """See `LayerExplainer.layer_maps`."""
        activations, gradients, targets, logits = self.activations_and_gradients(pixels, targets)
        maps = [self.weigh(a, g) for a, g in zip(activations, gradients, strict=True)]
        return Recorded(maps, targets, logits)

    def activations_and_gradients(
        self, pixels: Tensor, targets: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """One forward and one backward pass: activations and gradients ``(B, C, h, w)`` of every target layer,
        the targets, and the logits.
        """
        # Only the plain attention kernel has second derivatives.
        kernel = sdpa_kernel(SDPBackend.MATH) if self.second_order else nullcontext()
        with kernel, recording(self.target_layers, gradients=True) as recorded, torch.no_grad():
            logits = self.model(pixels)  # a hook switches gradients on behind the first target layer
            targets = checked_targets(targets, logits)
            activations = [self.recorded_output(recorded, layer) for layer in self.target_layers]
            with torch.enable_grad():
                score = self.explained(logits, targets).sum()
                gradients = torch.autograd.grad(score, activations, create_graph=self.second_order)
                if self.second_order:
                    gradients = tuple(map(_second_order, gradients, activations))
        frame = frame_of(pixels)
        as_layers = [
            [as_maps(v.detach(), layer, frame) for v, layer in zip(values, self.target_layers, strict=True)]
            for values in (activations, gradients)
        ]
        return as_layers[0], as_layers[1], targets, logits.detach()


def _second_order(gradient: Tensor, activation: Tensor) -> Tensor:
    """``g − ½·H·A`` with ``H`` the Hessian of the score with respect to the activations."""
    if not gradient.requires_grad:  # the score is linear in these activations
        return gradient
    product = torch.autograd.grad(
        gradient, activation, grad_outputs=activation, retain_graph=True, allow_unused=True
    )[0]
    return gradient if product is None else gradient - 0.5 * product


def _channel_sum(weights: Float[Tensor, "batch channels"], activations: Maps) -> Map:
    return torch.einsum("bk,bkhw->bhw", weights, activations).relu()


@EXPLAINERS.register("gradcam")
class GradCAM(GradientCAM):
    """Grad-CAM (Selvaraju et al., ICCV 2017, eq. 1 and 2): channels weighted by their mean gradient, then ReLU."""

    def weigh(self, activations: Maps, gradients: Maps) -> Map:
        """``ReLU(Σ_k α_k A_k)`` with ``α_k = mean(g_k)``."""
        return _channel_sum(gradients.mean((2, 3)), activations)


@EXPLAINERS.register("gradcam++")
class GradCAMPlusPlus(GradientCAM):
    """Grad-CAM++ (Chattopadhyay et al., WACV 2018, eq. 10, 19): positive gradients, weighted pixel by pixel.

    For the score ``exp(y_c)`` the paper's derivatives are powers of the gradient. Of two readings of
    eq. 19 in circulation, ours takes the printed one: ``g³`` at the pixel times the sum of ``A``.
    """

    def weigh(self, activations: Maps, gradients: Maps) -> Map:
        """``ReLU(Σ_k w_k A_k)``, ``w_k = Σ α ReLU(g)``, ``α = g² / (2g² + ΣA·g³)``."""
        return plus_plus(activations, gradients, gradients.square(), gradients.pow(3))


def plus_plus(activations: Maps, first: Maps, second: Maps, third: Maps) -> Map:
    """Grad-CAM++ from the first three derivatives of the score."""
    denominator = 2 * second + activations.sum((2, 3), keepdim=True) * third
    alpha = torch.where(denominator != 0, second / denominator, 0.0)
    return _channel_sum((alpha * first.relu()).sum((2, 3)), activations)


@EXPLAINERS.register("hirescam")
class HiResCAM(GradientCAM):
    """HiResCAM (Draelos and Carin 2020, eq. 5): gradient times activation, without averaging, then ReLU."""

    def weigh(self, activations: Maps, gradients: Maps) -> Map:
        """``ReLU(Σ_k g_k A_k)``."""
        return (gradients * activations).sum(1).relu()


@EXPLAINERS.register("xgradcam")
class XGradCAM(GradientCAM):
    """XGrad-CAM (Fu et al., BMVC 2020, eq. 8): gradients averaged with the activations as weights."""

    def weigh(self, activations: Maps, gradients: Maps) -> Map:
        """``ReLU(Σ_k α_k A_k)`` with ``α_k = Σ(g_k A_k) / ΣA_k``."""
        total = activations.sum((2, 3))
        weights = torch.where(total != 0, (gradients * activations).sum((2, 3)) / total, 0.0)
        return _channel_sum(weights, activations)


@EXPLAINERS.register("layercam")
class LayerCAM(GradientCAM):
    """LayerCAM (Jiang et al., TIP 2021, eq. 6 and 7): each pixel weighted by its own positive gradient."""

    def weigh(self, activations: Maps, gradients: Maps) -> Map:
        """``ReLU(Σ_k ReLU(g_k) A_k)``."""
        return (gradients.relu() * activations).sum(1).relu()


@EXPLAINERS.register("elementwise_gradcam")
class ElementWiseGradCAM(GradientCAM):
    """Gradient times activation, negative products dropped before the channels are added (grad-cam package)."""

    def weigh(self, activations: Maps, gradients: Maps) -> Map:
        """``Σ_k ReLU(g_k A_k)``."""
        return (gradients * activations).relu().sum(1)


@EXPLAINERS.register("eigengradcam")
class EigenGradCAM(GradientCAM):
    """First principal component of gradient × activation: Eigen-CAM made class-specific (grad-cam package)."""

    def weigh(self, activations: Maps, gradients: Maps) -> Map:
        """See `first_component`."""
        return first_component(gradients * activations).relu()


@EXPLAINERS.register("shapleycam")
class ShapleyCAM(GradCAM):
    """ShapleyCAM (Cai 2025, arXiv 2501.06261): Grad-CAM with the gradient corrected to second order.

    ``α_k = mean(g − ½·H·A)``. The default score is ``rest``: for the plain logit of a piecewise linear
    network the Hessian vanishes and the map is Grad-CAM's.
    """

    second_order = True

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[str | nn.Module],
        *,
        score: Score = "rest",
        upsample: Upsample = "bilinear",
        combine: Combine = "mean",
    ) -> None:
        super().__init__(model, target_layers, score=score, upsample=upsample, combine=combine)


@EXPLAINERS.register("finercam")
class FinerCAM(GradCAM):
    """Finer-CAM (Zhang et al., CVPR 2025): Grad-CAM of what tells the class from its most similar ones.

    Args:
        model, target_layers, upsample, combine: see `GradientCAM`. There is no ``score``: the comparison with
            other classes is one, `finer_score`, and the method is nothing else.
        similar: with how many classes, those of the nearest logits, the target is compared.
        alpha: strength of the comparison; 0 is Grad-CAM.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[str | nn.Module],
        *,
        similar: Annotated[int, Field(ge=1)] = 3,
        alpha: Annotated[float, Field(ge=0)] = 1.0,
        upsample: Upsample = "bilinear",
        combine: Combine = "mean",
    ) -> None:
        super().__init__(model, target_layers, upsample=upsample, combine=combine)
        self.similar, self.alpha = similar, alpha

    def explained(self, logits: Tensor, targets: Tensor) -> Float[Tensor, " batch"]:
        """See `finer_score`."""
        return finer_score(logits, targets, similar=self.similar, alpha=self.alpha)


@EXPLAINERS.register("smoothgradcam++")
class SmoothGradCAMPlusPlus(GradCAMPlusPlus):
    """Smooth Grad-CAM++ (Omeiza et al. 2019): Grad-CAM++ with derivatives averaged over noisy copies.

    As in the paper, the three derivatives ``D₁ D₂ D₃`` are averaged over the copies before the weights are
    formed from them, so there is one map, not a mean of maps: ``w_k = Σ α ReLU(mean D₁)``. The activations are
    those of the clean image. Two remarks on ``α = mean D₂ / (2 mean D₂ + ΣA·mean D₃)``: the paper prints ``D₁``
    in the numerator, which is no longer Grad-CAM++ without noise; ours has Grad-CAM++'s ``D₂``, as torchcam.
    torchcam's map still differs: its ReLU takes ``D₁`` of the last copy and not the mean, it adds up the maps of
    the last copy and not of the image, its denominator ``Σ(A·mean D₃)`` is the other reading of Grad-CAM++'s
    eq. 19, and its noise is in units of the input.

    Args:
        samples: number of noisy copies.
        noise: standard deviation of the Gaussian noise, as a share of each image's range of values.
        seed: of the noise; the same for every image and batch.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[str | nn.Module],
        *,
        samples: Annotated[int, Field(ge=1)] = 10,
        noise: Annotated[float, Field(ge=0)] = 0.1,
        seed: int = 0,
        score: Score = "logit",
        upsample: Upsample = "bilinear",
        combine: Combine = "mean",
    ) -> None:
        super().__init__(model, target_layers, score=score, upsample=upsample, combine=combine)
        self.samples, self.noise, self.seed = samples, noise, seed

    def layer_maps(self, pixels: Tensor, targets: Tensor | None = None) -> Recorded:
        """See `LayerExplainer.layer_maps`."""
        clean, gradients, targets, logits = self.activations_and_gradients(pixels, targets)
        powers = [[torch.zeros_like(g) for g in gradients] for _ in range(3)]
        for noisy in noisy_copies(pixels, self.samples, self.noise, self.seed):
            _, gradients, _, _ = self.activations_and_gradients(noisy, targets)
            for power, sums in enumerate(powers, 1):
                for layer, gradient in enumerate(gradients):
                    sums[layer] += gradient.pow(power) / self.samples
        maps = [plus_plus(a, *derivatives) for a, *derivatives in zip(clean, *powers, strict=True)]
        return Recorded(maps, targets, logits)


def noisy_copies(
    pixels: Float[Tensor, "batch 3 height width"], samples: int, noise: float, seed: int
) -> list[Float[Tensor, "batch 3 height width"]]:
    """Copies with Gaussian noise of ``noise`` × (maximum − minimum) of each image; one pattern for all images."""
    generator = torch.Generator().manual_seed(seed)
    span = pixels.amax((1, 2, 3), keepdim=True) - pixels.amin((1, 2, 3), keepdim=True)
    patterns = torch.randn(samples, 1, *pixels.shape[1:], generator=generator).to(pixels.device)
    return [pixels + noise * span * pattern for pattern in patterns]
