"""The same four images as a folder, as VOC and as COCO are the same examples."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from gradsam_exp.data.base import DATASETS, ExampleDataset

NAMES = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
BIRD, CAT, DOG, PERSON, VOID = 3, 8, 12, 15, 255
IDS = {BIRD: 16, CAT: 17, DOG: 18, PERSON: 1}  # COCO's, which are in another order


def drawn(size: tuple[int, int], *boxes: tuple[int, int, int, int, int]) -> np.ndarray:
    """Values in boxes (value, left, top, right, bottom), later ones over earlier ones."""
    values = np.zeros(size[::-1], dtype=np.uint8)
    for value, left, top, right, bottom in boxes:
        values[top:bottom, left:right] = value
    return values


# Class mask and object mask of each image.
SCENES = {
    "one": (drawn((20, 14), (DOG, 2, 3, 9, 10)), drawn((20, 14), (1, 2, 3, 9, 10))),
    "void": (
        drawn((20, 14), (VOID, 1, 1, 9, 9), (CAT, 2, 2, 8, 8), (PERSON, 12, 0, 20, 14)),
        drawn((20, 14), (VOID, 1, 1, 9, 9), (1, 2, 2, 8, 8), (2, 12, 0, 20, 14)),
    ),
    "two dogs": (
        drawn((14, 20), (DOG, 0, 0, 5, 5), (DOG, 6, 8, 14, 20), (BIRD, 8, 10, 10, 12)),
        drawn((14, 20), (1, 0, 0, 5, 5), (2, 6, 8, 14, 20), (3, 8, 10, 10, 12)),
    ),
    "full": (drawn((9, 9), (PERSON, 0, 0, 9, 9)), drawn((9, 9), (1, 0, 0, 9, 9))),
}


def save_pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, (classes, _) in SCENES.items():
        Image.fromarray(np.full((*classes.shape, 3), 128, np.uint8)).save(folder / f"{name}.jpg")


def save_masks(folder: Path, which: int) -> None:
    folder.mkdir(parents=True)
    for name, masks in SCENES.items():
        image = Image.fromarray(masks[which], mode="P")
        image.putpalette([k * 37 % 256 for k in range(768)])
        image.save(folder / f"{name}.png")


def as_folder(root: Path) -> None:
    save_pictures(root / "images/test")
    save_masks(root / "masks/test", 0)
    (root / "classes.txt").write_text("\n".join(NAMES))


def as_voc(root: Path) -> None:
    base = root / "VOC2012"
    save_pictures(base / "JPEGImages")
    save_masks(base / "SegmentationClass", 0)
    save_masks(base / "SegmentationObject", 1)
    (base / "ImageSets/Segmentation").mkdir(parents=True)
    (base / "ImageSets/Segmentation/val.txt").write_text("\n".join(SCENES))


def as_coco(root: Path) -> None:
    """One outline of each kind in turn; void is a crowd of every category of the image."""
    save_pictures(root / "val2017")
    images, annotations = [], []
    for number, (name, (classes, objects)) in enumerate(SCENES.items()):
        height, width = classes.shape
        images.append({"id": number, "file_name": f"{name}.jpg", "width": width, "height": height})
        values = [int(value) for value in np.unique(classes) if value not in (0, VOID)]
        outlines = [
            (int(classes[objects == k][0]), objects == k, 0) for k in np.unique(objects) if k not in (0, VOID)
        ]
        if VOID in classes:
            outlines += [(value, classes == VOID, 1) for value in values]
        for value, mask, crowd in outlines:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": IDS[value],
                    "iscrowd": crowd,
                    "segmentation": written(mask, "polygon" if name == "one" else len(annotations) % 2),
                }
            )
    categories = [{"id": key, "name": NAMES[value - 1]} for value, key in IDS.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations").mkdir()
    (root / "annotations/instances_val2017.json").write_text(json.dumps(content))


def written(mask: np.ndarray, kind: object) -> object:
    if kind == "polygon":
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
        return [[float(k) for k in (left, top, right, top, right, bottom, left, bottom)]]
    if kind:
        runs = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": list(mask.shape), "counts": runs["counts"].decode()}
    flat = [False, *mask.T.reshape(-1), None]
    edges = [k for k in range(len(flat) - 1) if k == 0 or flat[k] != flat[k + 1]]
    lengths = [later - earlier for earlier, later in itertools.pairwise(edges)]
    return {"size": list(mask.shape), "counts": lengths if not flat[1] else [0, *lengths]}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("formats")
    as_folder(root / "folder")
    as_voc(root / "voc")
    as_coco(root / "coco")
    return root


def examples(data: ExampleDataset, by: str) -> dict[tuple[str, str, int], tuple[np.ndarray, np.ndarray]]:
    """Mask and counted pixels of each image, class and, if there are several of one, their order."""
    found: dict[tuple[str, str, int], tuple[np.ndarray, np.ndarray]] = {}
    for index in range(len(data)):
        sample = data[index]
        for one in sample.examples:
            assert one.mask is not None
            name = data.class_names[one.label]
            assert by == "instance" or one.name == name
            number = sum(key[:2] == (sample.image_id, name) for key in found)
            counted = np.ones(one.mask.shape, bool) if one.counted is None else one.counted.numpy()
            found[sample.image_id, name, number] = one.mask.numpy(), counted
    return found


def read(roots: Path, name: str, by: str) -> dict[tuple[str, str, int], tuple[np.ndarray, np.ndarray]]:
    knobs: dict[str, object] = {"by": by}
    if name == "folder":
        knobs = {"class_list": "classes.txt", "mask": {"object": "classes", "ignore": 255}}
    return examples(DATASETS.build({"name": name, "root": str(roots / name), **knobs}, split="test"), by)


@pytest.mark.parametrize(("name", "by"), [("folder", "class"), ("coco", "class"), ("coco", "instance")])
def test_masks_classes_and_counted_pixels_are_the_same(roots: Path, name: str, by: str):
    expected, given = read(roots, "voc", by), read(roots, name, by)
    assert set(given) == set(expected)
    assert len(given) == (6 if by == "class" else 7)
    for key, (mask, counted) in expected.items():
        np.testing.assert_array_equal(given[key][0], mask)
        np.testing.assert_array_equal(given[key][1], counted)


def test_they_are_what_was_drawn(roots: Path):
    given = read(roots, "voc", "class")
    for stem, name, pixels in [
        ("one", "dog", 7 * 7),
        ("void", "cat", 6 * 6),
        ("void", "person", 8 * 14),
        ("two dogs", "dog", 5 * 5 + 8 * 12 - 2 * 2),
        ("two dogs", "bird", 2 * 2),
        ("full", "person", 81),
    ]:
        mask, counted = given[stem, name, 0]
        assert mask.sum() == pixels
        assert (~counted).sum() == (8 * 8 - 6 * 6 if stem == "void" else 0)
