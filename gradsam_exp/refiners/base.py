"""This module says what a refiner is, and holds the registry of them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from gradsam_exp.errors import InputError
from gradsam_exp.registry import Registry
from gradsam_exp.types import EverythingMode, Heatmaps, Images

Picture = UInt8[np.ndarray, "height width 3"]
Heat = Float[np.ndarray, "height width"]
Attention = Float[np.ndarray, "rows columns rows columns"]
"""How much each patch of an image, by row and column, attends to each."""


class Refiner(ABC):
    """A refiner brings heatmaps, which have a layer's resolution, to the edges of the image."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    needs: ClassVar[frozenset[str]] = frozenset()
    """It looks at these besides image and heatmap: what the segmenter finds in its ``everything`` mode, a
    `MaskSet`, or the classifier's ``attention``, an `Attention`. `refine` is given them by name; what is not
    needed is not made."""

    everything: EverythingMode | None = None
    """How the masks are made that a refiner looks at which needs ``everything``."""

    attention_layers: int = 0
    """The attention is the mean of so many of the classifier's last layers, for a refiner that needs it."""

    def __call__(self, images: Images, heatmaps: Heatmaps, **needed: Sequence[Any]) -> Heatmaps:
        """Refine heatmaps on the CPU to [0, 1], scaled to a maximum of 1; an empty one stays empty.

        Args:
            images: each heatmap's.
            needed: what the refiner `needs`, by name: one for each heatmap.

        Raises:
            InputError: one is NaN or infinite somewhere after it was refined.
        """
        refined = []
        for row, (image, values) in enumerate(zip(images, heatmaps.values, strict=True)):
            if heatmaps.empty[row]:
                refined.append(values)
                continue
            own = {name: given[row] for name, given in needed.items()}
            found = self.refine(image.permute(1, 2, 0).numpy(), values.numpy().astype(np.float64), **own)
            if not np.isfinite(found).all():
                raise InputError(
                    f"{type(self).__name__} gives heatmaps that are NaN or infinite: choose other parameters of "
                    "refine, or refine=none"
                )
            found = np.clip(found, 0, 1)
            refined.append(torch.from_numpy(found / max(found.max(), 1e-12)).float())
        return replace(heatmaps, values=torch.stack(refined)).zeros_empty

    @abstractmethod
    def refine(self, image: Picture, heat: Heat) -> Heat:
        """Refine one heatmap that is not empty; values outside [0, 1] are cut off.

        A refiner that needs something takes it as a further argument of that name.
        """


REFINERS: Registry[Refiner] = Registry("refine", "gradsam_exp.refiners")


@REFINERS.register("none")
@dataclass(frozen=True)
class Unrefined(Refiner):
    """Unrefined leaves heatmaps as the explainer gives them."""

    def __call__(self, images: Tensor, heatmaps: Heatmaps, **needed: Sequence[Any]) -> Heatmaps:
        """Give back the same heatmaps."""
        del images, needed
        return heatmaps

    def refine(self, image: Picture, heat: Heat) -> Heat:
        """Give back the same heatmap."""
        del image
        return heat
