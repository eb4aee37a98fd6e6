"""PASCAL VOC in its official layout: what is read, what does not count, and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gradsam_exp.data.base import DATASETS, ExampleDataset, collate
from gradsam_exp.errors import InputError

AEROPLANE, CAT, DOG, PERSON = 1, 8, 12, 15  # mask values, by the devkit
SIZE = (16, 12)


def save_indices(path: Path, values: np.ndarray) -> None:
    """Write an index PNG with VOC's palette, in which each bit of an index is a bit of a colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8), mode="P")
    index = np.arange(256)
    bits = [sum(((index >> (3 * k + c)) & 1) << (7 - k) for k in range(3)) for c in range(3)]
    image.putpalette(np.stack(bits, 1).astype(np.uint8).tobytes())
    image.save(path)


def save_annotation(path: Path, objects: list[tuple[str, int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(
        f"<object><name>{name}</name><pose>Left</pose><difficult>{hard}</difficult>"
        "<part><name>head</name></part></object>"
        for name, hard in objects
    )
    path.write_text(f"<annotation><folder>VOC2012</folder><segmented>1</segmented>{rows}</annotation>")


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Two dogs, the second marked as difficult, and a person, with void borders; class mask and object mask."""
    classes, objects = np.zeros((12, 16)), np.zeros((12, 16))
    classes[0:5, 0:5], objects[0:5, 0:5] = 255, 255
    for number, (value, top, left) in enumerate([(DOG, 0, 0), (DOG, 6, 6), (PERSON, 0, 10)], 1):
        classes[top : top + 4, left : left + 4] = value
        objects[top : top + 4, left : left + 4] = number
    classes[9, 9] = PERSON  # the two masks differ in one pixel of the second dog
    return classes, objects


def save_image(base: Path, stem: str, classes: np.ndarray, objects: np.ndarray | None) -> None:
    (base / "JPEGImages").mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*classes.shape, 3), 90, np.uint8)).save(base / f"JPEGImages/{stem}.jpg")
    save_indices(base / f"SegmentationClass/{stem}.png", classes)
    if objects is not None:
        save_indices(base / f"SegmentationObject/{stem}.png", objects)


def save_list(base: Path, name: str, *stems: str) -> None:
    (base / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
    (base / f"ImageSets/Segmentation/{name}.txt").write_text("".join(f"{stem}\n" for stem in stems))


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    base = tmp_path / "VOCdevkit/VOC2012"
    classes, objects = scene()
    save_image(base, "2007_000032", classes, objects)
    save_annotation(base / "Annotations/2007_000032.xml", [("dog", 0), ("dog", 1), ("person", 0)])
    plane = np.zeros((12, 16))
    plane[2:4, 2:9] = AEROPLANE
    save_image(base, "2007_000033", plane, (plane > 0) * 1)
    save_annotation(base / "Annotations/2007_000033.xml", [("aeroplane", 0)])
    save_list(base, "train", "2007_000033")
    save_list(base, "val", "2007_000032")
    save_list(base, "trainval", "2007_000033", "2007_000032")
    return tmp_path / "VOCdevkit"


def voc(root: Path, split: str = "val", **knobs: Any) -> ExampleDataset:
    return DATASETS.build({"name": "voc", "root": str(root), **knobs}, split=split)


def found(data: ExampleDataset, index: int = 0) -> dict[str, tuple[str, int, int]]:
    """Class, object pixels and counted pixels of each example."""
    return {
        one.name: (
            data.class_names[one.label],
            int(one.mask.sum()),
            SIZE[0] * SIZE[1] if one.counted is None else int(one.counted.sum()),
        )
        for one in data[index].examples
        if one.mask is not None
    }


def test_classes_of_an_image_are_examples_and_void_does_not_count(devkit: Path):
    data = voc(devkit)
    assert len(data.class_names) == 20
    assert (data.class_names[0], data.class_names[19]) == ("aeroplane", "tvmonitor")
    assert found(data) == {"dog": ("dog", 31, 183), "person": ("person", 17, 183)}
    assert data.image_labels(0) == (11, 14)
    assert collate([data[0]]).example_ids == ("2007_000032:dog", "2007_000032:person")


def test_objects_have_the_class_of_most_of_their_pixels(devkit: Path):
    data = voc(devkit, by="instance")
    assert found(data) == {"1": ("dog", 16, 183), "2": ("dog", 16, 183), "3": ("person", 16, 183)}


def test_difficult_objects_are_no_examples_and_do_not_count(devkit: Path):
    data = voc(devkit, by="instance", difficult=False)
    assert found(data) == {"1": ("dog", 16, 167), "3": ("person", 16, 167)}
    assert found(voc(devkit, difficult=False)) == {"dog": ("dog", 16, 167), "person": ("person", 16, 167)}
    assert data.digest != voc(devkit, by="instance").digest


@pytest.mark.parametrize("place", [".", "..", "VOC2012"])
def test_the_root_may_be_the_devkit_or_the_folders_around_and_in_it(devkit: Path, place: str):
    assert len(voc(devkit / place)) == 1


def test_val_and_test_are_both_vocs_val_unless_a_list_says_otherwise(devkit: Path):
    assert voc(devkit, "train")[0].image_id == "2007_000033"
    assert voc(devkit, "val")[0].image_id == voc(devkit, "test")[0].image_id == "2007_000032"
    assert len(voc(devkit, "test", list={"test": "trainval"})) == 2
    assert len(voc(devkit, "val", list={"test": "trainval"})) == 1


def test_trainaug_reads_the_masks_of_sbd_for_training_only(devkit: Path):
    base = devkit / "VOC2012"
    save_list(base, "trainaug", "2007_000032", "2007_000033")
    cat = np.zeros((12, 16))
    cat[0, 0:5] = CAT
    for stem in ("2007_000032", "2007_000033"):
        path = base / f"SegmentationClassAug/{stem}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(cat.astype(np.uint8)).save(path)  # grey values, as they are published
    knobs = {"list": {"train": "trainaug"}}
    assert found(voc(devkit, "train", **knobs)) == {"cat": ("cat", 5, 192)}
    assert set(found(voc(devkit, "val", **knobs))) == {"dog", "person"}
    with pytest.raises(
        InputError, match=r"data\.by=instance needs SegmentationObject.*data\.list\.train=trainaug"
    ):
        voc(devkit, "train", by="instance", **knobs)


def test_an_image_that_is_all_void_is_left_out_with_a_note(devkit: Path):
    save_image(devkit / "VOC2012", "void", np.full((12, 16), 255), np.full((12, 16), 255))
    save_list(devkit / "VOC2012", "val", "void", "2007_000032")
    for by in ("class", "instance"):
        data = voc(devkit, by=by)
        assert [data[k].image_id for k in range(len(data))] == ["2007_000032"]
        assert any("left out (1: void.jpg)" in note for note in data.notes)


def spoil_value(base: Path) -> None:
    values = scene()[0]
    values[11, 15] = 21
    save_indices(base / "SegmentationClass/2007_000032.png", values)


def spoil_colours(base: Path) -> None:
    path = base / "SegmentationClass/2007_000032.png"
    Image.open(path).convert("RGB").save(path)


def spoil_object(base: Path) -> None:
    classes, objects = scene()
    objects[11, 0:2] = 9
    save_indices(base / "SegmentationObject/2007_000032.png", objects)
    save_indices(base / "SegmentationClass/2007_000032.png", classes)


def spoil_tie(base: Path) -> None:
    classes, objects = scene()
    objects[11, 0:2] = 9
    classes[11, 0:2] = CAT, DOG
    save_indices(base / "SegmentationObject/2007_000032.png", objects)
    save_indices(base / "SegmentationClass/2007_000032.png", classes)


SPOILED = {
    "no root": (lambda b: shutil.rmtree(b.parent), r"data\.root=.*VOCdevkit does not exist"),
    "other year": (lambda b: b.rename(b.parent / "VOC2011"), r"holds neither VOC2012 nor JPEGImages"),
    "no masks": (lambda b: shutil.rmtree(b / "SegmentationClass"), r"SegmentationClass does not exist"),
    "no list": (
        lambda b: (b / "ImageSets/Segmentation/val.txt").unlink(),
        r"data\.list\.val=val: .*val\.txt does not exist.*Known: train, trainval",
    ),
    "empty list": (lambda b: save_list(b, "val"), r"val\.txt lists no image"),
    "listed twice": (lambda b: save_list(b, "val", "a", "b", "a"), r"val\.txt lists a twice"),
    "no image": (lambda b: (b / "JPEGImages/2007_000032.jpg").unlink(), r"2007_000032\.jpg does not exist"),
    "no mask": (lambda b: (b / "SegmentationClass/2007_000032.png").unlink(), r"Class/2007_000032\.png does not"),
    "no objects": (lambda b: (b / "SegmentationObject/2007_000032.png").unlink(), r"Object/2007_000032\.png does"),
    "no annotation": (lambda b: (b / "Annotations/2007_000032.xml").unlink(), r"2007_000032\.xml does not exist"),
    "value of no class": (spoil_value, r"Class/2007_000032\.png has the value 21, which is no class of VOC"),
    "colours": (spoil_colours, r"Class/2007_000032\.png is a mask in PNG RGB, and not a PNG with an index"),
    "size": (
        lambda b: save_indices(b / "SegmentationClass/2007_000032.png", np.zeros((16, 12))),
        r"is 12×16 px but its image is 16×12 px",
    ),
    "object without class": (spoil_object, r"has an object 9 that is no class in .*Class/2007_000032\.png"),
    "object of two classes": (spoil_tie, r"has an object 9 that is cat and dog in equal parts"),
    "broken XML": (
        lambda b: (b / "Annotations/2007_000032.xml").write_text("<annotation><object>"),
        r"2007_000032\.xml cannot be read as XML",
    ),
    "objects in another order": (
        lambda b: save_annotation(b / "Annotations/2007_000032.xml", [("dog", 0), ("person", 1), ("dog", 0)]),
        r"2007_000032\.xml does not say that object 2 is a dog",
    ),
    "no such mark": (
        lambda b: save_annotation(b / "Annotations/2007_000032.xml", [("dog", 2), ("dog", 1), ("person", 0)]),
        r"2007_000032\.xml says difficult='2'",
    ),
}


@pytest.mark.parametrize("what", SPOILED)
def test_what_is_wrong_is_named_in_one_line(devkit: Path, what: str):
    spoil, message = SPOILED[what]
    spoil(devkit / "VOC2012")
    with pytest.raises(InputError, match=message) as caught:
        voc(devkit, by="instance", difficult=False)
    assert "\n" not in str(caught.value)


def test_a_year_that_is_not_the_folders_is_refused(devkit: Path):
    with pytest.raises(InputError, match=r"is VOC2012; say data\.year=2012, or give VOC2007"):
        voc(devkit / "VOC2012", year=2007)


def test_one_image_that_cannot_be_used_is_skipped_if_that_is_asked_for(devkit: Path):
    spoil_colours(devkit / "VOC2012")
    data = voc(devkit, list={"val": "trainval"}, on_error="skip")
    assert [data[k].image_id for k in range(len(data))] == ["2007_000033"]
