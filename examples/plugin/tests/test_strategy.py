"""The points lie where they were worked out by hand."""

from __future__ import annotations

import torch
from spread_points.strategy import SpreadPoints

from gradsam_exp.prompts.base import STRATEGIES
from gradsam_exp.types import Heatmaps, PromptContext


def context(values: torch.Tensor) -> PromptContext:
    count = len(values)
    heatmaps = Heatmaps(values, torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=torch.long))
    return PromptContext(torch.zeros(count, 3, *values.shape[1:], dtype=torch.uint8), heatmaps)


def test_points_are_spread_over_the_warm_pixels():
    values = torch.zeros(1, 5, 9)
    values[0, 2, 1:8] = 0.9  # a warm row, x from 1 to 7
    values[0, 2, 2] = 1.0  # its hottest pixel
    values[0, 4, 8] = 0.5  # too cold
    prompts = SpreadPoints(points=3).propose(context(values))
    assert prompts.points.tolist() == [[[2, 2], [7, 2], [4, 2]]]  # 4 and 5 are equally far from 2 and 7
    assert prompts.labels.tolist() == [[1, 1, 1]]


def test_it_is_known_by_its_name():
    assert STRATEGIES.build({"name": "spread", "points": 2}) == SpreadPoints(points=2)
