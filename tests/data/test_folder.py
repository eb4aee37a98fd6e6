"""Folders of one's own: every layout that is promised, and what is refused."""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from gradsam_exp.data.base import DATASETS, Aligned, ExampleDataset, Limited
from gradsam_exp.errors import InputError

SIZE = (24, 16)  # width, height


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)).save(path)
    return path


def mask(path: Path, value: int = 255, area: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(SIZE[::-1], dtype=np.uint8)
    values[2 : 2 + area, 2 : 2 + area] = value
    Image.fromarray(values).save(path)
    return path


def read(root: Path, split: str = "test", **knobs: Any) -> ExampleDataset:
    return DATASETS.build({"name": "folder", "root": str(root), **knobs}, split=split)


def ids(data: ExampleDataset) -> list[str]:
    return [data[k].image_id for k in range(len(data))]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Two classes of two images with masks, as the test split."""
    for name in ("cat", "dog"):
        for k in range(2):
            picture(tmp_path / "images" / "test" / name / f"{k}.jpg")
            mask(tmp_path / "masks" / "test" / name / f"{k}.png")
    return tmp_path


def test_folders_inside_class_folders_are_read(own: Path):
    picture(own / "images/test/cat/summer/lake/7.png")
    mask(own / "masks/test/cat/summer/lake/7.png", area=4)
    data = read(own)
    assert ids(data) == ["cat/0", "cat/1", "cat/summer/lake/7", "dog/0", "dog/1"]
    example = data[2].examples[0]
    assert example.label == 0
    assert example.mask is not None
    assert int(example.mask.sum()) == 16


def test_what_is_hidden_is_no_class_and_no_image(own: Path):
    for name in (".ipynb_checkpoints", "__MACOSX", ".cache"):
        picture(own / "images/test" / name / "0.jpg")
        picture(own / "images/test/cat" / name / "0.jpg")
    picture(own / "images/test/cat/.0.jpg")
    (own / "images/test/Thumbs.db").write_bytes(b"x")
    data = read(own)
    assert tuple(data.class_names) == ("cat", "dog")
    assert len(data) == 4


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_split_is_known_by_any_of_its_names(own: Path, name: str):
    picture(own / "images" / name / "cat" / "9.jpg")
    mask(own / "masks" / name / "cat" / "9.png")
    assert ids(read(own, "val")) == ["cat/9"]


def test_two_folders_for_one_split_are_refused(own: Path):
    for name in ("val", "valid"):
        picture(own / "images" / name / "cat" / "9.jpg")
    with pytest.raises(InputError, match="are one split"):
        read(own, "val")


def test_images_without_classes(tmp_path: Path):
    for k in range(3):
        picture(tmp_path / "images" / "test" / f"{k}.jpg")
        mask(tmp_path / "masks" / "test" / f"{k}.png")
    with pytest.raises(InputError, match=r"data\.labels=none"):
        read(tmp_path)
    data = read(tmp_path, labels="none")
    assert (len(data), tuple(data.class_names)) == (3, ())
    assert data[0].examples[0].label == -1
    with pytest.raises(InputError, match="did you mean 'none'"):
        read(tmp_path, labels="non")


def test_pictures_beside_class_folders_are_said(own: Path):
    picture(own / "images/test/lost.jpg")
    with pytest.raises(InputError, match=r"lost\.jpg"):
        read(own)


def test_a_table_lists_files(tmp_path: Path):
    picture(tmp_path / "a/one.jpg")
    mask(tmp_path / "b/first.png")
    picture(tmp_path / "two.png")
    mask(tmp_path / "b/second.png")
    rows = "image,mask,label,split\na/one.jpg,b/first.png,cat,test\n"
    rows += "two.png,b/second.png,dog,test\na/one.jpg,,cat,train\n"
    (tmp_path / "list.csv").write_text(rows)
    data = read(tmp_path, table="list.csv")
    assert ids(data) == ["a/one", "two"]
    assert tuple(data.class_names) == ("cat", "dog")
    assert [data[k].examples[0].label for k in range(2)] == [0, 1]
    assert all(data[k].examples[0].mask is not None for k in range(2))
    assert read(tmp_path, "train", table="list.csv")[0].examples[0].mask is None
    (tmp_path / "list.csv").write_text(rows.replace("b/second.png", ""))
    with pytest.raises(InputError, match=r"1 of 2 images of split 'test' have no mask, such as .*two\.png"):
        read(tmp_path, table="list.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,label\na,b\n", "column 'picture' is not known"),
        ("label\na\n", "image is missing"),
        ("image,split\none.png,train\n", "no row of split 'test'"),
        ("image,split\none.png,test\none.png,test\n", "stands in two rows"),
        ("image,split\nnone.png,test\n", r"none\.png does not exist"),
        ("image,split\none.png,tset\n", "split 'tset' is not known"),
    ],
)
def test_a_table_that_is_wrong(tmp_path: Path, text: str, message: str):
    picture(tmp_path / "one.png")
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read(tmp_path, table="list.csv")


def test_lists_say_which_split_an_image_is_in(tmp_path: Path):
    for k in range(4):
        picture(tmp_path / "images" / "cat" / f"{k}.jpg")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/test.txt").write_text("# official\n1\ncat/3.jpg\n")
    assert ids(read(tmp_path, lists="splits/{split}.txt")) == ["cat/1", "cat/3"]
    with pytest.raises(InputError, match=r"train\.txt"):
        read(tmp_path, "train", lists="splits/{split}.txt")
    (tmp_path / "splits/test.txt").write_text("7\n")
    with pytest.raises(InputError, match=r"lists 1 images that are not there: 7"):
        read(tmp_path, lists="splits/{split}.txt")


def test_names_are_matched_whatever_their_capitals_and_unicode_form(tmp_path: Path):
    for tree, form, suffix in (("images", "NFC", ".JPG"), ("masks", "NFD", ".png")):
        path = (
            tmp_path
            / tree
            / "test"
            / unicodedata.normalize(form, "Äpfel")
            / f"{unicodedata.normalize(form, 'é')}1"
        )
        (picture if tree == "images" else mask)(path.with_suffix(suffix))
    (picture(tmp_path / "images/test/Pear/IMG_1.jpg"), mask(tmp_path / "masks/test/pear/img_1.png"))
    data = read(tmp_path)
    assert len(data) == 2
    assert all(data[k].examples[0].mask is not None for k in range(2))


def test_masks_may_have_a_suffix(own: Path):
    for path in (own / "masks").rglob("*.png"):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    with pytest.raises(InputError, match=r"data\.mask\.suffix=_mask"):
        read(own)
    assert len(read(own, mask={"suffix": "_mask"})) == 4


def test_masks_may_lie_beside_their_images(tmp_path: Path):
    for k in range(2):
        picture(tmp_path / "images/test/cat" / f"{k}.png")
        mask(tmp_path / "images/test/cat" / f"{k}_gt.png")
    data = read(tmp_path, masks="images", mask={"suffix": "_gt"})
    assert ids(data) == ["cat/0", "cat/1"]
    assert data[0].examples[0].mask is not None


def test_class_ids_in_one_file_are_examples(tmp_path: Path):
    picture(tmp_path / "images/test/0.jpg")
    values = np.zeros(SIZE[::-1], dtype=np.uint8)
    values[2:5, 2:5], values[8:10, 8:10], values[12:, :] = 1, 2, 255
    (tmp_path / "masks/test").mkdir(parents=True)
    Image.fromarray(values).save(tmp_path / "masks/test/0.png")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    data = read(tmp_path, mask={"object": "classes", "ignore": 255}, class_list="names.txt")
    sample = data[0]
    assert [(sample.example_id(one), one.label) for one in sample.examples] == [("0:cat", 0), ("0:dog", 1)]
    assert [int(one.mask.sum()) for one in sample.examples if one.mask is not None] == [9, 4]
    assert [int((~one.counted).sum()) for one in sample.examples if one.counted is not None] == [4 * 24] * 2
    with pytest.raises(InputError, match=r"data\.class_list"):
        read(tmp_path, mask={"object": "classes", "ignore": 255})
    with pytest.raises(InputError, match=r"the value 255, which names no class"):
        read(tmp_path, mask={"object": "classes"}, class_list="names.txt")


def test_instances_in_one_file_are_examples_of_the_images_class(own: Path):
    values = np.zeros(SIZE[::-1], dtype=np.uint8)
    values[2:5, 2:5], values[8:10, 8:10] = 100, 200
    Image.fromarray(values).save(own / "masks/test/dog/1.png")
    with pytest.raises(InputError, match=r"100.*200"):
        read(own)
    data = read(own, mask={"object": "instances"})
    assert [one.label for one in data[3].examples] == [1, 1]
    assert [data[3].example_id(one) for one in data[3].examples] == ["dog/1:100", "dog/1:200"]


def test_what_a_refusal_proposes_can_be_given_to_a_shell(own: Path):
    values = np.zeros((*SIZE[::-1], 3), dtype=np.uint8)
    values[2:5, 2:5], values[8:10, 8:10] = (255, 0, 0), (255, 255, 0)
    Image.fromarray(values).save(own / "masks/test/dog/1.png")
    with pytest.raises(InputError) as refused:
        read(own)
    words = shlex.split(str(refused.value).partition("as in ")[2].partition(" (or")[0])
    (override,) = OverridesParser.create().parse_overrides(words)
    assert (override.key_or_group, override.value()) == ("data.mask.object", "#ff0000")
    found = read(own, mask={"object": [override.value(), 255]})[3].examples[0].mask
    assert found is not None
    assert int(found.sum()) == 9


def test_a_mask_of_one_value_is_read_as_the_others_say(own: Path):
    mask(own / "masks/test/cat/0.png", area=30)
    Image.new("L", SIZE, 255).save(own / "masks/test/cat/1.png")
    data = read(own)
    assert data[1].examples[0].mask is not None
    assert bool(data[1].examples[0].mask.all())
    for path in (own / "masks").rglob("*.png"):
        Image.new("L", SIZE, 255).save(path)
    with pytest.raises(InputError, match=r"data\.mask\.object=255"):
        read(own)


def test_dark_objects_are_noted_and_can_be_said(own: Path):
    for path in (own / "masks").rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    (note,) = read(own).notes
    assert "data.mask.object=0" in note
    said = read(own, mask={"object": 0})[0].examples[0].mask
    assert said is not None
    assert int(said.sum()) == 9


def spoil_ending(root: Path) -> None:
    (root / "images/test/cat/0.jpg").rename(root / "images/test/cat/0.heic")


def spoil_empty(root: Path) -> None:
    (root / "images/test/cat/0.jpg").write_bytes(b"")


def spoil_three(root: Path) -> None:
    for name in ("cat/0", "cat/1", "dog/0"):
        (root / f"images/test/{name}.jpg").write_bytes(b"no picture")


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "an ending that is not read, with a mask": (spoil_ending, r"0\.heic: the ending \.heic is not read"),
    "zero bytes": (spoil_empty, r"cat/0\.jpg is empty"),
    "three broken ones at once": (
        spoil_three,
        r"3 of 4 images(.|\n)*cat/0\.jpg(.|\n)*cat/1\.jpg(.|\n)*dog/0\.jpg",
    ),
    "a mask without an image": (lambda r: mask(r / "masks/test/cat/9.png"), r"9\.png is a mask without an image"),
    "an image without a mask": (lambda r: picture(r / "images/test/cat/9.png"), r"9\.png has no mask"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_named(own: Path, what: str):
    spoil, message = REFUSED[what]
    spoil(own)
    with pytest.raises(InputError, match=message):
        read(own)


@pytest.mark.parametrize("ending", [".avif", ".gif", ".jfif", ".jpg", ".tif", ".webp", ".bmp"])
def test_every_ending_that_can_be_read_is(own: Path, ending: str):
    path = own / "images/test/cat/0.jpg"
    with Image.open(path) as content:
        kept = content.convert("RGB")
    path.unlink()
    kept.save(path.with_suffix(ending), format="JPEG" if ending == ".jfif" else None)
    assert len(read(own)) == 4


def test_a_limit_spreads_over_the_classes(own: Path):
    assert ids(Limited(read(own), 2)) == ["cat/0", "dog/0"]
    assert ids(Limited(read(own), 3)) == ["cat/0", "cat/1", "dog/0"]
    assert Limited(read(own), 9).digest == read(own).digest


def test_classes_are_matched_by_name(own: Path):
    aligned = Aligned(read(own), ["ant", "Dog", "cat"])
    assert [aligned[k].examples[0].label for k in range(4)] == [2, 2, 1, 1]
    with pytest.raises(InputError, match="class 'dog' is not one the classifier knows"):
        Aligned(read(own), ["cat"])
