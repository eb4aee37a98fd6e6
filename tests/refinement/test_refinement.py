"""Refined heatmaps follow the image's edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradsam_exp.errors import InputError
from gradsam_exp.refinement.base import REFINERS
from gradsam_exp.types import Heatmaps


@pytest.fixture
def scene() -> tuple[torch.Tensor, Heatmaps, np.ndarray]:
    """A bright square on dark ground with a blurred, shifted heatmap; and an image without a heatmap."""
    truth = np.zeros((32, 40), dtype=bool)
    truth[8:20, 10:24] = True
    image = torch.from_numpy(np.where(truth[None], 220, 30).astype(np.uint8)).expand(2, 3, 32, 40)
    y, x = np.mgrid[:32, :40]
    blob = np.exp(-((y - 15) ** 2 + (x - 19) ** 2) / 60)
    values = torch.from_numpy(np.stack([blob, np.zeros_like(blob)])).float()
    return image, Heatmaps(values, torch.tensor([False, True]), torch.zeros(2, dtype=torch.long)), truth


def overlap(values: torch.Tensor, truth: np.ndarray) -> float:
    warm = values.numpy() >= 0.5
    return (warm & truth).sum() / (warm | truth).sum()


@pytest.mark.parametrize("name", ["guided", "random_walker"])
def test_the_heatmap_moves_to_the_edges(scene, name: str):
    image, heatmaps, truth = scene
    refined = REFINERS.build({"name": name})(image, heatmaps)
    assert overlap(refined.values[0], truth) > overlap(heatmaps.values[0], truth) + 0.1
    assert refined.values[0].max() == 1
    assert refined.values.min() >= 0
    assert not refined.values[1].any(), "an empty heatmap stays empty"
    assert refined.empty.tolist() == [False, True]


def test_a_guided_filter_on_a_flat_image_is_a_blur(scene):
    _, heatmaps, _ = scene
    flat = torch.full((2, 3, 32, 40), 100, dtype=torch.uint8)
    refined = REFINERS.build({"name": "guided", "radius": 2})(flat, heatmaps).values[0].numpy()
    from scipy.ndimage import uniform_filter

    expected = uniform_filter(uniform_filter(heatmaps.values[0].numpy().astype(float), 5), 5)
    assert np.allclose(refined, expected / expected.max(), atol=1e-5)


def test_none_changes_nothing(scene):
    image, heatmaps, _ = scene
    assert REFINERS.build({"name": "none"})(image, heatmaps) is heatmaps


def test_thresholds_must_be_ordered():
    with pytest.raises(InputError, match=r"refine.*cold=0\.9 must be below warm=0\.8"):
        REFINERS.build({"name": "random_walker", "cold": 0.9})
