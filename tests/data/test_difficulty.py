from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from gradsam_exp.data.backgrounds import BACKGROUNDS, Background, Mixed, MixedMore, Noise
from gradsam_exp.data.base import collate
from gradsam_exp.data.photos import GREY, SCENES_OF_SPLIT, grey_photographs
from gradsam_exp.data.shapes import SHAPES, Crowded, Faint, Leaky, Shapes, paint, shapes, stencil

PLAIN = Shapes("test", Noise("test"))


def crowded() -> Crowded:
    return Crowded("test", Noise("test"), **Crowded.sizes)


class Black:
    """A black background, on which what is drawn stands out."""

    digest = "black"

    def draw(self, rng: np.random.Generator, width: int, height: int) -> np.ndarray:
        return np.zeros((height, width, 3), dtype=np.uint8)


def test_the_standard_tier_is_the_data_set_of_today():
    """The digest was made before there were others."""
    built = shapes("test", background={"name": "noise"})
    assert type(built) is Shapes
    assert built.digest == "3e05b1cabc27f5435c73fda6e2709f93"


def test_every_tier_has_a_digest_of_its_own_and_only_crowded_another_size():
    built = [shapes("test", background={"name": "noise"}, difficulty=d) for d in ("faint", "leaky", "crowded")]
    assert len({PLAIN.digest, *(one.digest for one in built)}) == 4
    assert [one.image_size(0) for one in built] == [(64, 48), (64, 48), (96, 72)]
    assert shapes("test", background={"name": "noise"}, difficulty="crowded", width=120).image_size(0) == (120, 72)


def test_faint_differs_from_standard_in_opacity_alone():
    faint = Faint("test", Noise("test"))
    opacities = []
    for index in range(100):
        drawing, plain = faint.draw(index), PLAIN.draw(index)
        opacities.append(drawing.opacity)
        assert np.array_equal(drawing.mask, plain.mask)
        assert np.array_equal(drawing.image[~plain.mask], plain.image[~plain.mask])
    assert 0.30 <= min(opacities) < 0.32
    assert 0.48 < max(opacities) <= 0.50


def test_a_bar_touches_the_shape_has_its_colour_and_is_not_in_the_mask():
    plain, leaky = (kind("test", Black()) for kind in (Shapes, Leaky))
    sides = []
    for index in range(200):
        drawing, standard = leaky.draw(index), plain.draw(index)
        assert np.array_equal(drawing.mask, standard.mask)
        assert np.array_equal(drawing.image[drawing.mask], standard.image[drawing.mask])
        bar = (drawing.image != standard.image).any(-1)
        assert not (bar & drawing.mask).any()
        assert (bar & binary_dilation(drawing.mask)).any()
        assert (drawing.image[bar] == drawing.image[drawing.mask][0]).all(), "on black both are of one flat colour"
        ys, xs = np.nonzero(bar)
        box = drawing.left, drawing.left + drawing.size - 1, drawing.top, drawing.top + drawing.size - 1
        out = [box[0] - xs.min(), xs.max() - box[1], box[2] - ys.min(), ys.max() - box[3]]
        (side,) = np.flatnonzero(np.array(out) > 0)
        sides.append(side)
        assert drawing.size <= out[side] <= 1.5 * drawing.size
        beyond = {0: xs < box[0], 1: xs > box[1], 2: ys < box[2], 3: ys > box[3]}[int(side)]
        thick = len(np.unique((ys if side < 2 else xs)[beyond]))
        assert drawing.size // 3 <= thick <= drawing.size // 2
    assert np.bincount(sides, minlength=4).min() > 20


def test_crowded_images_have_one_to_three_shapes_of_different_classes_and_all_sizes():
    data = crowded()
    images = [data.draw_all(index) for index in range(300)]
    counts = np.bincount([len(image) for image in images], minlength=4)
    assert counts[0] == 0
    assert counts[1:].min() > 70
    sizes = {drawing.size for image in images for drawing in image}
    assert sizes == set(range(6, 41))
    touching = 0
    for index, image in enumerate(images):
        assert image[0].shape == SHAPES[index % 5]
        assert len({drawing.shape for drawing in image}) == len(image)
        assert np.sum([drawing.mask for drawing in image], axis=0).max() == 1, "a pixel is seen of one shape alone"
        for drawing in image:
            whole = stencil(drawing.shape, drawing.size)
            box = drawing.mask[drawing.top :, drawing.left :][: drawing.size, : drawing.size]
            assert box.sum() == drawing.mask.sum(), "no pixel lies outside of the shape's box"
            assert not (box & ~whole).any()
            assert whole.sum() / 2 <= box.sum() <= whole.sum()
        assert image[-1].mask.sum() == stencil(image[-1].shape, image[-1].size).sum(), (
            "the last one is not covered"
        )
        around = [binary_dilation(drawing.mask) for drawing in image]
        touching += any((around[0] & drawing.mask).any() for drawing in image[1:])
    assert touching > 60


def test_each_crowded_shape_is_an_example_named_by_its_class():
    data = crowded()
    sample = data[next(k for k in range(20) if len(data.draw_all(k)) == 3)]
    assert len(sample.examples) == 3
    for example in sample.examples:
        assert sample.example_id(example) == f"{sample.image_id}:{SHAPES[example.label]}"


def test_paint_blends_by_hand():
    image = np.full((1, 2, 3), 100, dtype=np.uint8)
    paint(image, np.array([[True, False]]), np.array([200, 0, 100]), 64)  # a quarter
    assert image.tolist() == [[[125, 75, 100], [100, 100, 100]]]


def test_more_photographs_are_ten_and_no_part_is_in_two_splits():
    """All of a picture but an odd row or column is in exactly one split."""
    for split, count in (("train", 15), ("val", 10), ("test", 10)):
        background = MixedMore(split)
        assert background.scenes == (*SCENES_OF_SPLIT[split], *GREY)
        assert len(background.photos) == count
    for left, upper, lower in zip(*map(grey_photographs, ("train", "val", "test")), strict=True):
        assert left.shape[0] == upper.shape[0] + lower.shape[0]
        assert left.shape[1] in (upper.shape[1], upper.shape[1] - 1)
        assert min(*upper.shape[:2], *lower.shape[:2]) >= 96, "a crowded image fits at its own scale"


def test_mixed_is_what_it_was_and_more_photographs_are_another_background():
    """The digest was made before there was another."""
    assert Mixed("test").digest == "b97340e47485d25382cc0b91dbefad96"
    assert MixedMore("test").digest != Mixed("test").digest


@pytest.mark.parametrize(
    ("make", "known"),
    [
        (lambda: Mixed("test"), {"", *SCENES_OF_SPLIT["test"]}),
        (lambda: MixedMore("test"), {"", *SCENES_OF_SPLIT["test"], *GREY}),
        (lambda: BACKGROUNDS.build({"name": "blend", "of": [{"name": "noise"}]}, split="test"), {""}),
        (Black, {""}),
    ],
)
def test_images_are_grouped_by_the_photograph_behind_them(
    make: Callable[[], Background], known: set[str], monkeypatch: pytest.MonkeyPatch
):
    leaves = np.zeros((48, 64, 3), dtype=np.uint8)  # drawing them takes long
    monkeypatch.setattr("gradsam_exp.data.backgrounds.dead_leaves", lambda *_, **__: (leaves, None))
    data = Shapes("test", make())
    samples = [data[index] for index in range(150)]
    assert {sample.group for sample in samples} == known
    batch = collate(samples)
    expected = [sample.group or sample.image_id for sample in samples]
    assert batch.group_of == expected
    assert batch.of_images(slice(3, 7)).group_of == expected[3:7]
