"""Instances in COCO's format: outlines of every kind, crowds, and what is refused."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from gradsam_exp.data import coco_annotations as module
from gradsam_exp.data.base import DATASETS, ExampleDataset
from gradsam_exp.errors import InputError

WIDTH, HEIGHT = 16, 12


def box(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    """One polygon around whole pixels; right and bottom are the first ones outside."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def pixels(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    """Lengths of the runs, column by column, the first of zeros."""
    flat = mask.T.reshape(-1).astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], edges])).tolist()}


def compressed(mask: np.ndarray) -> dict[str, Any]:
    runs = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": runs["counts"].decode()}


def annotation(key: int, image: int, category: int, outline: Any, crowd: int = 0) -> dict[str, Any]:
    return {
        "id": key,
        "image_id": image,
        "category_id": category,
        "segmentation": outline,
        "iscrowd": crowd,
        "area": 1.0,
        "bbox": [0, 0, 1, 1],
    }


CONTENT: dict[str, Any] = {
    "info": {"year": 2017},
    "licenses": [],
    "images": [
        {"id": 9, "file_name": "000000000009.jpg", "width": WIDTH, "height": HEIGHT},
        {"id": 25, "file_name": "000000000025.jpg", "width": WIDTH, "height": HEIGHT},
        {"id": 30, "file_name": "000000000030.jpg", "width": WIDTH, "height": HEIGHT},
    ],
    "annotations": [
        annotation(1, 9, 90, box(1, 2, 5, 6)),
        annotation(2, 9, 90, [*box(8, 0, 10, 2), *box(12, 0, 14, 2)]),
        annotation(3, 9, 1, uncompressed(pixels(4, 4, 8, 8))),
        annotation(4, 25, 1, compressed(pixels(0, 0, 16, 3))),
        annotation(5, 25, 1, uncompressed(pixels(8, 2, 16, 12)), crowd=1),
        annotation(6, 25, 18, box(8, 8, 12, 12)),
    ],
    "categories": [
        {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
        {"id": 1, "name": "person", "supercategory": "person"},
        {"id": 18, "name": "dog", "supercategory": "animal"},
    ],
}


def save(root: Path, content: Any, name: str = "val2017") -> Path:
    """Write an annotation file and a picture for each of its images."""
    path = root / f"annotations/instances_{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    (root / name).mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    for one in CONTENT["images"]:
        Image.new("RGB", (WIDTH, HEIGHT), "gray").save(root / name / one["file_name"])
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save(tmp_path, CONTENT)
    return tmp_path


def coco(root: Path, split: str = "val", **knobs: Any) -> ExampleDataset:
    return DATASETS.build({"name": "coco", "root": str(root), **knobs}, split=split)


def found(data: ExampleDataset, index: int) -> dict[str, tuple[str, int, int]]:
    """Class, object pixels and counted pixels of each example."""
    return {
        one.name: (
            data.class_names[one.label],
            int(one.mask.sum()),
            WIDTH * HEIGHT if one.counted is None else int(one.counted.sum()),
        )
        for one in data[index].examples
        if one.mask is not None
    }


def test_objects_are_examples_and_a_crowd_does_not_count_for_its_category(root: Path):
    data = coco(root, by="instance")
    assert data.class_names == ("person", "dog", "toothbrush")
    assert found(data, 0) == {"3": ("person", 16, 192), "1": ("toothbrush", 16, 192), "2": ("toothbrush", 8, 192)}
    # the crowd's 80 px hide the right half of the last of the person's three rows
    assert found(data, 1) == {"4": ("person", 48 - 8, 192 - 80), "6": ("dog", 16, 192)}


def test_categories_of_an_image_are_examples(root: Path):
    data = coco(root)
    assert found(data, 0) == {"person": ("person", 16, 192), "toothbrush": ("toothbrush", 24, 192)}
    assert found(data, 1) == {"person": ("person", 40, 112), "dog": ("dog", 16, 192)}
    assert data.image_labels(1) == (0, 1)


def test_masks_are_those_of_pycocotools(root: Path):
    rng = np.random.default_rng(0)
    content = copy.deepcopy(CONTENT)
    for key in range(100, 140):
        shape = rng.uniform(-1, 17, (2, rng.integers(6, 20))).round(2)
        parts = [np.stack([one, one[::-1] * 0.7], 1).reshape(-1).tolist() for one in shape]
        outline = (parts, compressed(rng.random((12, 16)) > 0.5), uncompressed(rng.random((12, 16)) > 0.5))
        content["annotations"].append(annotation(key, 9, 90, outline[key % 3]))
    reference = COCO(str(save(root, content)))
    sample = coco(root, by="instance")[0]
    assert len(sample.examples) == 43
    for one in sample.examples:
        assert one.mask is not None
        np.testing.assert_array_equal(one.mask, reference.annToMask(reference.anns[int(one.name)]).astype(bool))


def test_some_categories_only_and_images_without_them_are_left_out(root: Path):
    data = coco(root, categories=["toothbrush", "dog"])
    assert data.class_names == ("dog", "toothbrush")
    assert set(found(data, 0)) == {"toothbrush"}
    assert found(data, 1) == {"dog": ("dog", 16, 192)}
    assert len(coco(root, categories=["dog"])) == 1
    assert "images without an annotation that is asked for are left out (1)" in coco(root).notes
    with pytest.raises(InputError, match=r"data\.categories: .*has no 'dgo'; did you mean 'dog'"):
        coco(root, categories=["dgo"])


def test_small_examples_are_left_out_as_their_counted_pixels_are(root: Path):
    assert set(found(coco(root, by="instance", min_area=16), 0)) == {"1", "3"}
    assert set(found(coco(root, min_area=17), 0)) == {"toothbrush"}
    assert set(found(coco(root, min_area=40), 0)) == {"person"}
    with pytest.raises(InputError, match=r"no image .* has an object that is asked for"):
        coco(root, min_area=41)


def test_val_and_test_are_both_cocos_val_unless_the_list_says_otherwise(root: Path):
    save(root, {**CONTENT, "annotations": CONTENT["annotations"][:1]}, "train2017")
    assert len(coco(root, "train")) == 1
    assert len(coco(root, "val")) == len(coco(root, "test")) == 2
    assert len(coco(root, "test", list={"test": "train"})) == 1


def test_files_may_have_other_places(root: Path):
    (root / "valid").mkdir()
    shutil.move(root / "annotations/instances_val2017.json", root / "valid/_annotations.coco.json")
    for path in (root / "val2017").iterdir():
        shutil.move(path, root / "valid" / path.name)
    knobs = {"annotations": "{split}/_annotations.coco.json", "images": "{split}", "list": {"val": "valid"}}
    assert len(coco(root, **knobs)) == 2


def test_pictures_are_turned_before_their_size_is_compared(root: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    path = root / "val2017/000000000009.jpg"
    Image.new("RGB", (HEIGHT, WIDTH), "gray").save(path, exif=exif)
    assert coco(root)[0].image.shape == (3, HEIGHT, WIDTH)
    Image.new("RGB", (WIDTH, HEIGHT), "gray").save(path, exif=exif)
    with pytest.raises(InputError, match=r"000000000009\.jpg is 12×16 px, turned as .* says 16×12 px"):
        coco(root)


def test_the_annotation_file_is_read_once_while_it_is_unchanged(root: Path, monkeypatch: pytest.MonkeyPatch):
    reads = []
    load = module.json.load
    monkeypatch.setattr(module.json, "load", lambda *given, **more: reads.append(1) or load(*given, **more))
    one, other = coco(root), coco(root, "test", by="instance")
    assert len(reads) == 1
    assert one.digest != other.digest
    save(root, {**CONTENT, "annotations": CONTENT["annotations"][:3]})
    assert len(coco(root)) == 1
    assert len(reads) == 2


def test_the_digest_is_the_content_and_not_the_place(root: Path, tmp_path: Path):
    before = coco(root).digest
    shutil.copytree(root / "annotations", tmp_path / "moved/annotations")
    shutil.copytree(root / "val2017", tmp_path / "moved/val2017")
    assert coco(tmp_path / "moved").digest == before
    changed = copy.deepcopy(CONTENT)
    changed["annotations"][0]["segmentation"] = box(1, 2, 5, 7)
    save(root, changed)
    assert coco(root).digest != before


def changed(place: str, key: str, value: Any, index: int = 0) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content[place][index][key] = value

    return change


def without(place: str, key: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[place][0].pop(key)


def outline(value: Any) -> Callable[[dict[str, Any]], None]:
    return changed("annotations", "segmentation", value)


def run(counts: Any, size: Any = (HEIGHT, WIDTH)) -> Callable[[dict[str, Any]], None]:
    return outline({"size": list(size), "counts": counts})


SPOILED = {
    "no categories": (lambda c: c.pop("categories"), r"has no list 'categories': it is no file of COCO instances"),
    "image without size": (without("images", "width"), r"images\[0\] lacks the key 'width'"),
    "annotation without crowd": (without("annotations", "iscrowd"), r"annotations\[0\] lacks the key 'iscrowd'"),
    "annotation without image": (without("annotations", "image_id"), r"annotations\[0\] lacks the key 'image_id'"),
    "id that is text": (changed("images", "id", "9"), r"images\[0\] has id='9', which is no whole number"),
    "crowd 2": (changed("annotations", "iscrowd", 2), r"annotation 1 has iscrowd=2"),
    "unknown image": (changed("annotations", "image_id", 8), r"annotation 1 has the image_id 8, which the file"),
    "unknown category": (changed("annotations", "category_id", 2), r"annotation 1 has the category_id 2"),
    "two images": (changed("images", "id", 25), r"two images have the id 25"),
    "two annotations": (changed("annotations", "id", 2), r"two annotations have the id 2"),
    "two names": (changed("categories", "name", "dog"), r"categories has 'dog' or its id 18 twice"),
    "one file twice": (changed("images", "file_name", "000000000025.png"), r"have the same name"),
    "file elsewhere": (changed("images", "file_name", "../a.jpg"), r"image 9 has the file_name '\.\./a\.jpg'"),
    "picture missing": (changed("images", "file_name", "a.jpg"), r"val2017/a\.jpg does not exist"),
    "other size": (changed("images", "width", 17, 1), r"025\.jpg is 16×12 px.*says 17×12 px"),
    "no outline": (outline([]), r"009\.jpg has annotation 1 in .*json, which has no segmentation"),
    "outline left out": (without("annotations", "segmentation"), r"annotation 1 in .*which has no segmentation"),
    "box for a polygon": (outline([[1, 1, 4, 4]]), r"which has a polygon of 4 numbers"),
    "odd polygon": (outline([[1, 1, 4, 4, 5, 5, 6]]), r"which has a polygon of 7 numbers"),
    "text for a polygon": (outline([["1", "1", "4", "4", "1", "4"]]), r"has a polygon that is no list of numbers"),
    "nested polygon": (outline([[[1, 1], [4, 4], [1, 4]]]), r"has a polygon that is no list of numbers"),
    "no number": (outline([[1, 1, 4, float("nan"), 1, 4]]), r"has a polygon that lies far outside"),
    "far polygon": (outline([[1, 1, 1e9, 4, 1, 4]]), r"has a polygon that lies far outside"),
    "short runs": (run([10, 5]), r"has run lengths of 15 pixels in all, but the image has 192"),
    "negative runs": (run([-10, 202]), r"has run lengths that are no whole numbers"),
    "runs of another size": (run([192], (16, 12)), r"of the size \[16, 12\], but \[height, width\] is \[12, 16\]"),
    "text cut off": (
        run(compressed(pixels(4, 4, 8, 8))["counts"][:-1]),
        r"has compressed run lengths that|pixels in",
    ),
    "text cut in a number": (run("0h"), r"has compressed run lengths that are cut off"),
    "other text": (run("\u00e4"), r"has compressed run lengths with characters"),
    "no text": (run(""), r"has compressed run lengths that are cut off"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_what_is_wrong_is_named_in_one_line(root: Path, what: str):
    spoil, message = SPOILED[what]
    content = copy.deepcopy(CONTENT)
    spoil(content)
    save(root, content)
    with pytest.raises(InputError, match=message) as caught:
        coco(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, r"data\.root=.* does not exist"),
        (lambda r: shutil.rmtree(r / "annotations"), r"instances_val2017\.json does not exist"),
        (lambda r: shutil.rmtree(r / "val2017"), r"the folder .*val2017 does not exist; see data\.images"),
        (lambda r: (r / "annotations/instances_val2017.json").write_text("{"), r"cannot be read as JSON"),
        (lambda r: (r / "annotations/instances_val2017.json").write_text("[]"), r"has no list 'categories'"),
        (lambda r: (r / "annotations/instances_val2017.json").write_bytes(b"\xff"), r"cannot be read as JSON"),
    ],
)
def test_missing_and_broken_files_are_named(root: Path, spoil: Any, message: str):
    spoil(root)
    with pytest.raises(InputError, match=message):
        coco(root)


def test_an_image_with_a_bad_outline_is_skipped_if_that_is_asked_for(root: Path):
    content = copy.deepcopy(CONTENT)
    outline([[1, 1, 4, 4]])(content)
    save(root, content)
    data = coco(root, on_error="skip")
    assert [data[k].image_id for k in range(len(data))] == ["000000000025"]
    assert len(coco(root, categories=["person"])) == 2  # the bad one is a toothbrush
