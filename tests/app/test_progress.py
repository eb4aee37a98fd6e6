"""What is said while a run and a sweep work."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from gradsam_exp.app.callbacks import LINES, SweepWatch
from gradsam_exp.engine import progress
from gradsam_exp.engine.preparation import Stopwatch
from gradsam_exp.engine.progress import StageBars, clock, left, speed


def finish(folder: Path, job: int, miou: float | None, *, upper_bound: bool = False) -> None:
    hydra = folder / str(job) / ".hydra"
    hydra.mkdir(parents=True)
    (hydra / "overrides.yaml").write_text(f"- pipeline=fg\n- bg_threshold=0.{job}1234567\n- limit=8\n")
    if miou is None:
        content = {"identity": None, "status": "failed", "error": "no such thing", "metrics": {}}
    else:
        metrics = {"miou": {"mean": miou, "ci95": [miou, miou], "n": 1}}
        content = {"identity": "x", "status": "finished", "upper_bound": upper_bound, "metrics": metrics}
    (folder / str(job) / "metrics.json").write_text(json.dumps(content))


def test_a_sweep_says_each_job_once_and_the_best_so_far(tmp_path: Path):
    watch = SweepWatch(tmp_path, 4, ("bg_threshold",))
    assert watch.update() == []
    finish(tmp_path, 1, 0.5)
    assert watch.update() == ["1 of 4 done · job 1, bg_threshold=0.1123 · mIoU 0.500"]
    assert watch.update() == []
    finish(tmp_path, 0, 0.25)
    assert watch.update() == [
        "2 of 4 done · job 0, bg_threshold=0.01235 · mIoU 0.250 · best so far 0.500: job 1, bg_threshold=0.1123"
    ]
    finish(tmp_path, 2, None)
    (line,) = watch.update()
    assert line.startswith(
        "3 of 4 done, 1 failed · job 2, bg_threshold=0.2123 · failed: no such thing · best so far"
    )
    finish(tmp_path, 3, 0.9, upper_bound=True)
    (line,) = watch.update()
    assert line.endswith("mIoU 0.900 · best so far 0.500: job 1, bg_threshold=0.1123"), "a bound is no choice"


def test_a_long_sweep_says_little(tmp_path: Path):
    jobs = 4 * LINES
    watch = SweepWatch(tmp_path, jobs, ())
    lines = []
    for job in range(jobs):
        finish(tmp_path, job, 0.5)
        lines += watch.update()
    assert len(lines) == LINES + 1  # and the first, which is the best
    assert lines[-1].startswith(f"{jobs} of {jobs} done")


@pytest.fixture
def stopwatch() -> Stopwatch:
    return Stopwatch()


def show(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> io.StringIO:
    written = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=written, force_terminal=terminal, width=100))
    return written


def work(stopwatch: Stopwatch) -> None:
    for stage in ("data", "encode", "score"):
        with stopwatch.time(stage, 8) as done:
            done(5)
            done(3)


def test_every_stage_has_a_bar(monkeypatch: pytest.MonkeyPatch, stopwatch: Stopwatch):
    written = show(monkeypatch, terminal=True)
    with StageBars("fg on test", 16, stopwatch) as bars:
        work(stopwatch)
        bars.bars.refresh()
    assert stopwatch.images == {"data": 8, "encode": 8, "score": 8}
    for word in ("fg on test", "data", "encode", "score", "8/16", "images/s", "left"):
        assert word in written.getvalue()


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, stopwatch: Stopwatch):
    written = show(monkeypatch, terminal=False)
    with StageBars("fg on test", 16, stopwatch):
        work(stopwatch)
    assert written.getvalue() == ""
    monkeypatch.setattr(progress, "LINE_S", -1.0)
    with StageBars("fg on test", 16, stopwatch), stopwatch.time("score", 8):
        pass
    (line,) = written.getvalue().splitlines()
    assert line.startswith("fg on test: 16/16 images, 0:00 left (")


def test_numbers_for_people():
    assert [speed(100, 2.0), speed(1, 8.0), speed(0, 2.0)] == ["50 images/s", "0.12 images/s", ""]
    assert [clock(79.6), clock(7280)] == ["1:20", "2:01:20"]
    assert [left(25, 100, 10.0), left(0, 100, 10.0)] == ["0:30 left", "? left"]
