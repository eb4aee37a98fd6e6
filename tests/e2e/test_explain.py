"""``task=explain``: any picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gradsam_exp.data.given import GivenPictures, find_pictures
from gradsam_exp.errors import InputError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x112] = 6  # the camera was held upright
    picture.save(folder / "upright.jpg", exif=turned)
    picture.convert("L").save(folder / "grey.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_pictures_of_any_kind_are_explained_and_segmented(run, photos: Path):
    done = run("task=explain", f"image='{photos}'", "pipeline=fgbg", "task.max_side=45")
    assert done.code == 0, done.err
    (folder,) = {path.parent for path in done.folder.rglob("*_mask.png")}
    left = {path.name for path in folder.iterdir()}
    assert {f"{n}{end}" for n in ("upright", "grey") for end in (".png", ".pdf", "_mask.png")} <= left
    assert "notes_mask.png" not in left
    with Image.open(folder / "upright_mask.png") as mask:
        assert mask.size == (60, 90), "as people see the picture, in its own size"
        assert set(np.unique(np.asarray(mask))) <= {0, 255}
    shares = [
        float(part.rsplit(" ", 1)[1].rstrip("%")) for part in done.out.splitlines()[0].split(": ")[1].split(", ")
    ]
    assert sum(shares) == pytest.approx(100, abs=0.3)
    assert shares == sorted(shares, reverse=True)


def test_a_mask_without_an_estimate_of_its_iou_is_said_without(run, photos: Path, random_weights: list[str]):
    arguments = (random_weights[0], "pipeline=threshold", "fg_threshold=0.5", "sam=none", "logger=none")
    done = run("task=explain", f"image='{photos}'", *arguments, defaults=False)
    assert done.code == 0, done.err
    assert done.out.count("% of the picture → ") == 2
    assert "predicted IoU" not in done.out


@pytest.mark.parametrize("given", ["nowhere.jpg", "empty", "text.jpg", "cut.png", None])
def test_a_wrong_picture_is_refused_before_anything_is_loaded(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None
):
    def never(*_: object) -> None:
        raise AssertionError("a model was read")

    monkeypatch.setattr("gradsam_exp.classifiers.checkpoints.find_classifier", never)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jpg").write_text("no picture")
    Image.new("RGB", (50, 50)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    done = run("task=explain", *([f"image={tmp_path / given}"] if given else []))
    assert done.code == 1
    assert done.err.strip().count("\n") == 0
    assert (given or "image is missing") in done.err


def test_several_classes_of_a_picture_can_be_asked_for(run, photos: Path):
    done = run("task=explain", f"image='{photos}/grey.png'", "explainer.target=top3")
    assert done.code == 0, done.err
    seen, *masks = done.out.splitlines()
    best = [part.strip().rsplit(" ", 1)[0] for part in seen.split(": ")[1].split(",")][:3]
    assert masks[0].startswith("  mask: ")
    assert [line.split(":")[0].removeprefix("  mask of ") for line in masks[1:]] == best[1:]
    assert {path.name for path in done.folder.rglob("*_mask.png")} == {f"grey-top{k}_mask.png" for k in (1, 2, 3)}


def test_what_is_done_to_a_picture_is_said(run, photos: Path):
    Image.new("RGBA", (40, 30), (255, 0, 0, 100)).save(photos / "glass.png")
    done = run("task=explain", f"image='{photos}/glass.png'")
    assert done.out.splitlines()[0].endswith("glass.png: transparent parts are put over white")


def test_the_truth_cannot_be_asked_for(run, photos: Path):
    done = run("task=explain", f"image='{photos}/grey.png'", "pipeline=oracle")
    assert done.err.strip().endswith("looks at the true masks, but the data set has none")


def test_large_pictures_are_made_smaller_and_equal_names_told_apart(photos: Path, tmp_path: Path):
    (photos / "b").mkdir()
    Image.new("RGB", (10, 2000)).save(photos / "b" / "grey.jpg")
    given = GivenPictures([photos / "grey.png", *find_pictures(f"{photos}/b/*.jpg")], max_side=100)
    assert given.names == ["grey", "grey-2"]
    assert GivenPictures([photos / "grey.png", photos / "grey.png"]).names == ["grey", "grey-2"]
    assert [given.image_size(k) for k in (0, 1)] == [(90, 60), (1, 100)]
    assert given[1].image.shape == (3, 100, 1)
    assert given.original_sizes[1] == (10, 2000)
    with pytest.raises(InputError, match="holds no pictures"):
        find_pictures(str(tmp_path))


def test_a_picture_that_was_renamed_is_another(run, photos: Path):
    assert run("task=explain", f"image='{photos}/grey.png'").code == 0
    (photos / "grey.png").rename(photos / "renamed.png")
    done = run("task=explain", f"image='{photos}/renamed.png'")
    assert done.code == 0, done.err
    assert "renamed: " in done.out


def test_it_can_be_swept(run, photos: Path):
    done = run("-m", "task=explain", f"image='{photos}/grey.png'", "explainer=gradcam,layercam")
    assert done.code == 0, done.err
    assert "interrupted" not in done.out
    assert len(list(done.folder.rglob("grey.png"))) == 2
    (table,) = done.folder.rglob("sweep.csv")
    assert pd.read_csv(table)["status"].tolist() == ["finished"] * 2


def test_brackets_in_a_name_are_printed(run, photos: Path):
    (photos / "grey.png").rename(photos / "holiday [final].png")
    done = run("task=explain", f"image='{photos}/holiday [final].png'")
    assert done.code == 0, done.err
    assert done.out.startswith("holiday [final]: ")
    written = done.out.split(" → ")[1].split(",")[0]
    assert Path(written).is_file()
