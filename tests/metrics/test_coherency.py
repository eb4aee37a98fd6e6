"""Complexity, average drop and coherency of heatmaps, on a classifier whose answers are known by hand."""

import math

import pytest
import torch
from torch import Tensor

from gradsam_exp.metrics.faithfulness import AverageDrop, Coherency
from gradsam_exp.metrics.heatmaps import Complexity
from gradsam_exp.types import Heatmaps

WHITE = torch.full((1, 3, 1, 4), 255, dtype=torch.uint8)


class Summing:
    """Class 1 has the sum of the red pixels as its logit, class 0 has 0; its own heatmap is ``red``."""

    def pixels(self, images: Tensor) -> Tensor:
        return images.float() / 255

    def resized(self, maps: Tensor, pixels: Tensor) -> Tensor:
        return maps

    def logits(self, pixels: Tensor) -> Tensor:
        total = pixels[:, 0].sum((1, 2))
        return torch.stack([torch.zeros_like(total), total], 1)

    def explain(self, pixels: Tensor, targets: Tensor) -> Tensor:
        return pixels[:, 0]


def heat(*values: float) -> Heatmaps:
    return Heatmaps(
        torch.tensor([[values]], dtype=torch.float32), torch.tensor([not any(values)]), torch.tensor([1])
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_complexity_is_the_mean_heat():
    assert Complexity().measure(heat(1, 0.5, 0, 0)).item() == pytest.approx(0.375)
    counted = torch.tensor([[[True, True, False, False]]])
    assert Complexity().measure(heat(1, 0.5, 0, 0), counted).item() == pytest.approx(0.75)
    assert Complexity().measure(heat(0, 0, 0, 0)).item() == 0


def test_average_drop_is_the_share_of_the_probability_that_is_lost():
    found = AverageDrop().measure(heat(1, 0.5, 0, 0), WHITE, Summing()).item()
    assert found == pytest.approx(1 - sigmoid(1.5) / sigmoid(4))
    assert AverageDrop().measure(heat(1, 1, 1, 1), WHITE, Summing()).item() == 0
    counted = torch.tensor([[[True, True, True, False]]])  # the last pixel stays as it is
    found = AverageDrop().measure(heat(1, 0.5, 0, 0), WHITE, Summing(), counted).item()
    assert found == pytest.approx(1 - sigmoid(2.5) / sigmoid(4))


def test_coherency_is_the_correlation_with_the_heatmap_of_what_is_left():
    assert Coherency().measure(heat(1, 0.5, 0, 0), WHITE, Summing()).item() == pytest.approx(1)
    images = torch.tensor([0, 255, 255, 255], dtype=torch.uint8).expand(1, 3, 1, 4)
    one, other = [1, 0.5, 0.2, 0], [0, 0.5, 0.2, 0]  # the heatmap, and what it leaves of the picture
    mean = [sum(values) / 4 for values in (one, other)]
    products = sum((a - mean[0]) * (b - mean[1]) for a, b in zip(one, other, strict=True))
    norms = [sum((a - m) ** 2 for a in values) ** 0.5 for values, m in zip((one, other), mean, strict=True)]
    expected = (1 + products / norms[0] / norms[1]) / 2
    found = Coherency().measure(heat(*one), images, Summing()).item()
    assert found == pytest.approx(expected, abs=1e-6)
    assert Coherency().measure(heat(1, 1, 1, 1), WHITE, Summing()).item() == pytest.approx(0.5), "constant"
