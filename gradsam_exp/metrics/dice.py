"""Dice coefficient of the predicted and the true masks."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gradsam_exp.metrics.base import METRICS, ExampleMetric


@METRICS.register("dice")
class Dice(ExampleMetric):
    """Twice the pixels that both masks have, over the sum of their areas, in [0, 1]; two empty masks have 1.

    Dice, *Measures of the amount of ecologic association between species* (1945); the F1 score of the pixels.

    >>> import torch
    >>> metric = Dice()
    >>> metric.update(torch.tensor([[[True, True, True]]]), torch.tensor([[[True, False, False]]]))
    >>> float(metric.compute())
    0.5
    """

    name, title, group = "dice", "Dice", "masks"
    needs = ("masks", "truth")
    higher_is_better = True

    def measure(
        self, masks: Bool[Tensor, "batch height width"], truth: Bool[Tensor, "batch height width"]
    ) -> Float[Tensor, " batch"]:
        """Dice coefficient of each image."""
        both = (masks & truth).sum((1, 2)).double()
        areas = (masks.sum((1, 2)) + truth.sum((1, 2))).double()
        return torch.where(areas > 0, 2 * both / areas.clamp(min=1), 1.0)
