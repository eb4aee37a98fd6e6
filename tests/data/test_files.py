"""Data sets on disk: what is read, and what is refused, naming the file."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gradsam_exp.data.backgrounds import Mixed
from gradsam_exp.data.base import DATASETS, loader
from gradsam_exp.data.shapes import Shapes
from gradsam_exp.data.synthetic_shapes import SyntheticShapes
from gradsam_exp.errors import InputError


def test_export_and_read_back_are_the_same_images(shape_files: Path):
    drawn, read = Shapes("val", Mixed("val"), length=10), SyntheticShapes(split="val", root=shape_files)
    assert len(read) == 10
    for index in range(10):
        one, other = drawn[index], read[index]
        assert torch.equal(one.image, other.image)
        (drawing,), (file,) = one.examples, other.examples
        assert file.mask is not None
        assert torch.equal(drawing.mask, file.mask)
        assert drawing.label == file.label


def test_a_split_that_is_not_asked_for_may_be_absent(shape_files: Path):
    for kind in ("images", "masks", "labels"):
        shutil.rmtree(shape_files / kind / "train")
    assert len(SyntheticShapes(split="test", root=shape_files)) == 10
    with pytest.raises(InputError, match=r"images/train does not exist"):
        SyntheticShapes(split="train", root=shape_files)


def spoil_size(root: Path) -> None:
    Image.new("L", (10, 10)).save(root / "masks/test/00003.png")


def spoil_bytes(root: Path) -> None:
    path = root / "images/test/00004.png"
    path.write_bytes(path.read_bytes()[:-500])


SPOILED = {
    "no data root": (shutil.rmtree, r"does not exist"),
    "no masks": (lambda r: shutil.rmtree(r / "masks"), r"masks/test does not exist"),
    "no labels": (lambda r: shutil.rmtree(r / "labels"), r"labels/test does not exist"),
    "mask missing": (lambda r: (r / "masks/test/00001.png").unlink(), r"masks/test lacks 1 .*: 00001"),
    "image missing": (lambda r: (r / "images/test/00001.png").unlink(), r"images/test lacks 1 .*: 00001"),
    "label missing": (lambda r: (r / "labels/test/00002.txt").unlink(), r"labels/test lacks 1 .*: 00002"),
    "unknown class": (
        lambda r: (r / "labels/test/00002.txt").write_text("cirlce"),
        r"00002\.txt names the class 'cirlce'.*did you mean 'circle'",
    ),
    "mask of another size": (spoil_size, r"00003\.png is 10×10 px but its image is 64×48 px"),
    "truncated image": (spoil_bytes, r"00004\.png cannot be read as a picture"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_spoiled_files_are_named(shape_files: Path, what: str):
    spoil, message = SPOILED[what]
    spoil(shape_files)
    with pytest.raises(InputError, match=message):
        SyntheticShapes(split="test", root=shape_files)


def test_an_empty_mask_is_no_error(shape_files: Path):
    Image.new("L", (64, 48)).save(shape_files / "masks/test/00000.png")
    mask = SyntheticShapes(split="test", root=shape_files)[0].examples[0].mask
    assert mask is not None
    assert not mask.any()


def test_the_digest_is_the_content_of_the_files(shape_files: Path, tmp_path: Path):
    before = SyntheticShapes(split="test", root=shape_files).digest
    moved = tmp_path / "moved"
    shutil.move(shape_files, moved)
    assert SyntheticShapes(split="test", root=moved).digest == before
    (moved / "labels/test/00000.txt").write_text("star")
    assert SyntheticShapes(split="test", root=moved).digest != before


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """Class folders with two image sizes, JPEG images and PNG masks, names with spaces and umlauts."""
    rng = np.random.default_rng(0)
    root = tmp_path / "own data"
    for name in ("Äpfel", "red pears"):
        for number in range(6):
            width, height = ((40, 30), (56, 64))[number % 2]
            for tree, suffix in (("images", ".jpg"), ("masks", ".png")):
                path = root / tree / name / f"photo {number}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                if tree == "images":
                    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
                else:
                    mask = np.zeros((height, width), dtype=np.uint8)
                    mask[5:20, 5:20] = 1 if number == 0 else 255
                    Image.fromarray(mask).save(path)
    return root


def own_splits(root: Path) -> dict[str, list[str]]:
    found = {}
    for split in ("train", "val", "test"):
        try:
            data = DATASETS.build({"name": "folder", "root": str(root)}, split=split)
        except InputError:
            found[split] = []
        else:
            found[split] = [data[k].image_id for k in range(len(data))]
    return found


def test_folder_of_ones_own_is_split_by_file(own_folder: Path):
    splits = own_splits(own_folder)
    assert sum(map(len, splits.values())) == 12
    assert len({name for names in splits.values() for name in names}) == 12
    data = DATASETS.build({"name": "folder", "root": str(own_folder)}, split="train")
    assert data.class_names == ("red pears", "Äpfel")
    assert data[0].examples[0].mask is not None
    assert data[0].examples[0].mask.sum() == 15 * 15


def test_mixed_sizes_are_batched_by_size(own_folder: Path):
    data = DATASETS.build({"name": "folder", "root": str(own_folder)}, split="train")
    batches = list(loader(data, 4))
    assert {tuple(b.size) for b in batches} == {(30, 40), (64, 56)}
    assert sum(map(len, batches)) == len(data)


def test_split_folders_decide_where_there_are_any(own_folder: Path):
    for tree in ("images", "masks"):
        classes = list((own_folder / tree).iterdir())
        for split in ("train", "test"):
            for name in classes:
                shutil.copytree(name, own_folder / tree / split / name.name)
        for name in classes:
            shutil.rmtree(name)
    splits = own_splits(own_folder)
    assert [len(splits[s]) for s in ("train", "val", "test")] == [12, 0, 12]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: shutil.rmtree(r / "images"), "lacks the folder 'images'"),
        (lambda r: (r / "masks/Äpfel/photo 1.png").unlink(), "photo 1.jpg has no mask"),
        (lambda r: (r / "images/Äpfel/photo 1.jpg").unlink(), "photo 1.png is a mask without an image"),
        (lambda r: shutil.copy(r / "images/Äpfel/photo 1.jpg", r / "images/Äpfel/photo 1.jpeg"), "same name"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(own_folder: Path, spoil, message: str):
    spoil(own_folder)
    with pytest.raises(InputError, match=message):
        DATASETS.build({"name": "folder", "root": str(own_folder)}, split="train")


def test_a_folder_without_masks_has_no_truth(own_folder: Path):
    shutil.rmtree(own_folder / "masks")
    data = DATASETS.build({"name": "folder", "root": str(own_folder)}, split="train")
    assert data[0].examples[0].mask is None
    assert next(iter(loader(data, 4))).masks is None
