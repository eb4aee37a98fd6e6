"""These explainers attribute the class score to the pixels of the network's input, smoothed into heatmaps."""

from abc import abstractmethod
from contextlib import ExitStack
from dataclasses import KW_ONLY
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from gradsam_exp.explainers.base import (
    EXPLAINERS,
    Count,
    Explained,
    MapExplainer,
    Recorded,
    Width,
    checked_targets,
    to_frame,
)
from gradsam_exp.explainers.gradient import noisy_copies
from gradsam_exp.explainers.layers import Map, Maps, frame_of
from gradsam_exp.explainers.network import Pixels, gradients, widened
from gradsam_exp.explainers.scores import Score, class_score

Sign = Literal["absolute", "positive"]
Scaling = Literal["layer", "channel", "none"]
Copies = Float[Tensor, "copies channels height width"]


@dataclass(frozen=True)
class InputExplainer(MapExplainer):
    """An input explainer makes maps of the network's input, without a target layer.

    Attributes:
        smoothing: standard deviation of a Gaussian blur of the map, in pixels of the network's input; 0 is none.
    """

    _: KW_ONLY
    smoothing: Width = 0.0

    def explain(self, pixels: Pixels, targets: Tensor | None) -> Recorded:
        """Make the maps and blur them."""
        maps, targets, logits = self.input_maps(pixels, targets)
        return Recorded([self.smoothed(maps)], targets, logits)

    @abstractmethod
    def input_maps(self, pixels: Pixels, targets: Tensor | None) -> Explained:
        """Make the raw maps at the network's input resolution; returns the targets and the logits as well."""

    def smoothed(self, maps: Map) -> Map:
        """Blur the maps with a Gaussian that is cut off at four standard deviations."""
        if not self.smoothing:
            return maps
        side = 2 * round(4 * self.smoothing) + 1
        fitting = [min(side, 2 * n - 1) for n in (maps.shape[-1], maps.shape[-2])]  # reflection needs that much
        return gaussian_blur(maps[:, None], fitting, [self.smoothing, self.smoothing])[:, 0]


@dataclass(frozen=True, kw_only=True)
class GradientAttribution(InputExplainer):
    """A gradient attribution takes the class score's gradient with respect to the input.

    Attributes:
        sign: a pixel's attribution is the sum over its channels of the ``absolute`` values, or of the
            ``positive`` ones.
    """

    score: Score = "logit"
    sign: Sign = "absolute"
    smoothing: Width = 2.0

    @abstractmethod
    def attribute(self, pixels: Pixels, targets: Tensor) -> Pixels:
        """Attribute the score to every input value."""

    def input_maps(self, pixels: Pixels, targets: Tensor | None) -> Explained:
        """Add up the attributions of each pixel's channels."""
        with torch.no_grad():
            logits = self.run(pixels)
        targets = checked_targets(targets, logits)
        values = self.attribute(pixels, targets)
        values = values.abs() if self.sign == "absolute" else values.relu()
        return values.sum(1), targets, logits

    def gradient(self, pixels: Pixels, targets: Tensor, of: Tensor | None = None) -> Pixels:
        """Take the gradient of each row's score with respect to its own pixels; for ``of`` see `run`."""
        with torch.enable_grad():
            leaf = pixels.detach().requires_grad_()
            score = class_score(self.score, self.run(leaf, of), targets).sum()
            return gradients(score, [leaf])[0]


@dataclass(frozen=True, kw_only=True)
class MeanGradient(GradientAttribution):
    """A mean gradient is taken over many copies of an image.

    The copies of one image go through the network together and those of two images never do, so that rounding,
    which many copies add up to more than one, is the same whatever images are explained at once.

    Attributes:
        chunk: copies of one forward and backward pass; memory and speed only.
    """

    chunk: Count = 32

    @abstractmethod
    def copies(self, image: Pixels) -> tuple[Copies, Tensor]:
        """Make the copies of one image ``(1, C, H, W)``, and the weights of their gradients."""

    def mean_gradient(self, pixels: Pixels, targets: Tensor) -> Pixels:
        """Compute the weighted sum of the copies' gradients for each image."""
        sums = []
        for number, target in enumerate(targets):
            copies, weights = self.copies(pixels[number : number + 1])
            of = torch.full((len(copies),), number)
            parts = [
                self.gradient(rows, target.expand(len(rows)), image)
                for rows, image in zip(copies.split(self.chunk), of.split(self.chunk), strict=True)
            ]
            sums.append((torch.cat(parts) * weights.to(pixels)[:, None, None, None]).sum(0))
        return torch.stack(sums)


@EXPLAINERS.register("gradient_x_input")
class GradientXInput(GradientAttribution):
    """GradientXInput multiplies the gradient by the normalised input (Shrikumar et al. 2016)."""

    def attribute(self, pixels: Pixels, targets: Tensor) -> Pixels:
        """Multiply: ``x · ∂y_c/∂x``."""
        return pixels * self.gradient(pixels, targets)


@EXPLAINERS.register("smoothgrad")
@dataclass(frozen=True, kw_only=True)
class SmoothGrad(MeanGradient):
    """SmoothGrad averages the gradient over noisy copies of the image (Smilkov et al. 2017).

    Attributes:
        samples: number of noisy copies.
        noise: standard deviation of the noise as a share of each image's range of values.
        seed: of the noise; the same for every image and batch.
    """

    samples: Count = 25
    noise: Width = 0.15
    seed: int = 0

    def attribute(self, pixels: Pixels, targets: Tensor) -> Pixels:
        """Average the gradient over the copies."""
        return self.mean_gradient(pixels, targets)

    def copies(self, image: Pixels) -> tuple[Copies, Tensor]:
        """Add noise to the image, as often as samples are wanted."""
        copies = torch.cat(list(noisy_copies(image, self.samples, self.noise, self.seed)))
        return copies, torch.full((len(copies),), 1 / len(copies))


@EXPLAINERS.register("integrated_gradients")
@dataclass(frozen=True, kw_only=True)
class IntegratedGradients(MeanGradient):
    """IntegratedGradients integrates the gradient on the way from the data set's mean colour to the image.

    Sundararajan et al. (ICML 2017), eq. 1; the integral is taken by Gauss–Legendre quadrature.

    Attributes:
        steps: points of the quadrature.
    """

    steps: Count = 32

    def attribute(self, pixels: Pixels, targets: Tensor) -> Pixels:
        """Integrate: ``x · ∫ ∂y_c(αx)/∂x dα``; the baseline is 0 after normalisation."""
        return pixels * self.mean_gradient(pixels, targets)

    def copies(self, image: Pixels) -> tuple[Copies, Tensor]:
        """Take the images at the quadrature's points."""
        places, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(self.steps))
        return image * (places.to(image)[:, None, None, None] + 1) / 2, weights / 2


@EXPLAINERS.register("fullgrad")
@dataclass(frozen=True, kw_only=True)
class FullGrad(InputExplainer):
    """FullGrad adds up gradient × input and bias × gradient of all layers.

    Srinivas and Fleuret (NeurIPS 2019), eq. 8:
    ``Σ_channels ψ(x·∂y_c/∂x) + Σ_layers Σ_channels ψ(b·∂y_c/∂z)``. ψ takes absolute values, scales them and
    brings them to the input's resolution. Biases of convolutions and batch norms (in eval mode, running mean
    included) count; those of layer norms and linear layers do not, so most of a transformer's are missing, which
    `caveat` says.

    Implementations disagree on how ψ scales, and this decides the map: a channel that hardly matters counts as
    much as any other or as little as it is. All scale image by image.

    Attributes:
        scaling: of ``|x·∂y_c/∂x|`` and of each layer's ``|b·∂y_c/∂z|``. ``layer`` scales all channels of a
            layer together to [0, 1], as the authors' code does (idiap/fullgrad-saliency, ``_postProcess``),
            which resizes with corners aligned where ours keeps pixel centres. ``channel`` scales each channel
            alone, the letter of eq. 8 and the grad-cam package. ``none`` does not scale; without the absolute
            values the terms would then add up to ``y_c`` less what is due to the biases of linear layers.
    """

    score: Score = "logit"
    scaling: Scaling = "layer"

    @property
    def caveat(self) -> str | None:
        """Name the biases that are left out of a network with layer norms."""
        if not any(isinstance(module, nn.LayerNorm) for module in self.model.modules()):
            return None
        network = getattr(self.model, "backbone_name", type(self.model).__name__)
        return f"explainer=fullgrad leaves out the biases of the layer norms and linear layers of {network}"

    def input_maps(self, pixels: Pixels, targets: Tensor | None) -> Explained:
        """Add up the terms of the input and of every layer with a bias."""
        outputs: list[tuple[Tensor, Tensor]] = []

        def keep(module: nn.Module, _: object, output: Tensor) -> Tensor:
            outputs.append((_bias(module), output))
            return output.clone()

        with ExitStack() as hooks, torch.enable_grad():
            for module in filter(_has_bias, self.model.modules()):
                hooks.enter_context(module.register_forward_hook(keep))
            leaf = pixels.detach().requires_grad_()
            logits = self.run(leaf)
            targets = checked_targets(targets, logits)
            score = class_score(self.score, logits, targets).sum()
            own, *others = gradients(score, [leaf, *(output for _, output in outputs)])
        size = frame_of(pixels)
        total = _scaled((pixels * own).abs(), self.scaling).sum(1)
        for (bias, _), gradient in zip(outputs, others, strict=True):
            channels = _scaled(widened(bias[:, None, None] * gradient).abs(), self.scaling)
            for_size = to_frame(channels.flatten(0, 1), size, self.upsample)
            total = total + for_size.unflatten(0, channels.shape[:2]).sum(1)
        return total.detach(), targets, logits.detach()


def _has_bias(module: nn.Module) -> bool:
    return isinstance(module, (nn.Conv2d, nn.BatchNorm2d)) and module.bias is not None


def _bias(module: nn.Module) -> Tensor:
    bias: Tensor = module.bias  # type: ignore[assignment]
    if isinstance(module, nn.BatchNorm2d):
        assert module.running_mean is not None
        assert module.running_var is not None
        return bias - module.running_mean * module.weight / (module.running_var + module.eps).sqrt()
    return bias


def _scaled(values: Maps, scaling: Scaling) -> Maps:
    """Scale each image's channels to [0, 1], together or each alone; what is constant becomes 0."""
    if scaling == "none":
        return values
    over = (1, 2, 3) if scaling == "layer" else (2, 3)
    low, high = values.amin(over, keepdim=True), values.amax(over, keepdim=True)
    return torch.where(high > low, (values - low) / (high - low), 0.0)
