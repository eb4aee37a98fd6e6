"""Training scenes of the compact SAM: every target is visible in the picture and has a right answer."""

from itertools import islice

import numpy as np
import pytest
import torch

from gradsam_exp.data.backgrounds import Noise
from gradsam_exp.data.novel_shapes import LETTERS, NovelShapes
from gradsam_exp.data.photos import photographs
from gradsam_exp.training.scene_loader import SceneStream, collate_scenes
from gradsam_exp.training.scenes import SceneGenerator, random_outline


@pytest.fixture(scope="module")
def generator() -> SceneGenerator:
    return SceneGenerator(photographs("val"))


def test_scenes_repeat_with_their_generator(generator: SceneGenerator):
    one, other = generator.draw(np.random.default_rng(4)), generator.draw(np.random.default_rng(4))
    assert np.array_equal(one.image, other.image)
    assert np.array_equal(one.regions, other.regions)


def test_masks_fit_the_grid_and_are_not_tiny(generator: SceneGenerator):
    rng = np.random.default_rng(0)
    for _ in range(60):
        scene = generator.draw(rng)
        height, width = scene.image.shape[:2]
        assert 64 <= max(width, height) <= 256
        rows, columns = scene.regions.shape
        assert max(rows, columns) == 64
        assert rows / columns == pytest.approx(height / width, abs=0.03)
        assert all(mask.shape == (rows, columns) and mask.sum() >= 12 for mask in scene.objects)
        assert all((scene.regions == k).sum() >= 20 for k in scene.region_ids)


def test_regions_lie_behind_the_objects_and_are_connected(generator: SceneGenerator):
    from scipy import ndimage

    rng = np.random.default_rng(1)
    for _ in range(40):
        scene = generator.draw(rng)
        for k in scene.region_ids:
            region = scene.regions == k
            assert ndimage.label(region)[1] == 1
            assert not any((region & mask).any() for mask in scene.objects)


def test_a_plain_scene_has_one_flat_object(generator: SceneGenerator):
    rng = np.random.default_rng(2)
    assert all(len(generator.draw(rng, plain=True).objects) <= 3 for _ in range(30))


def test_outlines_stay_in_the_unit_circle():
    rng = np.random.default_rng(3)
    for _ in range(300):
        for corners in random_outline(rng):
            assert len(corners) >= 3
            assert np.hypot(*np.array(corners).T).max() <= 1.9


def test_a_stream_can_start_at_any_scene(generator: SceneGenerator):
    stream = SceneStream(generator, targets=3, seed=0)
    late = SceneStream(generator, targets=3, seed=0, start=5)
    scenes = list(islice(stream, 9))
    picture, masks = next(iter(late))
    assert any(np.array_equal(picture, other) and torch.equal(masks, m) for other, m in scenes)
    assert masks.shape[0] == 3
    assert masks.flatten(1).any(1).all()


def test_batches_are_in_sams_input_frame(generator: SceneGenerator):
    batch = collate_scenes(list(islice(SceneStream(generator, targets=2, seed=0), 6)))
    assert batch.images.shape == (6, 3, 256, 256)
    assert batch.masks.shape == (6, 2, 64, 64)
    for inside, masks in zip(batch.inside, batch.masks, strict=True):
        rows, columns = int(inside[:, 0].sum()), int(inside[0].sum())
        assert max(rows, columns) == 256
        assert not masks[:, -(-rows // 4) :].any(), "no target on the padding"
        assert not masks[:, :, -(-columns // 4) :].any()


def test_unseen_shapes_are_other_shapes():
    data = NovelShapes("test", Noise("test"), length=8, min_size=16, max_size=30)
    assert [data.draw(k).shape for k in range(5)] == ["letter", "heart", "cross", "arrow", "letter"]
    glyphs = {data.stencil("letter", 24, 4 * k).tobytes() for k in range(len(LETTERS))}
    assert len(glyphs) == len(LETTERS)
    for name in ("heart", "cross", "arrow"):
        mask = data.stencil(name, 21, 0)
        assert mask.any(0).sum() >= 19
