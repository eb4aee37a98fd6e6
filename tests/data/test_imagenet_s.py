"""ImageNet-S: class ids in two channels, names by line, images here or in a copy of ImageNet."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gradsam_exp.data.base import DATASETS, collate
from gradsam_exp.errors import InputError

WNIDS = ("n01443537", "n01491361", "n02119022")


def write_ids(path: Path, ids: np.ndarray) -> None:
    pixels = np.stack([ids % 256, ids // 256, np.zeros_like(ids)], axis=-1).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def subset(tmp_path: Path) -> Path:
    """Two images of each of three classes for each split with segmentations, and test images without."""
    root = tmp_path / "ImageNetS3"
    rng = np.random.default_rng(0)
    for folder in ("train-semi", "validation", "test"):
        for class_id, wnid in enumerate(WNIDS, 1):
            (root / folder / wnid).mkdir(parents=True)
            for number in range(2):
                name = f"{wnid}_{number}" if folder == "train-semi" else f"ILSVRC2012_val_0000{class_id}{number}"
                pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / folder / wnid / f"{name}.JPEG", format="JPEG")
                if folder == "test":
                    continue
                ids = np.zeros((20, 30), dtype=np.int64)
                ids[2:8, 2:12] = class_id
                if number == 1:
                    ids[10:15, 5:9] = class_id % 3 + 1
                    ids[18:, :] = 1000
                write_ids(root / f"{folder}-segmentation" / wnid / f"{name}.png", ids)
    (root / "categories.txt").write_text("\n".join(WNIDS) + "\n")
    return root


def read(root: Path, split: str = "val", **parameters):
    node = {"name": "imagenet_s", "root": str(root), "class_list": "categories.txt", **parameters}
    return DATASETS.build(node, split=split)


def test_each_class_in_an_image_is_an_example(subset: Path):
    data = read(subset)
    assert len(data) == 6
    assert data.class_names == WNIDS
    assert [data.image_labels(k) for k in range(6)] == [(0,), (0, 1), (1,), (1, 2), (2,), (0, 2)]
    sample = data[1]
    one, two = sample.examples
    assert one.mask.sum() == 60
    assert one.mask[2:8, 2:12].all()
    assert two.mask.sum() == 20
    assert two.mask[10:15, 5:9].all()
    assert data[0].examples[0].counted is None
    assert one.counted.sum() == 18 * 30
    assert sample.example_id(two) == "n01443537/ILSVRC2012_val_000011:n01491361"
    assert collate([sample, data[3]]).masks.shape == (4, 20, 30)


def test_ids_above_255_use_the_second_channel(subset: Path):
    names = [f"n{k:08d}" for k in range(1, 400)]
    (subset / "categories.txt").write_text("\n".join(names))
    path = sorted((subset / "validation-segmentation" / WNIDS[0]).iterdir())[0]
    ids = np.zeros((20, 30), dtype=np.int64)
    ids[:5, :5] = 300
    write_ids(path, ids)
    data = read(subset)
    assert data.image_labels(0) == (299,)
    assert data[0].examples[0].name == "n00000300"


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ("n01443537 goldfish\nn01491361 tiger shark\nn02119022 red fox\n", ("goldfish", "tiger shark", "red fox")),
        ("goldfish\nzebra\nant\n", ("goldfish", "zebra", "ant")),
    ],
)
def test_a_list_may_give_names(subset: Path, lines: str, names: tuple[str, ...]):
    (subset / "categories.txt").write_text(lines)
    data = read(subset)
    assert data.class_names == names
    assert data[0].examples[0].name == names[0]
    assert data[0].examples[0].label == 0


def test_images_may_lie_in_a_copy_of_imagenet(subset: Path):
    before = read(subset, "train")
    shutil.move(subset / "train-semi", subset.parent / "imagenet" / "train")
    elsewhere = subset.parent / "imagenet" / "train"
    for number in range(3):
        shutil.copy(
            elsewhere / WNIDS[0] / f"{WNIDS[0]}_0.JPEG", elsewhere / WNIDS[0] / f"{WNIDS[0]}_9{number}.JPEG"
        )
    with pytest.raises(InputError, match=r"data\.images: the folder .*train-semi does not exist"):
        read(subset, "train")
    assert read(subset, "train", images=str(elsewhere)).digest == before.digest
    assert read(subset, "val", images="{folder}").digest == read(subset).digest


def test_the_test_split_may_be_the_validation_images(subset: Path):
    with pytest.raises(InputError, match=r"those of test are not published: data\.folders\.test=validation"):
        read(subset, "test")
    folders = {"train": "train-semi", "val": "train-semi", "test": "validation"}
    assert read(subset, "test", folders=folders).digest == read(subset, "val").digest
    with pytest.raises(InputError, match=r"data\.folders: 'tset' is no split; did you mean 'test'"):
        read(subset, "test", folders={"tset": "validation"})


def test_an_image_without_a_class_is_left_out_with_a_note(subset: Path):
    path = sorted((subset / "validation-segmentation" / WNIDS[0]).iterdir())[0]
    write_ids(path, np.full((20, 30), 1000))
    data = read(subset)
    assert len(data) == 5
    assert any("left out" in note for note in data.notes)


def first_mask(root: Path) -> Path:
    return sorted((root / "validation-segmentation" / WNIDS[0]).iterdir())[0]


def listed(text: str):
    return lambda root: (root / "categories.txt").write_text(text)


def redraw(mode: str, value: object):
    return lambda root: Image.new(mode, (30, 20), value).save(first_mask(root))


SPOILED = {
    "no root": (shutil.rmtree, r"data\.root=.* does not exist; give the folder of a subset"),
    "no list": (lambda r: (r / "categories.txt").unlink(), r"data\.class_list: the file .* does not exist"),
    "an empty list": (listed("\n\n"), r"data\.class_list: the file .* is empty"),
    "an empty line": (listed("a\n\nb\n"), r"data\.class_list=.*line 2 is empty"),
    "a name twice": (listed("a\nb\na\n"), r"'a' stands in two lines"),
    "ids that are not sorted": (listed("n02119022\nn01443537\nn01491361\n"), r"not sorted.*sort the file"),
    "the list of another subset": (listed("a\nb\n"), r"has the class id 3, but data\.class_list has 2 lines"),
    "no segmentations": (
        lambda r: shutil.rmtree(r / "validation-segmentation"),
        r"validation-segmentation does not exist$",
    ),
    "no images": (lambda r: shutil.rmtree(r / "validation"), r"data\.images: the folder .*validation does not"),
    "no files": (lambda r: [shutil.rmtree(r / "validation-segmentation" / w) for w in WNIDS], r"no folder of a"),
    "no image": (lambda r: next((r / "validation" / WNIDS[0]).glob("*0.JPEG")).unlink(), r"JPEG does not exist"),
    "another size": (lambda r: write_ids(first_mask(r), np.ones((30, 20))), r"is 20×30 px but its image is 30×20"),
    "grey": (redraw("L", 1), r"has pixels of the kind L, but class ids are stored as RGB"),
    "a palette": (redraw("P", 1), r"has pixels of the kind P"),
    "blue": (redraw("RGB", (1, 0, 9)), r"has blue parts"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_what_does_not_fit_is_refused(subset: Path, what: str):
    spoil, message = SPOILED[what]
    spoil(subset)
    with pytest.raises(InputError, match=message):
        read(subset)
