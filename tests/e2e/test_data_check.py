"""What is wrong with the files of a data set is listed at once, or left out and said."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image


def write_folder(root: Path, count: int, broken: range) -> Path:
    """Images of two classes in each split, with masks; of ``test`` some are broken in turn in four ways."""
    rng = np.random.default_rng(0)
    for split, number in (("train", 4), ("val", 4), ("test", count)):
        for k in range(number):
            image = root / "images" / split / ("circle", "square")[k % 2] / f"{k:04d}.png"
            mask = root / "masks" / split / ("circle", "square")[k % 2] / f"{k:04d}.png"
            for path in (image, mask):
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(image)
            values = np.zeros((48, 64), np.uint8)
            values[10:30, 10:40] = 255
            if split == "test" and k in broken:
                if k % 4 == 0:
                    image.write_bytes(b"")
                elif k % 4 == 1:
                    image.write_bytes(image.read_bytes()[:-200])
                elif k % 4 == 2:
                    values = values[:-1]
                else:
                    values[0, 0] = 7
            Image.fromarray(values).save(mask)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "own", 12, range(4))


def test_everything_that_is_wrong_is_listed_and_nothing_else_is_done(run, folder: Path):
    done = run("data=folder", f"data.root={folder}", "data.check=true")
    assert done.code == 1
    assert "4 files cannot be used" in done.out
    for text in ("0000.png", "is empty", "0001.png", "truncated", "0002.png", "64×47 px", "0003.png"):
        assert text in done.out.replace("\n", ""), text
    assert "train: 4 images, 4 examples" in done.out
    assert "test: 8 images, 8 examples" in done.out
    assert "data.on_error=skip" in done.err
    assert not list(folder.parent.rglob("per_image.parquet"))


def test_a_data_set_without_faults_passes(run, tmp_path: Path):
    done = run("data=folder", f"data.root={write_folder(tmp_path / 'own', 4, range(0))}", "data.check=true")
    assert done.code == 0, done.err
    assert "nothing is wrong" in done.out


def test_files_are_left_out_and_said(run, folder: Path):
    stopped = run("data=folder", f"data.root={folder}")
    assert stopped.code == 1
    for name in ("0000.png", "0001.png", "0002.png", "0003.png"):
        assert name in stopped.err
    assert len(stopped.err.strip().splitlines()) == 5, "a line for each file"
    done = run("data=folder", f"data.root={folder}", "data.on_error=skip", "limit=null")
    assert done.code == 0, done.err
    assert "files that cannot be used are left out (4: 0000.png" in done.out
    assert len(pd.read_parquet(done.runs[-1] / "per_image.parquet")) == 8
    problems = pd.read_csv(done.runs[-1] / "problems.csv")
    assert sorted(Path(name).name for name in problems["file"]) == [f"000{k}.png" for k in range(4)]


def test_a_set_that_is_drawn_has_no_files_to_check(run):
    done = run("+data.check=true")
    assert done.code == 1
    assert "data.check" in done.err


@pytest.mark.slow
def test_a_thousand_files_are_checked_in_ten_seconds(run, tmp_path: Path):
    root = write_folder(tmp_path / "own", 1000, range(100, 130))
    start = time.process_time()
    done = run("data=folder", f"data.root={root}", "data.check=true")
    seconds = time.process_time() - start
    assert "30 files cannot be used" in done.out
    assert all(f"{k:04d}.png" in done.out for k in range(100, 130))
    assert seconds < 10, "of this process: others may keep the machine busy"
