import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gradsam_exp.data.backgrounds import BACKGROUNDS, Background, Mixed, Pictures
from gradsam_exp.data.dead_leaves import dead_leaves
from gradsam_exp.data.files import belongs_to
from gradsam_exp.data.photos import SCENES_OF_SPLIT, photographs
from gradsam_exp.errors import InputError


def picture_folder(root: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    for number in range(count):
        path = root / "train" / f"class {number % 2}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return root


def shown(split: str, root: Path) -> set[bytes]:
    """The pictures of a split, each by its pixels."""
    return {picture.tobytes() for picture in Pictures(split, root).pictures}


def zipped(folder: Path) -> Path:
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*.png")):
            file.write(path, path.relative_to(folder))
    return archive


def test_photographs_of_the_splits_are_different_scenes():
    scenes = [scene for split in SCENES_OF_SPLIT.values() for scene in split]
    assert len(scenes) == len(set(scenes))
    for split in SCENES_OF_SPLIT:
        for photo in photographs(split):
            assert photo.ndim == 3
            assert photo.shape[2] == 3
            assert min(photo.shape[:2]) >= 300


@pytest.mark.parametrize("name", ["mixed", "noise"])
def test_backgrounds_fill_any_canvas_and_repeat_with_the_generator(name: str):
    background: Background = BACKGROUNDS.build({"name": name}, split="val")
    for width, height in ((64, 48), (31, 77)):
        one = background.draw(np.random.default_rng(3), width, height)
        again = background.draw(np.random.default_rng(3), width, height)
        assert one.shape == (height, width, 3)
        assert one.dtype == np.uint8
        assert np.array_equal(one, again)


def test_dead_leaves_number_every_pixel_and_colour_each_leaf_alike():
    picture, leaves = dead_leaves(np.random.default_rng(1), 64, 48, min_radius=4.0)
    assert leaves.min() >= 0
    assert picture.shape == (48, 64, 3)
    flat = picture.astype(float)
    within = np.mean([flat[leaves == k].std(0).mean() for k in np.unique(leaves) if (leaves == k).sum() > 20])
    assert within < 0.6 * flat.std((0, 1)).mean(), "a leaf is more uniform than the picture"


def test_dead_leaves_refuse_impossible_radii():
    with pytest.raises(ValueError, match="min_radius < max_radius"):
        dead_leaves(np.random.default_rng(0), 8, 8, min_radius=9.0, max_radius=3.0)


def test_pictures_are_split_by_file_and_never_shared(tmp_path: Path):
    root = picture_folder(tmp_path / "pictures", 200)
    train, val, test = (shown(split, root) for split in ("train", "val", "test"))
    assert not train & test
    assert not train & val
    assert len(train | val | test) == 200
    assert 130 <= len(train) <= 190


def test_adding_files_moves_none_to_another_split(tmp_path: Path):
    root = picture_folder(tmp_path / "pictures", 50)
    before = shown("test", root)
    picture_folder(root, 100)
    assert before < shown("test", root)


def test_zip_and_folder_are_the_same_background(tmp_path: Path):
    root = picture_folder(tmp_path / "pictures", 60)
    folder, archive = Pictures("train", root), Pictures("train", zipped(root))
    assert folder.digest == archive.digest
    rng = [np.random.default_rng(5) for _ in range(2)]
    assert np.array_equal(folder.draw(rng[0], 16, 12), archive.draw(rng[1], 16, 12))


def test_blend_draws_from_all_of_its_parts():
    node = {"name": "blend", "of": [{"name": "noise"}, {"name": "mixed"}]}
    blend = BACKGROUNDS.build(node, split="test")
    assert blend.digest != Mixed("test").digest
    rng = np.random.default_rng(0)
    fine = [len(np.unique(blend.draw(rng, 64, 48).reshape(-1, 3), axis=0)) for _ in range(12)]
    assert min(fine) < 800 < max(fine)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: Pictures("train", p / "nowhere"), "nowhere does not exist"),
        (lambda p: Pictures("train", Path(__file__)), "neither a folder nor a zip"),
        (lambda p: Pictures("train", p), "holds no picture"),
    ],
)
def test_bad_roots_are_named(tmp_path: Path, make, message: str):
    with pytest.raises(InputError, match=message):
        make(tmp_path)


def test_a_broken_picture_is_named(tmp_path: Path):
    root = picture_folder(tmp_path / "pictures", 30)
    for path in root.rglob("*.png"):
        if belongs_to("train", path.relative_to(root).as_posix()):
            path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"\.png cannot be read"):
        Pictures("train", root).draw(np.random.default_rng(0), 8, 8)


def test_an_unknown_background_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'mixed'"):
        BACKGROUNDS.build({"name": "mixd"}, split="test")
