"""Refined heatmaps follow the image's edges."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from gradsam_exp.errors import InputError
from gradsam_exp.refiners.base import REFINERS
from gradsam_exp.types import Heatmaps, MaskSet


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


@pytest.mark.parametrize("name", ["guided", "random_walker", "crf"])
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


def mean_field(image: np.ndarray, heat: np.ndarray, steps: int) -> np.ndarray:
    """Krähenbühl and Koltun's algorithm 1 pair by pair, kernels normalised symmetrically; 3·smooth + 10·colour."""
    pixels = [(y, x) for y in range(image.shape[0]) for x in range(image.shape[1])]

    def kernel(alike) -> np.ndarray:
        values = np.array([[np.exp(-alike(one, other)) for other in pixels] for one in pixels])
        return values / np.sqrt(np.outer(values.sum(1), values.sum(1)))

    def apart(one, other) -> float:
        return (one[0] - other[0]) ** 2 + (one[1] - other[1]) ** 2

    def colours(one, other) -> float:
        return ((image[one].astype(float) - image[other]) ** 2).sum()

    smooth = kernel(lambda a, b: apart(a, b) / (2 * 3**2))
    colour = kernel(lambda a, b: apart(a, b) / (2 * 80**2) + colours(a, b) / (2 * 13**2))
    own = np.stack([1 - heat.ravel(), heat.ravel()]).clip(1e-5, 1 - 1e-5)
    found = own
    for _ in range(steps):
        message = 3 * found @ smooth + 10 * found @ colour  # what pixels of the same label give
        found = own * np.exp(message)
        found /= found.sum(0)
    return found[1].reshape(heat.shape)


@pytest.mark.parametrize("steps", [1, 5])
def test_the_crf_is_mean_field_written_out(steps: int):
    random = np.random.default_rng(0)
    image, heat = random.integers(100, 140, (6, 8, 3), dtype=np.uint8), random.random((6, 8))
    found = REFINERS.build({"name": "crf", "iterations": steps}).refine(image, heat)
    assert np.ptp(found) > 0.05
    np.testing.assert_allclose(found, mean_field(image, heat, steps), atol=1e-4)


def test_alpha_weighs_the_background():
    """Without any pull: h / (h + (1 − h)^alpha) of ½ with alpha 2 is ⅔."""
    alone = {"name": "crf", "smooth_weight": 0, "colour_weight": 0}
    image, heat = np.zeros((4, 4, 3), dtype=np.uint8), np.full((4, 4), 0.5)
    np.testing.assert_allclose(REFINERS.build(alone).refine(image, heat), 0.5, atol=1e-6)
    np.testing.assert_allclose(REFINERS.build({**alone, "alpha": 2.0}).refine(image, heat), 2 / 3, atol=1e-6)


def test_the_crf_sees_a_large_image_smaller():
    random = np.random.default_rng(0)
    image, heat = random.integers(100, 140, (8, 8, 3), dtype=np.uint8), random.random((8, 8))
    half = REFINERS.build({"name": "crf", "colour_px": 40.0, "smooth_px": 1.5}).refine(image, heat)
    twice = [np.kron(one, np.ones((2, 2) + (1,) * (one.ndim - 2), dtype=one.dtype)) for one in (image, heat)]
    found = REFINERS.build({"name": "crf", "max_pixels": 64}).refine(*twice)
    expected = torch.nn.functional.interpolate(torch.from_numpy(half)[None, None], (16, 16), mode="bilinear")
    np.testing.assert_allclose(found, expected[0, 0].numpy(), atol=1e-5)


def mask_set(*masks: list[list[int]]) -> MaskSet:
    found = torch.tensor(masks, dtype=torch.bool).reshape(-1, 2, 4)
    numbers = torch.zeros(len(found))
    return MaskSet(MaskSet.pack(found), torch.zeros(len(found), 2), numbers.long(), numbers, numbers, (2, 4))


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        ("smallest", [[0.9, 0.5, 0.5, 0.1], [0.5, 0.5, 0.3, 0.2]]),
        ("largest", [[0.5, 0.5, 0.5, 0.1], [0.5, 0.5, 0.3, 0.2]]),
        ("mean", [[0.7, 0.5, 0.5, 0.1], [0.5, 0.5, 0.3, 0.2]]),
    ],
)
def test_each_mask_has_its_mean_heat(overlap: str, expected: list[list[float]]):
    """A mask of five pixels of 2.5 in all, one of one pixel of 0.9 in it; three pixels are in none."""
    heat = np.array([[0.9, 0.6, 0.2, 0.1], [0.4, 0.4, 0.3, 0.2]])
    found = mask_set([[1, 0, 0, 0], [0, 0, 0, 0]], [[1, 1, 1, 0], [1, 1, 0, 0]])
    refiner = REFINERS.build({"name": "segments", "overlap": overlap})
    refined = refiner.refine(np.zeros((2, 4, 3), dtype=np.uint8), heat, everything=found)
    np.testing.assert_allclose(refined, expected)


def test_a_refiner_is_given_what_it_needs_of_each_image():
    heat = torch.tensor([[[1.0, 0.5, 0.0, 0.0]] * 2] * 2 + [[[0.0] * 4] * 2])
    heatmaps = Heatmaps(heat, torch.tensor([False, False, True]), torch.zeros(3, dtype=torch.long))
    left = [[1, 1, 0, 0], [1, 1, 0, 0]]
    refiner = REFINERS.build({"name": "segments"})
    assert refiner.needs == {"everything"}
    assert refiner.everything is not None
    images = torch.zeros(3, 3, 2, 4, dtype=torch.uint8)
    refined = refiner(images, heatmaps, everything=[mask_set(left), mask_set(), mask_set(left)])
    assert refined.values[0].tolist() == [[1, 1, 0, 0]] * 2
    assert torch.equal(refined.values[1], heat[1]), "nothing was found in this image"
    assert not refined.values[2].any()


def test_affinity_spreads_heat_from_the_warm_box_to_the_patches_it_attends_to():
    """Of 2×2 patches the upper two attend to each other alone: heat 1 of the left one becomes ½ of each."""
    attention = np.zeros((4, 4), dtype=np.float32)
    attention[:2, :2], attention[2, 2], attention[3, 3] = 0.5, 1, 1
    heat = np.kron([[1.0, 0.0], [0.0, 0.5]], np.ones((2, 2)))
    refiner = REFINERS.build({"name": "affinity", "threshold": 0.6})
    refined = refiner.refine(np.zeros((4, 4, 3), dtype=np.uint8), heat, attention=attention.reshape(2, 2, 2, 2))
    assert refined[0].tolist() == [1] * 4
    assert refined[3].tolist() == [0] * 4
    patches = REFINERS.build({"name": "affinity", "threshold": 0.4}).refine(
        np.zeros((2, 2, 3), dtype=np.uint8), heat[::2, ::2], attention=attention.reshape(2, 2, 2, 2)
    )
    assert patches.tolist() == [[1, 1], [0, 1]], "the box around both warm patches holds all"


def test_affinity_as_its_authors_compute_it():
    """Sinkhorn's steps of CLIP-ES's code, columns first, three times in all; the mask is of columns."""
    random = torch.Generator().manual_seed(0)
    attention, heat = torch.rand(12, 12, generator=random).double(), torch.zeros(3, 4).double()
    heat[0, 1], heat[1, 1], heat[2, 3] = 1.0, 0.8, 0.3
    inside = torch.zeros(3, 4)
    inside[:2, 1] = 1
    matrix = attention
    for _ in range(3):
        matrix = matrix / matrix.sum(0, keepdim=True)
        matrix = matrix / matrix.sum(1, keepdim=True)
    matrix = (matrix + matrix.T) / 2
    matrix = matrix @ matrix * inside.view(1, 12)
    expected = (matrix @ heat.view(12, 1)).view(3, 4)
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    refiner = REFINERS.build({"name": "affinity"})
    image = np.zeros((3, 4, 3), dtype=np.uint8)
    found = refiner.refine(image, heat.numpy(), attention=attention.view(3, 4, 3, 4).float().numpy())
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    uniform = np.full((3, 4, 3, 4), 1 / 12, dtype=np.float32)
    assert refiner.refine(image, heat.numpy(), attention=uniform) is not None


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
