"""Oxford-IIIT Pet: trimaps, breeds and species, the official lists, the official archives."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gradsam_exp.data.base import DATASETS, collate
from gradsam_exp.errors import InputError

NAMES = {1: "Abyssinian", 2: "american_bulldog", 12: "Egyptian_Mau"}  # a part of the 37, with their own ids
SPECIES = {1: 1, 2: 2, 12: 1}


def write_trimap(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    """A pet of 6×8 px, a border of 1 px around it that does not count, and background."""
    values = np.full(size[::-1], 2, dtype=np.uint8)
    values[4:14, 9:17] = 3
    values[5:13, 10:16] = 1
    Image.fromarray(values).save(path)


def row(breed: int, number: int) -> str:
    return f"{NAMES[breed]}_{number} {breed} {SPECIES[breed]} {breed}"


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """12 images of each of three breeds in the layout of the two archives; the first ten are for training."""
    root = tmp_path / "pets"
    (root / "images").mkdir(parents=True)
    (root / "annotations/trimaps").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines: dict[str, list[str]] = {"trainval": [], "test": []}
    for breed, name in NAMES.items():
        for number in range(1, 13):
            pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"images/{name}_{number}.jpg")
            write_trimap(root / f"annotations/trimaps/{name}_{number}.png")
            (root / f"annotations/trimaps/._{name}_{number}.png").write_bytes(b"\0\5\x16\7")
            lines["trainval" if number <= 10 else "test"].append(row(breed, number))
    head = ["#Image CLASS-ID SPECIES BREED ID", "#ID: 1:37 Class ids", "#SPECIES: 1:Cat 2:Dog"]
    files = {**lines, "list": head + lines["trainval"] + lines["test"]}
    for name, content in files.items():
        (root / f"annotations/{name}.txt").write_text("\n".join(content) + "\n")
    (root / "images/Abyssinian_100.mat").write_bytes(b"MATLAB")
    (root / "images/Egyptian_Mau_999.jpg").write_bytes(b"broken, and in no list")
    return root


def read(root: Path | None, split: str = "test", **parameters):
    node = {"name": "oxford_pet", "root": root and str(root), **parameters}
    return DATASETS.build(node, split=split)


def test_a_trimap_is_an_object_and_a_border_that_does_not_count(pets: Path):
    data = read(pets)
    (example,) = data[0].examples
    expected = np.zeros((30, 40), dtype=bool)
    expected[5:13, 10:16] = True
    around = np.ones((30, 40), dtype=bool)
    around[4:14, 9:17] = False
    assert (example.mask.numpy() == expected).all()
    assert (example.counted.numpy() == (around | expected)).all()
    assert data[0].example_id(example) == "Abyssinian_11"
    batch = collate([data[0], data[2]])
    assert batch.masks.sum() == 96
    assert batch.labels.tolist() == [0, 1]


def test_classes_are_breeds_in_the_order_of_their_ids_or_species(pets: Path):
    data = read(pets)
    assert data.class_names == ("Abyssinian", "american bulldog", "Egyptian Mau")
    assert [data.image_labels(k) for k in range(6)] == [(0,), (0,), (1,), (1,), (2,), (2,)]
    species = read(pets, by="species")
    assert species.class_names == ("cat", "dog")
    assert [species.image_labels(k) for k in range(6)] == [(0,), (0,), (1,), (1,), (0,), (0,)]
    assert species.digest != data.digest


def test_the_official_training_part_is_train_and_val(pets: Path):
    parts = {split: read(pets, split) for split in ("train", "val", "test")}
    ids = {split: {data[k].image_id for k in range(len(data))} for split, data in parts.items()}
    assert len(ids["test"]) == 6
    assert not ids["train"] & ids["val"]
    listed = (pets / "annotations/trainval.txt").read_text().splitlines()
    assert ids["train"] | ids["val"] == {line.split()[0] for line in listed}
    assert 0 < len(ids["val"]) < len(ids["train"])
    assert any("no official val" in note for note in parts["train"].notes)
    assert parts["test"].notes == []


def test_files_that_no_list_names_do_not_matter(pets: Path):
    before = read(pets).digest
    (pets / "images/Egyptian_Mau_999.jpg").unlink()
    shutil.copy(pets / "annotations/trimaps/Abyssinian_1.png", pets / "annotations/trimaps/Abyssinian_99.png")
    assert read(pets).digest == before


def test_an_image_without_a_pet_is_left_out_with_a_note(pets: Path):
    Image.fromarray(np.full((30, 40), 2, dtype=np.uint8)).save(pets / "annotations/trimaps/Abyssinian_11.png")
    data = read(pets)
    assert len(data) == 5
    assert any("left out" in note and "Abyssinian_11" in note for note in data.notes)


def test_the_official_archives_are_fetched_and_checked(pets: Path, served):
    www, url = served
    md5 = {}
    for name in ("images", "annotations"):
        archive = Path(shutil.make_archive(str(www / name), "gztar", pets, name))
        md5[name] = hashlib.md5(archive.read_bytes()).hexdigest()
    data = read(None, url=url, md5=md5)
    assert data.digest == read(pets).digest
    for archive in www.iterdir():
        archive.unlink()
    assert len(read(None, url=url, md5=md5)) == 6
    with pytest.raises(InputError, match=r"could not be fetched from .*/images\.tar\.gz.*data\.root=PATH"):
        read(None, url=url, md5={**md5, "images": "0" * 32})


def spoil_list(root: Path, name: str, old: str, new: str) -> None:
    path = root / "annotations" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def scaled(root: Path) -> None:
    path = root / "annotations/trimaps/Abyssinian_11.png"
    Image.fromarray(np.asarray(Image.open(path)) * 64).save(path)


def emptied(root: Path) -> Path:
    shutil.rmtree(root)
    root.mkdir()
    return root


SPOILED = {
    "no root": (shutil.rmtree, r"data\.root=.*pets does not exist"),
    "no images": (lambda r: shutil.rmtree(r / "images"), r"lacks the folder 'images'"),
    "the folder above": (
        lambda r: shutil.move(shutil.copytree(r, r.parent / "inner"), emptied(r) / "oxford-iiit-pet"),
        r"did you mean data\.root=.*oxford-iiit-pet\?",
    ),
    "no list": (lambda r: (r / "annotations/list.txt").unlink(), r"list\.txt does not exist"),
    "no split": (lambda r: (r / "annotations/test.txt").unlink(), r"test\.txt does not exist"),
    "empty split": (lambda r: (r / "annotations/test.txt").write_text(""), r"test\.txt is empty"),
    "no image": (lambda r: (r / "images/Abyssinian_11.jpg").unlink(), r"Abyssinian_11\.jpg does not exist"),
    "no trimap": (
        lambda r: (r / "annotations/trimaps/Abyssinian_11.png").unlink(),
        r"Abyssinian_11\.png does not exist",
    ),
    "trimap of another size": (
        lambda r: write_trimap(r / "annotations/trimaps/Abyssinian_11.png", (41, 30)),
        r"is 41×30 px but its image is 40×30 px",
    ),
    "trimap of other values": (scaled, r"Abyssinian_11\.png has the value 64, but a trimap has 1"),
    "a short line": (
        lambda r: spoil_list(r, "test.txt", "Abyssinian_11 1 1 1", "Abyssinian_11 1"),
        r"test\.txt, line 1: 'Abyssinian_11 1' is not image class-id species breed-id",
    ),
    "twice": (
        lambda r: spoil_list(r, "test.txt", "Abyssinian_12", "Abyssinian_11"),
        r"test\.txt, line 2: Abyssinian_11 is listed twice",
    ),
    "an id that is not known": (
        lambda r: spoil_list(r, "test.txt", "Abyssinian_11 1 1", "Abyssinian_11 5 1"),
        r"test\.txt: '5' is no class id of list\.txt",
    ),
    "a species that is not known": (
        lambda r: spoil_list(r, "test.txt", "Abyssinian_11 1 1", "Abyssinian_11 1 3"),
        r"test\.txt: '3' is no species",
    ),
    "two names for an id": (
        lambda r: spoil_list(r, "list.txt", "Abyssinian_11 1", "Abyssinian_11 2"),
        r"list\.txt: the class id 2 is 'american bulldog' and, by Abyssinian_11, 'Abyssinian'",
    ),
}


@pytest.mark.parametrize("what", SPOILED)
def test_what_does_not_fit_is_refused(pets: Path, what: str):
    spoil, message = SPOILED[what]
    spoil(pets)
    with pytest.raises(InputError, match=message) as caught:
        read(pets)
    assert "\n" not in str(caught.value)
