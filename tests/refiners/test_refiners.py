"""Refined heatmaps follow the image's edges."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from gradsam_exp.errors import InputError
from gradsam_exp.refiners.base import REFINERS
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


@pytest.mark.parametrize("beta", [130.0, 10000.0])
def test_the_random_walker_solves_its_equations(beta: float):
    """Grady's: an unseeded pixel's probability is the mean of its neighbours', weighted by how alike they are.

    With edges as hard as here conjugate gradients stop at values outside [0, 1], with a warning.
    """
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (24, 30, 3), dtype=np.uint8)
    image[6:14, 8:20] = 255
    y, x = np.mgrid[:24, :30]
    heat = np.exp(-((y - 10) ** 2 + (x - 14) ** 2) / 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = REFINERS.build({"name": "random_walker", "beta": beta}).refine(image, heat)
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-12
    assert (found[heat < 0.1] == 0).all()
    assert (found[heat >= 0.8] == 1).all()
    colours = image / 255
    scale = beta / (10 * colours.std() * 3**0.5)  # how scikit-image makes β independent of contrast and channels
    weights, sums = np.zeros((24, 30)), np.zeros((24, 30))
    for axis in (0, 1):
        alike = np.exp(-scale * (np.diff(colours, axis=axis) ** 2).sum(-1)) + 1e-10
        here = tuple(slice(None, -1) if a == axis else slice(None) for a in (0, 1))
        there = tuple(slice(1, None) if a == axis else slice(None) for a in (0, 1))
        for one, other in ((here, there), (there, here)):
            weights[one] += alike
            sums[one] += alike * found[other]
    free = (heat >= 0.1) & (heat < 0.8)
    assert free.sum() > 50
    assert np.allclose(found[free], (sums / weights)[free], atol=1e-6)


def test_the_random_walker_leaves_a_heatmap_on_one_colour_as_it_is(scene):
    _, heatmaps, _ = scene
    flat = torch.full((2, 3, 32, 40), 255, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refined = REFINERS.build({"name": "random_walker"})(flat, heatmaps)
    assert torch.allclose(refined.values[0], heatmaps.values[0] / heatmaps.values[0].max())


def test_a_superpixel_has_its_mean_heat():
    """Four quarters of other colours: 0.2 and 0.6 in halves of the first, 1, 0.1, and 0.3 but for one pixel."""
    image, heat = np.zeros((20, 24, 3), dtype=np.uint8), np.zeros((20, 24))
    image[:10, :12], image[:10, 12:], image[10:, :12], image[10:, 12:] = (
        [200, 30, 30], [30, 200, 30], [30, 30, 200], [200, 200, 30]
    )  # fmt: skip
    heat[:5, :12], heat[5:10, :12], heat[:10, 12:], heat[10:, :12], heat[10:, 12:] = 0.2, 0.6, 1.0, 0.1, 0.3
    heat[15, 18] = 0.9
    heatmaps = Heatmaps(torch.from_numpy(heat)[None].float(), torch.tensor([False]), torch.tensor([0]))
    images = torch.from_numpy(image).permute(2, 0, 1)[None]
    (refined,) = REFINERS.build({"name": "superpixels", "segments": 4})(images, heatmaps).values
    for rows, columns, mean in [
        (slice(0, 10), slice(0, 12), 0.4),
        (slice(0, 10), slice(12, 24), 1.0),
        (slice(10, 20), slice(0, 12), 0.1),
        (slice(10, 20), slice(12, 24), 0.3 + 0.6 / 120),
    ]:
        assert refined[rows, columns].flatten().tolist() == pytest.approx([mean] * 120, abs=1e-6)
    half = REFINERS.build({"name": "superpixels", "segments": 4})(
        images, Heatmaps(heatmaps.values / 2, heatmaps.empty, heatmaps.targets)
    )
    assert torch.allclose(half.values[0], refined), "scaled to a maximum of 1"


def test_none_changes_nothing(scene):
    image, heatmaps, _ = scene
    assert REFINERS.build({"name": "none"})(image, heatmaps) is heatmaps


def test_thresholds_must_be_ordered():
    with pytest.raises(InputError, match=r"refine.*cold=0\.9 must be below warm=0\.8"):
        REFINERS.build({"name": "random_walker", "cold": 0.9})
