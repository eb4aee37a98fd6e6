"""This refiner spreads heat between the patches that a transformer's attention connects."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy import ndimage

from gradsam_exp.refiners.base import REFINERS, Attention, Heat, Picture, Refiner

Count = Annotated[int, Field(ge=1, le=100)]
BALANCINGS = 3


@REFINERS.register("affinity")
@dataclass(frozen=True)
class Affinity(Refiner):
    """Affinity spreads heat from the warm boxes along the classifier's own attention; for transformers.

    The class-aware attention-based affinity of CLIP-ES, "CLIP is Also an Efficient Segmenter" (Lin et al., CVPR
    2023, and its code): the attention between patches, averaged over heads and layers, is made doubly stochastic
    by Sinkhorn's normalisation, symmetric, and raised to a power; it is applied to the heat inside the boxes
    around the warm components. Heat is averaged to the patches first; the result is scaled to [0, 1] and
    interpolated.

    Attributes:
        threshold: warm patches have at least this share of the largest heat; the paper's λ for PASCAL VOC.
        power: of the affinity; the paper's t.
        layers: the attention is the mean of so many last layers.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"attention"})

    threshold: Annotated[float, Field(ge=0, le=1)] = 0.4
    power: Count = 2
    layers: Count = 8

    @property
    def attention_layers(self) -> int:  # type: ignore[override]
        """See `Refiner.attention_layers`."""
        return self.layers

    def refine(self, image: Picture, heat: Heat, attention: Attention | None = None) -> Heat:
        """Spread the heat; where that makes all patches alike, the heatmap is given back as it is."""
        del image
        assert attention is not None  # it is needed
        grid = attention.shape[:2]
        own = F.adaptive_avg_pool2d(torch.from_numpy(heat)[None, None], grid)[0, 0].numpy()
        affinity = attention.astype(np.float64).reshape(own.size, own.size)
        for _ in range(BALANCINGS):
            affinity = affinity / affinity.sum(0)
            affinity = affinity / affinity.sum(1, keepdims=True)
        affinity = np.linalg.matrix_power((affinity + affinity.T) / 2, self.power)
        spread = affinity @ (own * warm_boxes(own, self.threshold)).ravel()
        spread -= spread.min()
        if spread.max() <= 0:
            return heat
        patches = torch.from_numpy(spread / spread.max()).view(1, 1, *grid)
        return F.interpolate(patches, heat.shape, mode="bilinear", align_corners=False)[0, 0].numpy()


def warm_boxes(heat: Heat, threshold: float) -> Bool[np.ndarray, "height width"]:
    """Find the boxes around the 8-connected components of at least this share of the largest heat."""
    components, _ = ndimage.label(heat >= threshold * heat.max(), structure=np.ones((3, 3)))
    inside = np.zeros(heat.shape, dtype=bool)
    for box in ndimage.find_objects(components):
        inside[box] = True
    return inside
