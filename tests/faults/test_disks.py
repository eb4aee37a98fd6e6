"""Full disks, folders that cannot be written to, clocks that jump: no wrong number, one line, and it goes on."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which

import pandas as pd
import pytest

from gradsam_exp.engine import store
from tests.faults.counts import soaked

ROOT_ONLY = "NOT TESTED: needs root and mount"
SIZES = soaked(["16k", "400k"], ["4k", "16k", "64k", "128k", "200k", "300k", "400k", "600k", "800k", "1m"])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """``disk(size="1m")`` mounts a small disk where the outputs go; again to change it."""
    if os.name != "posix" or os.geteuid() != 0 or which("mount") is None:
        pytest.skip(ROOT_ONLY)
    folder = tmp_path / "outputs"
    folder.mkdir()

    def mount(options: str) -> Path:
        remount = "remount," if folder.is_mount() else ""
        command = ["mount", "-t", "tmpfs", "-o", f"{remount}{options}", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip(ROOT_ONLY)
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=True)


def images_of(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "per_image.parquet")


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_a_full_disk_gives_the_same_numbers_or_none(run, disk, size: str):
    folder = disk(f"size={size}")
    done = run("limit=8", "pipeline=fgbg", "resume=true")
    assert "Traceback" not in done.err
    if done.code:
        assert done.err.strip().splitlines()[-1].startswith("gradsam_exp: ")
        assert "space" in done.err.lower()
    whole = [path.parent for path in folder.rglob("metrics.json") if '"finished"' in path.read_text()]
    early = [images_of(one) for one in whole]
    disk("size=200m")
    again = run("limit=8", "pipeline=fgbg", "resume=true", "name=again")
    assert again.code == 0, again.err
    (right,) = (path.parent for path in folder.glob("again/*/metrics.json"))
    for table in early:
        pd.testing.assert_frame_equal(table, images_of(right))


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_to_is_one_line(run, disk, tmp_path: Path):
    folder = disk("size=10m,mode=755")
    disk("ro")
    done = run("limit=4")
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert str(folder) in done.err
    assert "Traceback" not in done.err
    other = run("limit=4", f"output_root={tmp_path / 'elsewhere'}", f"store.root={folder / 'store'}")
    assert other.code == 1
    assert other.err.startswith(f"gradsam_exp: store.root={folder / 'store'} cannot be written to")
    assert other.err.count("\n") == 1


@pytest.mark.slow
def test_a_clock_that_jumps_changes_no_number(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    right = run("limit=8", "pipeline=fgbg", "name=right")
    now, jumps, asked = time.time, random.Random(22), itertools.count()

    def jumping() -> float:
        next(asked)
        return now() + jumps.uniform(-1e8, 1e8)

    monkeypatch.setattr(store.time, "time", jumping)
    monkeypatch.setattr(store, "LOOK_AGAIN", 1e12)  # the folder is looked at after every chunk
    full = "store.max_gb=0.0001"  # so that what was used long ago is deleted
    for number in range(soaked(2, 10)):
        root = f"store.root={tmp_path / str(number)}"
        done = run("limit=8", "pipeline=fgbg", f"name=jumped{number}", root, full)
        assert done.code == 0, done.err
        (folder,) = (path.parent for path in done.folder.glob(f"jumped{number}/*/metrics.json"))
        (before,) = (path.parent for path in right.folder.glob("right/*/metrics.json"))
        pd.testing.assert_frame_equal(images_of(folder), images_of(before))
    assert next(asked) > 0
