"""This refiner gives each superpixel its mean heat, so that a threshold keeps or drops it as a whole."""

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass
from skimage.segmentation import slic

from gradsam_exp.refiners.base import REFINERS, Heat, Picture, Refiner


@REFINERS.register("superpixels")
@dataclass(frozen=True)
class Superpixels(Refiner):
    """Superpixels gives each pixel the mean heat of its SLIC superpixel, scaled to a maximum of 1.

    Achanta et al.: *SLIC Superpixels Compared to State-of-the-Art Superpixel Methods*, PAMI 2012, by scikit-image.

    Attributes:
        segments: about so many superpixels an image.
        compactness: how much nearness counts against likeness of colours (CIELAB); larger makes squares of them.
        sigma: the image is smoothed by a Gaussian of this width first, in pixels.
    """

    segments: Annotated[int, Field(ge=2, le=100_000)] = 200
    compactness: Annotated[float, Field(gt=0)] = 10.0
    sigma: Annotated[float, Field(ge=0)] = 0.0

    def refine(self, image: Picture, heat: Heat) -> Heat:
        """Average the heatmap over each superpixel."""
        numbers = slic(image, self.segments, self.compactness, sigma=self.sigma, start_label=0)
        flat = numbers.ravel()
        means = np.bincount(flat, heat.ravel()) / np.maximum(np.bincount(flat), 1)
        return means[numbers]
