"""Attribution of the score to the network's input pixels, smoothed into heatmaps."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from functools import cache
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from gradsam_exp.explainers.base import (
    EXPLAINERS,
    Upsample,
    checked_targets,
    combine_layers,
    evaluation_mode,
    network_input,
    to_frame,
)
from gradsam_exp.explainers.gradient import noisy_copies
from gradsam_exp.explainers.layers import frame_of
from gradsam_exp.explainers.scores import Score, class_score
from gradsam_exp.types import Heatmaps

log = logging.getLogger(__name__)

Pixels = Float[Tensor, "batch 3 height width"]
Map = Float[Tensor, "batch height width"]
Sign = Literal["absolute", "positive"]
Scaling = Literal["layer", "channel", "none"]
Width = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class InputExplainer(ABC):
    """Base of the explainers without a target layer.

    Args:
        model: see `GradientCAM`.
        smoothing: standard deviation of a Gaussian blur of the map, in pixels of the network's input; 0 is none.
        upsample: interpolation from the network's input to the image, if they differ.
    """

    def __init__(self, model: nn.Module, *, smoothing: Width = 0.0, upsample: Upsample = "bilinear") -> None:
        self.model, self.smoothing, self.upsample = model, smoothing, upsample

    def __call__(self, images: Tensor, targets: Int[Tensor, " batch"] | None = None) -> Heatmaps:
        """See `Explainer.__call__`."""
        with evaluation_mode(self.model):
            maps, targets, logits = self.input_maps(network_input(self.model, images), targets)
        return combine_layers([self.smoothed(maps)], frame_of(images), targets, logits, self.upsample)

    @abstractmethod
    def input_maps(self, pixels: Pixels, targets: Tensor | None) -> tuple[Map, Tensor, Tensor]:
        """Raw maps at the network's input resolution, the targets and the logits."""

    def smoothed(self, maps: Map) -> Map:
        """The maps after the Gaussian blur, cut off at four standard deviations."""
        if not self.smoothing:
            return maps
        side = 2 * round(4 * self.smoothing) + 1
        fitting = [min(side, 2 * n - 1) for n in (maps.shape[-1], maps.shape[-2])]  # reflection needs that much
        return gaussian_blur(maps[:, None], fitting, [self.smoothing, self.smoothing])[:, 0]


class GradientAttribution(InputExplainer):
    """Base of the explainers that take gradients with respect to the input.

    Args:
        model, smoothing, upsample: see `InputExplainer`.
        score: what is explained; see `class_score`.
        sign: a pixel's attribution is the sum over its channels of the ``absolute`` values, or of the
            ``positive`` ones.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        score: Score = "logit",
        sign: Sign = "absolute",
        smoothing: Width = 2.0,
        upsample: Upsample = "bilinear",
    ) -> None:
        super().__init__(model, smoothing=smoothing, upsample=upsample)
        self.score, self.sign = score, sign

    @abstractmethod
    def attribute(self, pixels: Pixels, targets: Tensor) -> Pixels:
        """The attribution of every input value."""

    def input_maps(self, pixels: Pixels, targets: Tensor | None) -> tuple[Map, Tensor, Tensor]:
        """See `InputExplainer.input_maps`."""
        with torch.no_grad():
            logits = self.model(pixels)
        targets = checked_targets(targets, logits)
        values = self.attribute(pixels, targets)
        values = values.abs() if self.sign == "absolute" else values.relu()
        return values.sum(1), targets, logits

    def gradient(self, pixels: Pixels, targets: Tensor) -> Pixels:
        """Of each image's score with respect to its own pixels."""
        with torch.enable_grad():
            leaf = pixels.detach().requires_grad_()
            score = class_score(self.score, self.model(leaf), targets).sum()
            return torch.autograd.grad(score, leaf)[0]


@EXPLAINERS.register("gradient_x_input")
class GradientXInput(GradientAttribution):
    """Gradient times input (Shrikumar et al. 2016), the input after normalisation."""

    def attribute(self, pixels: Pixels, targets: Tensor) -> Pixels:
        """``x · ∂y_c/∂x``."""
        return pixels * self.gradient(pixels, targets)


@EXPLAINERS.register("smoothgrad")
class SmoothGrad(GradientAttribution):
    """SmoothGrad (Smilkov et al. 2017): the gradient, averaged over noisy copies of the image.

    Args:
        model, score, sign, smoothing, upsample: see `GradientAttribution`.
        samples: number of noisy copies.
        noise: standard deviation of the noise as a share of each image's range of values.
        seed: of the noise; the same for every image and batch.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        samples: Count = 25,
        noise: Width = 0.15,
        seed: int = 0,
        score: Score = "logit",
        sign: Sign = "absolute",
        smoothing: Width = 2.0,
        upsample: Upsample = "bilinear",
    ) -> None:
        super().__init__(model, score=score, sign=sign, smoothing=smoothing, upsample=upsample)
        self.samples, self.noise, self.seed = samples, noise, seed

    def attribute(self, pixels: Pixels, targets: Tensor) -> Pixels:
        """Mean gradient over the copies."""
        copies = noisy_copies(pixels, self.samples, self.noise, self.seed)
        return torch.stack([self.gradient(noisy, targets) for noisy in copies]).mean(0)


@EXPLAINERS.register("integrated_gradients")
class IntegratedGradients(GradientAttribution):
    """Integrated Gradients (Sundararajan et al., ICML 2017, eq. 1) from the data set's mean colour to the image.

    The integral is taken by Gauss–Legendre quadrature.

    Args:
        model, score, sign, smoothing, upsample: see `GradientAttribution`.
        steps: points of the quadrature.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: Count = 32,
        score: Score = "logit",
        sign: Sign = "absolute",
        smoothing: Width = 2.0,
        upsample: Upsample = "bilinear",
    ) -> None:
        super().__init__(model, score=score, sign=sign, smoothing=smoothing, upsample=upsample)
        self.steps = steps

    def attribute(self, pixels: Pixels, targets: Tensor) -> Pixels:
        """``x · ∫ ∂y_c(αx)/∂x dα``; the baseline is 0 after normalisation."""
        places, weights = np.polynomial.legendre.leggauss(self.steps)
        total = torch.zeros_like(pixels)
        for place, weight in zip(places.tolist(), weights.tolist(), strict=True):
            total += weight / 2 * self.gradient(pixels * (place + 1) / 2, targets)
        return pixels * total


@EXPLAINERS.register("fullgrad")
class FullGrad(InputExplainer):
    """FullGrad (Srinivas and Fleuret, NeurIPS 2019, eq. 8): input-gradient and the gradients of all biases.

    ``Σ_channels ψ(x·∂y_c/∂x) + Σ_layers Σ_channels ψ(b·∂y_c/∂z)``. ψ takes absolute values, scales them and
    brings them to the input's resolution. Biases of convolutions and batch norms (in eval mode, running mean
    included) count; those of layer norms and linear layers do not, so of a transformer's a warning says that most
    are missing.

    Implementations disagree on how ψ scales, and this decides the map: a channel that hardly matters counts as
    much as any other or as little as it is. All scale image by image.

    Args:
        model, smoothing, upsample: see `InputExplainer`.
        score: what is explained; see `class_score`.
        scaling: of ``|x·∂y_c/∂x|`` and of each layer's ``|b·∂y_c/∂z|``. ``layer`` scales all channels of a
            layer together to [0, 1], as the authors' code does (idiap/fullgrad-saliency, ``_postProcess``),
            which resizes with corners aligned where ours keeps pixel centres. ``channel`` scales each channel
            alone, the letter of eq. 8 and the grad-cam package. ``none`` does not scale; without the absolute
            values the terms would then add up to ``y_c`` less what is due to the biases of linear layers.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        score: Score = "logit",
        scaling: Scaling = "layer",
        smoothing: Width = 0.0,
        upsample: Upsample = "bilinear",
    ) -> None:
        super().__init__(model, smoothing=smoothing, upsample=upsample)
        self.score, self.scaling = score, scaling
        if any(isinstance(module, nn.LayerNorm) for module in model.modules()):
            _warn_of_missing_biases(getattr(model, "backbone_name", type(model).__name__))

    def input_maps(self, pixels: Pixels, targets: Tensor | None) -> tuple[Map, Tensor, Tensor]:
        """See `InputExplainer.input_maps`."""
        outputs: list[tuple[Tensor, Tensor]] = []

        def keep(module: nn.Module, _: object, output: Tensor) -> Tensor:
            outputs.append((_bias(module), output))
            return output.clone()

        handles = [m.register_forward_hook(keep) for m in self.model.modules() if _has_bias(m)]
        try:
            with torch.enable_grad():
                leaf = pixels.detach().requires_grad_()
                logits = self.model(leaf)
                targets = checked_targets(targets, logits)
                score = class_score(self.score, logits, targets).sum()
                own, *gradients = torch.autograd.grad(score, [leaf, *(output for _, output in outputs)])
        finally:
            for handle in handles:
                handle.remove()
        size = frame_of(pixels)
        total = _scaled((pixels * own).abs(), self.scaling).sum(1)
        for (bias, _), gradient in zip(outputs, gradients, strict=True):
            channels = _scaled((bias[:, None, None] * gradient).abs(), self.scaling)
            for_size = to_frame(channels.flatten(0, 1), size, self.upsample)
            total = total + for_size.unflatten(0, channels.shape[:2]).sum(1)
        return total.detach(), targets, logits.detach()


@cache
def _warn_of_missing_biases(network: str) -> None:
    """Once for a network."""
    log.warning("explainer=fullgrad leaves out the biases of the layer norms and linear layers of %s", network)


def _has_bias(module: nn.Module) -> bool:
    return isinstance(module, (nn.Conv2d, nn.BatchNorm2d)) and module.bias is not None


def _bias(module: nn.Module) -> Tensor:
    bias: Tensor = module.bias  # type: ignore[assignment]
    if isinstance(module, nn.BatchNorm2d):
        assert module.running_mean is not None
        assert module.running_var is not None
        return bias - module.running_mean * module.weight / (module.running_var + module.eps).sqrt()
    return bias


def _scaled(values: Float[Tensor, "batch channels h w"], scaling: Scaling) -> Float[Tensor, "batch channels h w"]:
    """Each image's channels scaled to [0, 1], together or each alone; what is constant becomes 0."""
    if scaling == "none":
        return values
    over = (1, 2, 3) if scaling == "layer" else (2, 3)
    low, high = values.amin(over, keepdim=True), values.amax(over, keepdim=True)
    return torch.where(high > low, (values - low) / (high - low), 0.0)
