"""BSDS500: segments by each person and salient objects, without classes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gradsam_exp.data.base import DATASETS, loader
from gradsam_exp.errors import InputError

SIZES = {"100075": (48, 32), "8049": (32, 48), "12003": (48, 32)}


def segments(size: tuple[int, int], person: int) -> np.ndarray:
    """Segment 1 is all but a strip of 4 px at the left, 2; person 1 cuts out 3, of 3×3 px, too."""
    values = np.ones(size[::-1], dtype=np.uint8)
    values[:, :4] = 2
    if person == 1:
        values[10:13, 10:13] = 3
    return values


@pytest.fixture
def berkeley(tmp_path: Path) -> Path:
    """Three training images by two or three people, with salient objects; of test, one image."""
    root = tmp_path / "bsds"
    rng = np.random.default_rng(0)
    for split, names in (("train", list(SIZES)), ("test", ["100075"])):
        for kind in ("images", "segments"):
            (root / kind / split).mkdir(parents=True)
        for name in names:
            size = SIZES[name]
            pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"images/{split}/{name}.jpg")
            for person in range(3 if name == "8049" else 2):
                Image.fromarray(segments(size, person)).save(root / f"segments/{split}/{name}.{person}.png")
    (root / "salient/train").mkdir(parents=True)
    for name, size in SIZES.items():
        values = np.zeros(size[::-1], dtype=bool)
        values[5:15, 5:15] = True
        Image.fromarray(values).save(root / f"salient/train/{name}.png")  # of one bit, as published
    return root


def read(root: Path, split: str = "train", **parameters):
    return DATASETS.build({"name": "bsds", "root": str(root), **parameters}, split=split)


def test_each_segment_of_a_person_is_an_example_without_class(berkeley: Path):
    data = read(berkeley)
    assert data.class_names == ()
    assert [data[k].image_id for k in range(3)] == ["train/100075", "train/12003", "train/8049"]
    one, two = data[0].examples
    assert (one.label, two.label) == (-1, -1)
    assert (one.mask.sum(), two.mask.sum()) == (44 * 32, 4 * 32)
    assert not (one.mask & two.mask).any()
    assert data[0].example_id(two) == "train/100075:2"
    batches = list(loader(data, 4))
    assert [batch.masks.shape for batch in batches] == [(4, 32, 48), (2, 48, 32)]


def test_segments_that_are_too_small_are_no_examples(berkeley: Path):
    assert len(read(berkeley, person=1)[0].examples) == 2  # 9 of 1536 px are 0.6 %
    assert len(read(berkeley, person=1, min_share=0.005)[0].examples) == 3
    assert len(read(berkeley, person=1, min_share=0.2)[0].examples) == 1
    assert len({read(berkeley, person=1, min_share=share).digest for share in (0.005, 0.01, 0.2)}) == 3


def test_images_that_a_person_has_not_cut_are_left_out_with_a_note(berkeley: Path):
    data = read(berkeley, person=2)
    assert [data[k].image_id for k in range(len(data))] == ["train/8049"]
    assert list(data.notes) == ["images that person 2 has not cut into segments are left out (2: 100075, 12003)"]
    with pytest.raises(InputError, match=r"data\.person=3: .*segments/train has segments by 0 to 2 only"):
        read(berkeley, person=3)


def test_a_salient_object_is_an_images_only_example(berkeley: Path):
    data = read(berkeley, by="salient")
    assert len(data) == 3
    (example,) = data[0].examples
    assert example.mask.sum() == 100
    assert example.mask[5:15, 5:15].all()
    assert data[0].example_id(example) == "train/100075"
    assert data.notes == []


def redraw(name: str, values: np.ndarray):
    return lambda root: Image.fromarray(values.astype(np.uint8)).save(root / name)


FIRST, OBJECT = "segments/train/100075.0.png", "salient/train/100075.png"
SPOILED = {
    "no root": (shutil.rmtree, {}, r"data\.root=.* does not exist; give the folder with images and segments"),
    "no split": (lambda r: None, {"split": "val"}, r"images/val does not exist; there is train and test"),
    "no salient objects": (
        lambda r: None,
        {"split": "test", "by": "salient"},
        r"salient/test does not exist; there is train$",
    ),
    "no segments": (lambda r: shutil.rmtree(r / "segments/train"), {}, r"segments/train does not exist"),
    "no images": (lambda r: [one.unlink() for one in (r / "images/train").iterdir()], {}, r"holds no picture"),
    "an image that nobody has cut": (
        lambda r: [one.unlink() for one in (r / "segments/train").glob("8049.*")],
        {},
        r"segments/train lacks 1 of the names in .*images/train: 8049",
    ),
    "segments without image": (
        lambda r: (r / "images/train/8049.jpg").unlink(),
        {},
        r"images/train lacks 1 of the names in .*segments/train: 8049",
    ),
    "no salient object": (
        lambda r: (r / OBJECT).unlink(),
        {"by": "salient"},
        r"salient/train lacks 1 of the names in .*: 100075",
    ),
    "a name without person": (
        lambda r: shutil.copy(r / FIRST, r / "segments/train/100075.png"),
        {},
        r"100075\.png is not named IMAGE\.PERSON\.png",
    ),
    "a segment 0": (redraw(FIRST, np.eye(32, 48)), {}, r"has the value 0, but segments are numbered from 1"),
    "colours": (
        redraw(FIRST, np.full((32, 48, 3), (9, 8, 7))),
        {},
        r"has the value #090807, but segments are numbered",
    ),
    "another size": (redraw(FIRST, np.ones((48, 32))), {}, r"is 32×48 px but its image is 48×32 px"),
    "a salient object of 1": (
        redraw(OBJECT, np.eye(32, 48)),
        {"by": "salient"},
        r"has the value 1, but the object is 255 and the rest 0",
    ),
    "a person below 0": (lambda r: None, {"person": -1}, r"data\.person=-1"),
    "a share above 1": (lambda r: None, {"min_share": 2}, r"data\.min_share=2"),
    "nothing large enough": (lambda r: None, {"min_share": 1.0}, r"no image .* has an object"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_what_does_not_fit_is_refused(berkeley: Path, what: str):
    spoil, parameters, message = SPOILED[what]
    spoil(berkeley)
    with pytest.raises(InputError, match=message) as caught:
        read(berkeley, **parameters)
    assert "\n" not in str(caught.value)


def test_the_held_out_quarter_and_the_rest_make_up_the_whole(berkeley: Path):
    held_out, rest = (read(berkeley, part=part) for part in ("held_out", "trained_on"))
    assert [held_out[k].image_id for k in range(len(held_out))] == ["train/12003"]
    assert [rest[k].image_id for k in range(len(rest))] == ["train/100075", "train/8049"]
    with pytest.raises(InputError, match=r"data\.part=held_out"):
        read(berkeley, "test", part="held_out")
