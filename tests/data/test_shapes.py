import hashlib

import numpy as np
import pytest
import torch

from gradsam_exp.data.backgrounds import Mixed, Noise
from gradsam_exp.data.base import Limited, loader
from gradsam_exp.data.novel_shapes import NovelFills, NovelOutlines, NovelShapes
from gradsam_exp.data.shapes import LENGTHS, SHAPES, Shapes, stencil


def test_lengths_and_sizes_are_the_reference_data_sets():
    assert {split: len(Shapes(split, Noise(split))) for split in LENGTHS} == {
        "train": 3500,
        "val": 1000,
        "test": 500,
    }
    sample = Shapes("test", Noise("test"))[0]
    assert sample.image.shape == (3, 48, 64)
    assert sample.image.dtype == torch.uint8
    assert sample.examples[0].mask is not None
    assert sample.examples[0].mask.shape == (48, 64)


def test_pixels_of_a_seed_are_pinned():
    """The same on every platform: this digest was made once and must not change with library versions."""
    data = Shapes("test", Noise("test"))
    content = b"".join(data.draw(k).image.tobytes() + data.draw(k).mask.tobytes() for k in range(50))
    assert hashlib.sha256(content).hexdigest() == PINNED_NOISE


def test_mixed_backgrounds_of_a_seed_are_pinned():
    data = Shapes("val", Mixed("val"))
    content = b"".join(data.draw(k).image.tobytes() for k in range(50))
    assert hashlib.sha256(content).hexdigest() == PINNED_MIXED


def test_another_seed_or_split_gives_other_images():
    image = Shapes("test", Noise("test")).draw(0).image
    assert not np.array_equal(image, Shapes("test", Noise("test"), seed=1).draw(0).image)
    assert not np.array_equal(image, Shapes("val", Noise("val")).draw(0).image)


def test_drawn_facts_hold_for_every_image():
    data = Shapes("train", Noise("train"), length=400)
    touching = 0
    for index in range(400):
        drawing = data.draw(index)
        ys, xs = np.nonzero(drawing.mask)
        assert 13 <= drawing.size <= 19
        assert 0.6 <= drawing.opacity <= 1.0
        assert drawing.left <= xs.min() <= xs.max() < drawing.left + drawing.size
        assert drawing.top <= ys.min() <= ys.max() < drawing.top + drawing.size
        touching += int(xs.min() == 0 or ys.min() == 0 or xs.max() == 63 or ys.max() == 47)
    assert touching > 10, "shapes may touch the border"


def test_shape_is_flat_and_translucent_over_its_background():
    data = Shapes("test", Noise("test"))
    for index in range(20):
        drawing = data.draw(index)
        inside = drawing.image[drawing.mask].astype(int)
        # out = under·(1 − opacity) + colour·opacity: the spread left inside is that of the background, damped.
        spread = inside.max(0) - inside.min(0)
        assert (spread <= 255 * (1 - drawing.opacity) + 1).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", range(13, 20))
def test_stencils_are_symmetric_and_fill_their_box(shape: str, size: int):
    mask = stencil(shape, size)
    assert np.array_equal(mask, mask[:, ::-1])
    least = {"star": 0.8 * size, "triangle": size - 1}.get(shape, size)  # tips can be thinner than a pixel
    assert mask.any(0).sum() >= least
    assert mask.any(1).sum() >= least
    lowest = {"circle": 0.7, "square": 1.0, "triangle": 0.45, "star": 0.25, "diamond": 0.45}[shape]
    highest = {"circle": 0.85, "square": 1.0, "triangle": 0.6, "star": 0.45, "diamond": 0.6}[shape]
    assert lowest <= mask.mean() <= highest


def test_classes_are_balanced():
    labels = [Shapes("test", Noise("test"))[k].examples[0].label for k in range(500)]
    assert np.bincount(labels).tolist() == [100] * 5


def test_loader_reads_in_order(shapes: Shapes):
    batches = list(loader(shapes, 3))
    assert [len(b) for b in batches] == [3, 3, 2]
    assert [name for b in batches for name in b.image_ids] == [f"test-{k:05d}" for k in range(8)]


def test_the_digest_follows_what_pixels_depend_on():
    prints = {
        Shapes("test", Noise("test")).digest,
        Shapes("val", Noise("val")).digest,
        Shapes("test", Noise("test"), seed=1).digest,
        Shapes("test", Noise("test"), max_size=18).digest,
        Shapes("test", Mixed("test")).digest,
    }
    assert len(prints) == 5
    assert Shapes("test", Noise("test")).digest in prints


PINNED_NOISE = "13e704f5138c915c99ad5fb394b3b6b2c2207e628c218b521b816065b5e61a13"
PINNED_MIXED = "54c8a5c25c39e9139747e948243f8d4bb0ba6291a6830079a55382def27fbd86"


def test_the_digest_knows_which_shapes_are_drawn():
    known, novel = Shapes("test", Noise("test")), NovelShapes("test", Noise("test"))
    assert known.digest != novel.digest
    assert known.digest == Shapes("test", Noise("test")).digest


def test_a_limit_that_cuts_nothing_changes_nothing():
    whole = Shapes("test", Noise("test"))
    assert Limited(whole, 500).digest == whole.digest
    part = Limited(whole, 20)
    assert part.digest != whole.digest
    assert part.store_digest == whole.digest


def test_a_crescent_is_a_disc_without_another():
    data = NovelOutlines("test", Noise("test"), min_size=20, max_size=20)
    drawing = data.draw(0)
    crescent = drawing.mask[drawing.top : drawing.top + 20, drawing.left : drawing.left + 20]
    assert drawing.shape == "crescent"
    assert crescent[10, :5].all()
    assert not crescent[10, 6:19].any()
    assert (crescent <= stencil("circle", 20)).all()
    assert np.array_equal(crescent, crescent[::-1])


def test_digits_take_turns():
    data = NovelOutlines("test", Noise("test"), min_size=30, max_size=30)
    digits = [data.draw(k) for k in range(1, 41, 2)]
    cut = [one.mask[one.top : one.top + 30, one.left : one.left + 30].tobytes() for one in digits]
    assert {one.shape for one in digits} == {"digit"}
    assert len(set(cut)) == 10
    assert cut[:10] == cut[10:]


def test_fills_are_in_the_shape_and_nowhere_else():
    width, height = 64, 48
    grey = np.full((height, width, 3), 100, dtype=np.uint8)

    class Grey(Noise):
        def draw(self, rng, width, height):
            return grey.copy()

    data = NovelFills("test", Grey("test"), min_size=20, max_size=20)
    for index in range(15):
        one = data.draw(index)
        assert (one.image[~one.mask] == 100).all(), "nothing but the shape is painted"
        inside = one.image[one.mask]
        if one.shape == "two halves":
            assert len(np.unique(inside, axis=0)) == 2
        elif one.shape == "texture alone":
            assert set(np.unique(inside)) == {60, 140}
            assert inside.mean() == pytest.approx(100, abs=4)
        else:
            assert one.shape == "photograph"
            assert len(np.unique(inside, axis=0)) > 10
    outlines = [data.draw(index).mask.sum() for index in range(0, 15, 3)]
    assert len(set(outlines)) == 5, "circle, square, triangle, star and diamond take turns"
