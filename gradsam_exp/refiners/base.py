"""This module says what a refiner is, and holds the registry of them."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from gradsam_exp.registry import Registry
from gradsam_exp.types import Heatmaps, Images

Picture = UInt8[np.ndarray, "height width 3"]
Heat = Float[np.ndarray, "height width"]


class Refiner(ABC):
    """A refiner brings heatmaps, which have a layer's resolution, to the edges of the image."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    def __call__(self, images: Images, heatmaps: Heatmaps) -> Heatmaps:
        """Refine heatmaps on the CPU to [0, 1], scaled to a maximum of 1; an empty one stays empty."""
        refined = []
        for image, values, empty in zip(images, heatmaps.values, heatmaps.empty.tolist(), strict=True):
            if empty:
                refined.append(values)
                continue
            found = self.refine(image.permute(1, 2, 0).numpy(), values.numpy().astype(np.float64))
            found = np.clip(found, 0, 1)
            refined.append(torch.from_numpy(found / max(found.max(), 1e-12)).float())
        return replace(heatmaps, values=torch.stack(refined))

    @abstractmethod
    def refine(self, image: Picture, heat: Heat) -> Heat:
        """Refine one heatmap that is not empty; values outside [0, 1] are cut off."""


REFINERS: Registry[Refiner] = Registry("refine", "gradsam_exp.refiners")


@REFINERS.register("none")
@dataclass(frozen=True)
class Unrefined(Refiner):
    """Unrefined leaves heatmaps as the explainer gives them."""

    def __call__(self, images: Tensor, heatmaps: Heatmaps) -> Heatmaps:
        """Give back the same heatmaps."""
        del images
        return heatmaps

    def refine(self, image: Picture, heat: Heat) -> Heat:
        """Give back the same heatmap."""
        del image
        return heat
