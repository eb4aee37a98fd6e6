"""CUB-200-2011: the lists, names without numbers, masks that are the mean of five people's."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gradsam_exp.data.base import DATASETS
from gradsam_exp.errors import InputError

CLASSES = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "200.Common_Yellowthroat")


def write_mask(path: Path, size: tuple[int, int] = (32, 24)) -> None:
    """Of columns 0 to 5, column n is marked by n of five people, in rows 4 to 19."""
    values = np.zeros(size[::-1], dtype=np.uint8)
    values[4:20, :6] = np.arange(6, dtype=np.uint8) * 51
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """12 images of each of three classes in the official layout; two of three are for training."""
    root = tmp_path / "CUB_200_2011"
    rng = np.random.default_rng(0)
    lists: dict[str, list[str]] = {
        "images": [],
        "image_class_labels": [],
        "train_test_split": [],
        "classes": [f"{k} {name}" for k, name in enumerate(CLASSES, 1)],
    }
    number = 0
    for class_id, folder in enumerate(CLASSES, 1):
        (root / "images" / folder).mkdir(parents=True)
        for k in range(12):
            number += 1
            name = f"{folder}/{folder[4:]}_{k:04d}_{18 + k}"
            pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / f"{name}.jpg")
            write_mask(root / "segmentations" / f"{name}.png")
            lists["images"].append(f"{number} {name}.jpg")
            lists["image_class_labels"].append(f"{number} {class_id}")
            lists["train_test_split"].append(f"{number} {int(k % 3 != 0)}")
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root


FIRST = "001.Black_footed_Albatross/Black_footed_Albatross_0000_18"


def read(root: Path, split: str = "test", **parameters):
    return DATASETS.build({"name": "cub", "root": str(root), **parameters}, split=split)


def test_a_bird_is_what_three_of_five_people_have_marked(birds: Path):
    data = read(birds)
    (example,) = data[0].examples
    expected = np.zeros((24, 32), dtype=bool)
    expected[4:20, 3:6] = True
    assert (example.mask.numpy() == expected).all()
    assert example.counted is None
    assert data[0].example_id(example) == FIRST
    everybody = read(birds, threshold=255)
    assert everybody[0].examples[0].mask.sum() == 16
    assert everybody.digest != data.digest


def test_classes_are_named_without_their_numbers(birds: Path):
    data = read(birds)
    assert data.class_names == ("Black footed Albatross", "Laysan Albatross", "Common Yellowthroat")
    assert [data.image_labels(k) for k in range(12)] == [(0,)] * 4 + [(1,)] * 4 + [(2,)] * 4


def test_the_official_training_part_is_train_and_val(birds: Path):
    parts = {split: read(birds, split) for split in ("train", "val", "test")}
    ids = {split: {data[k].image_id for k in range(len(data))} for split, data in parts.items()}
    assert len(ids["test"]) == 12
    assert len(ids["train"] | ids["val"]) == 24
    assert not ids["train"] & ids["val"]
    assert 0 < len(ids["val"]) < len(ids["train"])
    assert any("no official val" in note for note in parts["val"].notes)


def test_segmentations_may_lie_elsewhere(birds: Path):
    before = read(birds).digest
    shutil.move(birds / "segmentations", birds.parent / "segmentations")
    with pytest.raises(InputError, match=r"did you mean data\.segmentations=.*/segmentations\?"):
        read(birds)
    assert read(birds, segmentations="../segmentations").digest == before
    assert read(birds, segmentations=str(birds.parent / "segmentations")).digest == before


@pytest.mark.parametrize("mode", ["RGB", "LA", "RGBA"])
def test_a_grey_picture_may_be_stored_with_channels(birds: Path, mode: str):
    before = read(birds)[0].examples[0].mask
    path = birds / "segmentations" / f"{FIRST}.png"
    Image.open(path).convert(mode).save(path)
    assert (read(birds)[0].examples[0].mask == before).all()


def test_an_image_without_a_bird_is_left_out_with_a_note(birds: Path):
    Image.new("L", (32, 24)).save(birds / "segmentations" / f"{FIRST}.png")
    data = read(birds)
    assert len(data) == 11
    assert any("left out" in note for note in data.notes)


def redraw(value: object, mode: str, size: tuple[int, int] = (32, 24)):
    def spoil(root: Path) -> None:
        Image.new(mode, size, value).save(root / "segmentations" / f"{FIRST}.png")

    return spoil


def edit(name: str, old: str, new: str):
    def spoil(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, 1))

    return spoil


def put_below(root: Path) -> None:
    shutil.copytree(root, root.parent / "inner")
    shutil.rmtree(root)
    shutil.move(root.parent / "inner", root / "CUB_200_2011")


SPOILED = {
    "no root": (shutil.rmtree, r"data\.root=.* does not exist; give the folder CUB_200_2011"),
    "the folder above": (put_below, r"lacks images\.txt; did you mean data\.root=.*CUB_200_2011/CUB_200_2011\?"),
    "no images": (lambda r: shutil.rmtree(r / "images"), r"lacks the folder 'images'"),
    "no segmentations": (
        lambda r: shutil.rmtree(r / "segmentations"),
        r"data\.segmentations: .* does not exist; it is an archive of its own",
    ),
    "no classes": (lambda r: (r / "classes.txt").unlink(), r"classes\.txt does not exist"),
    "no split": (lambda r: (r / "train_test_split.txt").unlink(), r"train_test_split\.txt does not exist"),
    "a short line": (edit("images.txt", "1 001.", "001."), r"images\.txt, line 1: .* is not id path"),
    "twice": (edit("images.txt", "\n2 ", "\n1 "), r"images\.txt, line 2: 1 is listed twice"),
    "a path twice": (edit("images.txt", "Albatross_0001_19", "Albatross_0000_18"), r"is listed twice"),
    "a path outside": (edit("images.txt", "1 001.", "1 ../001."), r"lies outside the folder images"),
    "a class lacks": (edit("image_class_labels.txt", "1 1\n", ""), r"image_class_labels\.txt lacks the image 1"),
    "a class too much": (edit("image_class_labels.txt", "1 1\n", "1 1\n99 1\n"), r"has the image 99, not in"),
    "an unknown class": (edit("image_class_labels.txt", "1 1\n", "1 7\n"), r"image 1 has the class '7'"),
    "a strange split": (edit("train_test_split.txt", "1 0\n", "1 2\n"), r"'2' is no split; 1 is training"),
    "two equal names": (edit("classes.txt", "002.Laysan", "002.Black_footed"), r"two classes have the same name"),
    "no mask": (
        lambda r: (r / "segmentations" / f"{FIRST}.png").unlink(),
        r"Albatross_0000_18\.png does not exist",
    ),
    "a mask of another size": (redraw(255, "L", (33, 24)), r"is 33×24 px but its image is 32×24 px"),
    "a mask of 0 and 1": (redraw(1, "L"), r"has no value above 1, but segmentations go to 255"),
    "a mask with colours": (redraw((255, 0, 0), "RGB"), r"has colours"),
    "a mask with transparent parts": (redraw((255, 255, 255, 9), "RGBA"), r"has transparent parts"),
    "a mask of 16 bits": (redraw(300, "I;16"), r"has pixels of the kind I;16"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_what_does_not_fit_is_refused(birds: Path, what: str):
    spoil, message = SPOILED[what]
    spoil(birds)
    with pytest.raises(InputError, match=message) as caught:
        read(birds)
    assert "\n" not in str(caught.value)
