"""A metric is a mean over images that remembers every image's value."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class ExampleMetric(Metric):
    """Mean over images; an image to which the metric does not apply has the value NaN and is left out.

    Subclasses implement ``update`` by calling `record` with one value per image. States are concatenated
    across processes, so a sharded run gives the same mean as a single one.
    """

    full_state_update = False
    is_differentiable = False
    values: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def record(self, values: Float[Tensor, " batch"]) -> None:
        """Append one value per image; NaN where the metric does not apply."""
        self.values.append(values.detach().double().cpu())

    def per_image(self) -> Float[Tensor, " images"]:
        """All values so far, in the order of the updates."""
        return dim_zero_cat(self.values) if self.values else torch.zeros(0, dtype=torch.float64)

    def compute(self) -> Float[Tensor, ""]:
        """Mean over the images that have a value; NaN if none has."""
        return self.per_image().nanmean()
