"""This refiner labels pixels by a fully connected conditional random field: like colours, like labels."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from gradsam_exp.refiners.base import REFINERS, Heat, Picture, Refiner

Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
LEAST_PROBABILITY = 1e-5


@REFINERS.register("crf")
@dataclass(frozen=True)
class DenseCRF(Refiner):
    """DenseCRF gives each pixel its probability to be object in a fully connected conditional random field.

    Krähenbühl and Koltun: *Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials* (NeurIPS
    2011), of two labels. All pairs of pixels pull each other to one label, by a smoothness kernel of their
    distance and an appearance kernel of distance and colours (eq. 3), each normalised symmetrically as in the
    authors' code. Kernels are computed exactly, pair by pair, rather than filtered on a permutohedral lattice: the
    work grows with the square of the pixels, so larger images are made smaller first. Weights and widths are those
    with which PSA's code (Ahn and Kwak, CVPR 2018) refines class activation maps.

    Attributes:
        alpha: heat is the object's probability, ``(1 − heat)^alpha`` the background's; objects grow with it.
        smooth_weight, smooth_px: of the smoothness kernel, and its standard deviation in pixels.
        colour_weight, colour_px, colour_rgb: of the appearance kernel, and its standard deviations in pixels and
            in steps of 0 to 255.
        iterations: of mean-field inference.
        max_pixels: images of more are made smaller, and the result larger again; edges finer than that are not
            followed. Memory is 4 bytes × its square.
    """

    alpha: Positive = 1.0
    smooth_weight: Weight = 3.0
    smooth_px: Positive = 3.0
    colour_weight: Weight = 10.0
    colour_px: Positive = 80.0
    colour_rgb: Positive = 13.0
    iterations: Annotated[int, Field(ge=1, le=1000)] = 10
    max_pixels: Annotated[int, Field(ge=64, le=2**15)] = 4096

    def refine(self, image: Picture, heat: Heat) -> Heat:
        """Infer the probabilities by mean field."""
        height, width = heat.shape
        scale = min(1.0, (self.max_pixels / heat.size) ** 0.5)
        size = max(1, int(height * scale)), max(1, int(width * scale))
        probability = F.adaptive_avg_pool2d(torch.from_numpy(heat).float()[None, None], size).flatten()
        colours = F.adaptive_avg_pool2d(torch.from_numpy(image.copy()).float().permute(2, 0, 1)[None], size)
        probability = probability.clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        unary = probability.log() - self.alpha * (1 - probability).log()
        pull = self.pull(colours[0].flatten(1).T, size, (height / size[0], width / size[1]))
        for _ in range(self.iterations):
            probability = (unary + pull @ (2 * probability - 1)).sigmoid()
        found = F.interpolate(probability.view(1, 1, *size), (height, width), mode="bilinear", align_corners=False)
        return found[0, 0].double().numpy()

    def pull(
        self, colours: Float[Tensor, "pixels 3"], size: tuple[int, int], step: tuple[float, float]
    ) -> Float[Tensor, "pixels pixels"]:
        """Compute how much each pixel pulls each other one to its own label; the sum of both weighted kernels.

        Args:
            colours: 0 to 255, row by row.
            size: ``(height, width)`` of the image that they are of.
            step: ``(y, x)`` px of the original image from one pixel to the next.
        """
        y, x = torch.meshgrid(*(torch.arange(n) * s for n, s in zip(size, step, strict=True)), indexing="ij")
        places = torch.stack([y, x], -1).flatten(0, 1).float()
        smooth = _normalised_kernel(places / self.smooth_px)
        appearance = _normalised_kernel(torch.cat([places / self.colour_px, colours / self.colour_rgb], 1))
        return smooth.mul_(self.smooth_weight).add_(appearance, alpha=self.colour_weight)


def _normalised_kernel(features: Float[Tensor, "pixels features"]) -> Float[Tensor, "pixels pixels"]:
    """Compute ``exp(−½ |f_i − f_j|²)``, divided by the root of the product of its sums over i and over j."""
    features = features - features.mean(0)  # products lose digits where features are far from zero
    half = features.square().sum(1) / 2
    kernel = torch.addmm(-half, features, features.T).sub_(half[:, None]).clamp_(max=0).exp_()
    root = kernel.sum(1).rsqrt()
    return kernel.mul_(root[:, None]).mul_(root)
