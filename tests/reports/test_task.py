"""``task=report``, on runs written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradsam_exp.config import Config
from gradsam_exp.engine.session import Job
from gradsam_exp.tasks.report import run
from tests.reports.finished_runs import write_run


def test_any_runs_are_compared_as_a_sweep_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for k, threshold in enumerate(("0.10", "0.2", "0.3")):
        run_folder = tmp_path / "runs" / str(k)
        write_run(run_folder, {"bg_threshold": threshold}, [0.5, 0.6, 0.7, 0.8], config={"split": "val"})
    (tmp_path / "runs" / "2" / "provenance.json").unlink()
    (tmp_path / "runs" / "1" / "predictions.parquet").unlink()
    (tmp_path / "report").mkdir()
    run(Config(runs=str(tmp_path / "runs"), task={"name": "report"}), Job(tmp_path / "report"))
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"report.html", "sweep.csv", "sweep.md", "sweep.tex", "sweep.png", "sweep.pdf"}
    printed = capsys.readouterr()
    assert printed.out.startswith("val · 4 images\n")
    assert printed.err.count("\n") == 1
    assert printed.err.endswith("2 is left out: provenance.json is missing\n")


def test_a_figure_that_fails_costs_a_line(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("gradsam_exp.reports.plots.draw_curves", broken)
    write_run(tmp_path / "0", {}, [0.5] * 4)
    run(Config(runs=str(tmp_path), task={"name": "report"}), Job(tmp_path))
    assert "sweep.png was not drawn (ZeroDivisionError: a bug)" in capsys.readouterr().err
    assert (tmp_path / "report.html").is_file()
