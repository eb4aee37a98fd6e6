"""Killed at any moment, a sweep goes on with ``resume=true`` and ends with the same numbers."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests import preloaded
from tests.faults.counts import only_soaking, soaked
from tests.faults.test_signals import waited_for
from tests.preloaded import Preloaded

SWEEP = ("-m", "pipeline=fg,fgbg", "bg_threshold=0.1,0.2", "resume=true")
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
IN_A_ROW = 5  # times that one sweep is killed before it is let come to its end
TABLES = ("per_image.parquet", "predictions.parquet")


def start(root: Path, overrides: list[str]) -> Preloaded:
    root.mkdir(exist_ok=True)
    return preloaded.start("run.py", [*SWEEP, *overrides, f"output_root={root}"], root)


def killed_after(seconds: float, root: Path, overrides: list[str]) -> bool:
    """Start the sweep and kill it at this moment; False if it has come to its end before."""
    process, _, err = start(root, overrides)
    process.join(seconds)
    family = [] if process.exitcode is not None else psutil.Process(process.pid).children(recursive=True)
    process.kill()  # it alone: what it has started ends by itself
    process.join()
    assert waited_for(lambda: not any(map(_works, family)), 30), "what the sweep had started works on"
    assert process.exitcode in (0, -9), err.read_text()
    return process.exitcode == -9


def _works(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def finished(root: Path, overrides: list[str]) -> dict[str, pd.DataFrame]:
    """Let the sweep come to its end; gives its table, and the tables of its jobs."""
    code, _, err = preloaded.ended(start(root, overrides))
    assert code == 0, err
    path = max(root.rglob("sweep.csv"), key=lambda path: path.stat().st_mtime)
    jobs = sorted(job.parent for job in path.parent.glob("*/metrics.json"))
    of_jobs = {f"{job.name}/{name}": pd.read_parquet(job / name) for job in jobs for name in TABLES}
    return {"sweep": pd.read_csv(path).drop(columns="output_root"), **of_jobs}


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        pytest.param((), soaked(2, 50), id="plain"),
        pytest.param(JOBLIB, 10, id="joblib", marks=only_soaking),
    ],
)
def test_killed_at_random_moments(
    random_weights: list[str], tmp_path: Path, more: tuple[str, ...], wanted: int, capsys
):
    overrides = ["limit=8", "logger=none", "task.figures=false", *random_weights, *more]
    preloaded.warm()
    began = time.monotonic()
    right = finished(tmp_path / "undisturbed", overrides)
    whole = time.monotonic() - began
    assert len(right["sweep"]) == 4
    moments, killed = random.Random(22), 0
    for number in range(2 * wanted):
        root = tmp_path / str(number)
        for _ in range(min(IN_A_ROW, wanted - killed)):
            if not killed_after(moments.uniform(0.02, 0.98) * whole, root, overrides):
                break
            killed += 1
        again = finished(root, overrides)
        assert again.keys() == right.keys()
        for name, rows in again.items():
            pd.testing.assert_frame_equal(rows, right[name], obj=name)
        if killed == wanted:
            break
    with capsys.disabled():
        print(f"\nsoak: killed {killed} times ({'joblib' if more else 'plain'}), tables identical")
    assert killed == wanted
