"""Heatmap quality, worked out by hand, and ROAD against the grad-cam package."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer

from gradsam_exp.metrics.faithfulness import CombinedROAD, DeletionAUC, InsertionAUC, impute
from gradsam_exp.metrics.heatmaps import BestThresholdIoU, EnergyInMask, PointingGame, Sparsity
from gradsam_exp.types import Heatmaps

HEAT = torch.tensor([[[0.0, 0.2, 0.0], [0.4, 1.0, 0.4]]])
MASK = torch.tensor([[[False, False, False], [False, True, True]]])


def heatmaps(values: torch.Tensor) -> Heatmaps:
    count = len(values)
    return Heatmaps(values, torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=torch.long))


def test_pointing_games():
    assert PointingGame().measure(heatmaps(HEAT), MASK).tolist() == [1.0]
    assert PointingGame().measure(heatmaps(HEAT.flip(2)[:, :, [1, 0, 2]]), MASK).tolist() == [0.0]
    assert PointingGame(tolerance=1.0).measure(heatmaps(HEAT[:, :, [1, 0, 2]]), MASK).tolist() == [1.0]
    assert EnergyInMask().measure(heatmaps(HEAT), MASK)[0] == pytest.approx(1.4 / 2.0)
    two = heatmaps(torch.cat([HEAT, torch.zeros_like(HEAT)]))
    assert EnergyInMask().measure(two, MASK.repeat(2, 1, 1)).tolist() == pytest.approx([0.7, np.nan], nan_ok=True)


def test_the_best_threshold():
    """From 0.4 on: 3 warm pixels, 2 of them right; above: 1 of 2."""
    assert BestThresholdIoU().measure(heatmaps(HEAT), MASK)[0] == pytest.approx(2 / 3)
    assert BestThresholdIoU().measure(heatmaps(MASK.float()), MASK).tolist() == [1.0]
    one = torch.tensor([[[0.0, 0.7]], [[0.7, 0.0]], [[0.0, 0.0]]])
    truth = torch.tensor([[[False, True]], [[False, True]], [[False, False]]])
    assert BestThresholdIoU().measure(heatmaps(one), truth).tolist() == [1.0, 0.0, 1.0], "nothing is nothing"


def test_sparsity_is_the_gini_index():
    one = torch.zeros(1, 1, 4)
    one[0, 0, 2] = 5.0
    assert Sparsity().measure(heatmaps(one)).tolist() == [0.75]
    assert Sparsity().measure(heatmaps(torch.ones(1, 2, 2))).tolist() == [0.0]
    assert Sparsity().measure(heatmaps(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])))[0] == pytest.approx(0.25)


def left_column(pixels: torch.Tensor) -> torch.Tensor:
    """The logit of class 0 is how much is left of the left column."""
    score = 50 * (pixels[:, 0, :, 0].mean(1) - 0.5)
    return torch.stack([score, torch.zeros_like(score)], 1)


def test_deleting_what_matters_first_is_a_small_area():
    pixels = torch.ones(2, 3, 4, 4)
    good, bad = torch.zeros(4, 4), torch.zeros(4, 4)
    good[:, 0], bad[:, 3] = 1, 1
    targets = torch.zeros(2, dtype=torch.long)
    area = DeletionAUC(steps=4).react(left_column, pixels, torch.stack([good, bad]), targets)
    assert area[0] == pytest.approx(1 / 8, abs=1e-6), "gone after the first quarter"
    # bad: ties are deleted in scan order, row by row; the column's half is gone after 3/8 … of 16 pixels
    assert area[1] > 0.4
    inserted = InsertionAUC(steps=4).react(left_column, pixels, torch.stack([good, bad]), targets)
    assert inserted == pytest.approx(torch.ones(2).double(), abs=1e-6), "a flat image has nothing to blur"


def test_an_insertion_begins_with_a_blurred_image():
    """A tenth of the shorter side, 2 px, is the Gaussian's standard deviation; it ends 4 px from its middle."""
    pixels = torch.zeros(1, 1, 20, 30)
    pixels[0, 0, 10, 15] = 1
    blurred, whole = InsertionAUC().ends(pixels)
    assert torch.equal(whole, pixels)
    weights = torch.exp(-(torch.arange(-4.0, 5.0) ** 2) / 8)
    weights /= weights.sum()
    torch.testing.assert_close(blurred[0, 0, 6:15, 11:20], torch.outer(weights, weights))
    assert blurred.sum().item() == pytest.approx(1)
    assert InsertionAUC().ends(torch.ones(1, 1, 1, 30))[0].tolist() == torch.ones(1, 1, 1, 30).tolist()


def test_imputation_equals_the_grad_cam_package():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 9, 11, generator=generator)
    removed = torch.rand(9, 11, generator=generator) < 0.4
    ours = impute(image, removed, noise=0.0, rng=np.random.default_rng(0))
    theirs = NoisyLinearImputer(noise=0.0)(image, (~removed).float())
    torch.testing.assert_close(ours, theirs.to(ours.dtype), atol=1e-4, rtol=0)
    assert torch.equal(ours[:, ~removed], image[:, ~removed])


def test_one_removed_pixel_is_its_neighbours_mean():
    image = torch.arange(9.0).reshape(1, 3, 3)
    removed = torch.zeros(3, 3, dtype=torch.bool)
    removed[1, 1] = True
    filled = impute(image, removed, noise=0.0, rng=np.random.default_rng(0))
    assert filled[0, 1, 1] == pytest.approx((1 + 3 + 5 + 7) / 6 + (0 + 2 + 6 + 8) / 12)


def test_road_tells_the_most_from_the_least_relevant():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.zeros(1, 3, 8, 8)
    pixels[:, :, :, 0] = 1
    heat = torch.rand(1, 8, 8, generator=generator) / 2
    heat[:, :, 0] = 1
    target = torch.zeros(1, dtype=torch.long)
    rank = heat.flatten().argsort(descending=True).argsort().view(1, 8, 8)
    most = CombinedROAD().change(left_column, pixels, rank, target)
    least = CombinedROAD().change(left_column, pixels, 63 - rank, target)
    assert most[0] < -0.5
    assert abs(least[0]) < 0.01
    assert torch.equal(CombinedROAD().react(left_column, pixels, heat, target), (least - most) / 2)
