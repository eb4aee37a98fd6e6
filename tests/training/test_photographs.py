"""Scenes of photographs: files of three layouts are read, a quarter is held out, and masks fit what is seen."""

import json
import shutil
from pathlib import Path, PurePath

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import label

from gradsam_exp.data.files import is_held_out
from gradsam_exp.data.photos import photographs
from gradsam_exp.errors import InputError
from gradsam_exp.training.photographs import Photograph, PhotographScenes, read_photographs
from gradsam_exp.training.scene_loader import SceneStream
from gradsam_exp.training.scenes import SceneGenerator

NAMES = [f"{number:03}" for number in range(12)]


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def picture(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write ``people`` (BSDS500's layout), ``clothes`` (label maps) and ``things`` (COCO's)."""
    halves = np.where(np.arange(80) < 30, 1, 2).astype(np.uint8)[None].repeat(60, 0)
    middle = np.zeros((60, 80), np.uint8)
    middle[20:40, 30:50] = 255
    parts = np.zeros((60, 80), np.uint8)
    parts[5:20, 5:20], parts[30:50, 40:70], parts[20:30, 5:20] = 3, 3, 7
    images = []
    for k, name in enumerate(NAMES):
        save(tmp_path / f"people/images/train/{name}.png", picture(k))
        save(tmp_path / f"people/segments/train/{name}.0.png", halves)
        save(tmp_path / f"people/segments/train/{name}.1.png", 3 - halves)
        save(tmp_path / f"people/salient/train/{name}.png", middle)
        save(tmp_path / f"clothes/images/{name}.png", picture(k))
        save(tmp_path / f"clothes/labels/{name}.png", parts)
        save(tmp_path / f"things/train2017/{name}.png", picture(k))
        images.append({"id": k, "file_name": f"{name}.png", "width": 80, "height": 60})
    square = [[10, 10, 49, 10, 49, 29, 10, 29]]
    outlines = [{"id": k, "image_id": k, "iscrowd": 0, "segmentation": square} for k in range(len(NAMES))]
    (tmp_path / "things/annotations").mkdir()
    (tmp_path / "things/annotations/instances.json").write_text(
        json.dumps({"images": images, "annotations": outlines, "categories": []})
    )
    return tmp_path


def test_three_layouts_are_read_from_folders_and_zip_files(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    read = read_photographs(folder, held_out=False, key="task.photographs")
    by_set = {root.rpartition("/")[2]: own for root, own in read.items()}
    trained = [name for name in NAMES if not is_held_out(PurePath(name))]
    assert {root: [Path(p.name).stem for p in own] for root, own in by_set.items()} == dict.fromkeys(
        ("clothes", "people", "things"), trained
    )
    people, clothes, things = (by_set[name][0] for name in ("people", "clothes", "things"))
    assert [one[0, 0] for one in people.segmentations] == [1, 2]
    assert people.objects[0].sum() == 20 * 20
    numbers, connected = clothes.segmentations
    assert sorted(np.unique(numbers)) == [0, 3, 7]
    assert sorted(np.unique(connected)) == [0, 1, 2, 3]
    assert clothes.objects[0].sum() == 15 * 25 + 20 * 30
    assert things.objects[0].sum() == 40 * 20
    assert not things.segmentations
    zipped = Path(shutil.make_archive(str(tmp_path_factory.mktemp("zip") / "all"), "zip", folder))
    again = read_photographs(zipped, held_out=False, key="task.photographs")
    for one, other in zip(read.values(), again.values(), strict=True):
        assert all(np.array_equal(a.image, b.image) for a, b in zip(one, other, strict=True))


def test_a_quarter_is_held_out_whatever_else_is_there(folder: Path):
    held = read_photographs(folder, held_out=True, key="k")
    trained = read_photographs(folder, held_out=False, key="k")
    for root, own in held.items():
        assert {p.name for p in own} | {p.name for p in trained[root]} == {p.name for p in [*own, *trained[root]]}
        assert not {p.name for p in own} & {p.name for p in trained[root]}
    assert sum(is_held_out(PurePath(str(number))) for number in range(4000)) == pytest.approx(1000, abs=90)


def test_what_cannot_be_read_is_named(folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"task\.photographs=/nowhere does not exist"):
        read_photographs("/nowhere", held_out=False, key="task.photographs")
    trained = next(name for name in NAMES if not is_held_out(PurePath(name)))
    (folder / "clothes/labels" / f"{trained}.png").write_bytes(b"no")
    with pytest.raises(InputError, match=r"task\.photographs=.*clothes cannot be used"):
        read_photographs(folder, held_out=False, key="task.photographs")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no outlined photographs"):
        read_photographs(tmp_path / "empty", held_out=False, key="task.photographs")


def coloured() -> Photograph:
    """A photograph of four quarters, each of its own colour, and a disc in the middle."""
    numbers = np.ones((200, 300), np.uint16)
    numbers[:100, 150:], numbers[100:, :150], numbers[100:, 150:] = 2, 3, 4
    ys, xs = np.mgrid[:200, :300]
    disc = (ys - 100) ** 2 + (xs - 150) ** 2 < 50**2
    colours = np.array([[0, 0, 0], [250, 20, 20], [20, 250, 20], [20, 20, 250], [20, 250, 250]], np.uint8)
    image = colours[numbers]
    image[disc] = (250, 250, 20)
    return Photograph("x", image, (numbers,), (disc,), "salient")


def test_masks_are_where_their_colours_are():
    scenes = PhotographScenes({"one": [coloured()]}, pasted_share=0.0)
    seen = 0
    for number in range(20):
        image, masks = scenes.draw(np.random.default_rng(number), 6)
        assert len(masks) == 6
        assert max(image.shape[:2]) == 256
        for mask in masks:
            assert mask.shape == (image.shape[0] // 4, image.shape[1] // 4)
            assert mask.sum() >= 14
            fine = np.kron(mask, np.ones((4, 4), bool))
            around = np.kron(mask, np.ones((4, 4))) == 0
            if label(mask)[1] == 1 and 0.05 < mask.mean() < 0.2:  # the disc or a part of a quarter, no union
                inside, outside = (image[own].astype(float) for own in (fine, around))
                assert np.linalg.norm(inside.mean(0) - outside.mean(0)) > 10
                seen += 1
    assert seen > 10


def test_a_pasted_object_is_a_target_and_hides_what_it_covers():
    plain = Photograph(
        "plain", np.full((256, 256, 3), 128, np.uint8), (np.ones((256, 256), np.uint16),), (), "salient"
    )
    source = coloured()
    scenes = PhotographScenes({"one": [plain], "two": [source]}, pasted_share=1.0)
    found = 0
    for number in range(30):
        image, masks = scenes.draw(np.random.default_rng(number), 4)
        flat = np.abs(image.astype(int) - np.median(image.reshape(-1, 3), 0)).max(2) < 12
        if flat.mean() < 0.5:  # the coloured photograph is the ground
            continue
        share = [flat[np.kron(mask, np.ones((4, 4), bool))].mean() for mask in masks]
        things = [mask for mask, own in zip(masks, share, strict=True) if own < 0.5]
        ground = [mask for mask, own in zip(masks, share, strict=True) if own > 0.9]
        for one in things:  # a cell of which half is covered belongs to both
            assert all((one & other).sum() < 0.1 * one.sum() for other in ground)
        found += len(things)
    assert found > 10


def test_a_scene_depends_on_its_number_alone():
    def stream(start: int) -> SceneStream:
        drawn = SceneGenerator(photographs("val"))
        scenes = PhotographScenes({"one": [coloured()]})
        return SceneStream(drawn, targets=3, seed=5, start=start, photographs=scenes, drawn_share=0.3)

    first = iter(stream(0))
    whole = [next(first) for _ in range(6)]
    later = iter(stream(3))
    for (image, masks), (expected, others) in zip((next(later) for _ in range(3)), whole[3:], strict=True):
        assert np.array_equal(image, expected)
        assert torch.equal(masks, others)
