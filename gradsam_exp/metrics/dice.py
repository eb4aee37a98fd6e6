"""This metric compares the predicted and the true masks by their Dice coefficient."""

import torch

from gradsam_exp.metrics.base import METRICS, ExampleMetric
from gradsam_exp.overlap import only_counted
from gradsam_exp.types import Masks, PerImage


@METRICS.register("dice")
class Dice(ExampleMetric):
    """The Dice coefficient is twice the pixels that both masks have, over the sum of their areas.

    In [0, 1]; two empty masks have 1. It is the F1 score of the pixels that count. Dice, *Measures of
    the amount of ecologic association between species* (1945).

    >>> import torch
    >>> metric = Dice()
    >>> metric.update(torch.tensor([[[True, True, True]]]), torch.tensor([[[True, False, False]]]))
    >>> float(metric.compute())
    0.5
    """

    name, title, group = "dice", "Dice", "masks"
    needs = ("masks", "truth", "counted")
    higher_is_better = True

    def measure(self, masks: Masks, truth: Masks, counted: Masks | None = None) -> PerImage:
        """Compute the Dice coefficient of each image."""
        masks, truth = only_counted(masks, truth, counted=counted)
        both = (masks & truth).sum((1, 2)).double()
        areas = (masks.sum((1, 2)) + truth.sum((1, 2))).double()
        return torch.where(areas > 0, 2 * both / areas.clamp(min=1), 1.0)
