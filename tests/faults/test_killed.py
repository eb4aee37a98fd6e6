"""Killed at any moment, a sweep goes on with ``resume=true`` and ends with the same numbers."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch

from tests.e2e.conftest import Finished
from tests.faults.counts import only_soaking, soaked
from tests.faults.test_signals import waited_for

SWEEP = ("-m", "pipeline=fg,fgbg", "bg_threshold=0.1,0.2", "resume=true")
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
IN_A_ROW = 5  # times that one sweep is killed before it is let come to its end
TABLES = ("per_image.parquet", "predictions.parquet")
Run = Callable[..., Finished]


def start(run: Run, root: Path, more: tuple[str, ...]) -> multiprocessing.Process:
    """Start the sweep in a process that has imported everything already."""

    def work() -> None:
        torch.set_num_threads(1)  # OpenMP's threads do not outlive a fork
        code = run(*SWEEP, *more, f"output_root={root}").code
        os._exit(code)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def killed_after(seconds: float, run: Run, root: Path, more: tuple[str, ...]) -> bool:
    """Start the sweep and kill it at this moment; False if it has come to its end before."""
    process = start(run, root, more)
    process.join(seconds)
    family = [] if process.exitcode is not None else psutil.Process(process.pid).children(recursive=True)
    process.kill()  # it alone: what it has started ends by itself
    process.join()
    assert waited_for(lambda: not any(map(_works, family)), 30), "what the sweep had started works on"
    assert process.exitcode in (0, -9)
    return process.exitcode == -9


def _works(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def finished(run: Run, root: Path, more: tuple[str, ...]) -> dict[str, pd.DataFrame]:
    """Let the sweep come to its end; gives its table, and the tables of its jobs."""
    process = start(run, root, more)
    process.join()
    assert process.exitcode == 0
    path = max(root.rglob("sweep.csv"), key=lambda path: path.stat().st_mtime)
    jobs = sorted(job.parent for job in path.parent.glob("*/metrics.json"))
    of_jobs = {f"{job.name}/{name}": pd.read_parquet(job / name) for job in jobs for name in TABLES}
    return {"sweep": pd.read_csv(path).drop(columns="output_root"), **of_jobs}


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        pytest.param((), soaked(3, 50), id="plain"),
        pytest.param(JOBLIB, 10, id="joblib", marks=only_soaking),
    ],
)
def test_killed_at_random_moments(run: Run, tmp_path: Path, more: tuple[str, ...], wanted: int, capsys):
    for module in ("gradsam_exp.tasks.evaluate", "gradsam_exp.reports.page", "gradsam_exp.reports.sweep"):
        importlib.import_module(module)
    began = time.monotonic()
    right = finished(run, tmp_path / "undisturbed", more)
    whole = time.monotonic() - began
    assert len(right["sweep"]) == 4
    moments, killed = random.Random(22), 0
    for number in range(2 * wanted):
        root = tmp_path / str(number)
        for _ in range(min(IN_A_ROW, wanted - killed)):
            if not killed_after(moments.uniform(0.02, 0.98) * whole, run, root, more):
                break
            killed += 1
        again = finished(run, root, more)
        assert again.keys() == right.keys()
        for name, rows in again.items():
            pd.testing.assert_frame_equal(rows, right[name], obj=name)
        if killed == wanted:
            break
    with capsys.disabled():
        print(f"\nsoak: killed {killed} times ({'joblib' if more else 'plain'}), tables identical")
    assert killed == wanted
