"""A metric is one file: what is chosen is measured, stored, and shown everywhere."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from gradsam_exp.metrics.base import METRICS
from gradsam_exp.registry import Registry
from tests.e2e.test_readme import CONTRIBUTING, blocks
from tests.tracking.conftest import offline_runs, records


@pytest.fixture
def leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The metric of CONTRIBUTING.md in a file of its own, forgotten afterwards."""
    METRICS.names()
    monkeypatch.setattr(METRICS, "_factories", dict(METRICS._factories))
    _, example, _ = blocks("python", CONTRIBUTING)
    (tmp_path / "leak_metric.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("leak_metric")
    yield
    del sys.modules["leak_metric"]


def metrics_of(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())["metrics"]


@pytest.mark.slow
@pytest.mark.usefixtures("leak")
def test_a_metric_in_one_file_is_shown_everywhere(run):
    done = run("-m", "pipeline=fg,center", "+metrics.leak=true", "logger=wandb", "limit=4")
    assert done.code == 0, done.err
    folder, values = done.runs[0].parent, {}
    for path in done.runs:
        found = metrics_of(path)["leak"]
        values[path.name] = found.pop("mean")
        low, high = found.pop("ci95")
        assert low <= values[path.name] <= high
        facts = {"title": "leak", "column": "leak", "unit": "", "group": "masks", "higher_is_better": False}
        assert found == {"n": 4, **facts}
        assert pd.read_parquet(path / "per_image.parquet")["leak"].mean() == pytest.approx(values[path.name])
    assert values["0"] != values["1"]
    shown = [f"{value:.3f}" for value in values.values()]
    assert " leak " in done.out
    for text in (done.out, (folder / "sweep.md").read_text(), (folder / "sweep.tex").read_text()):
        assert all(number in text for number in shown)
    assert "| leak |" in (folder / "sweep.md").read_text()
    assert "& leak" in (folder / "sweep.tex").read_text()
    table = pd.read_csv(folder / "sweep.csv")
    assert table["leak"].tolist() == pytest.approx(list(values.values()))
    page = (folder / "report.html").read_text()
    (data,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', page, re.DOTALL)
    content = json.loads(data)
    assert content["titles"]["leak"] == "leak"
    (axes,) = (c["figure"]["data"][0]["dimensions"] for c in content["charts"] if c["id"] == "parallel")
    (axis,) = (axis for axis in axes if axis["label"] == "leak")
    assert axis["range"] == [max(axis["values"]), min(axis["values"])], "what is better is up"
    for tracked in offline_runs(done.folder):
        directions = {metric["name"]: metric["summary"] for metric in records(tracked, "metric")}
        assert (directions["leak"], directions["miou"]) == ({"min": True}, {"max": True})


@pytest.mark.usefixtures("leak")
def test_a_run_measures_what_was_chosen(run):
    done = run("metrics=full", "+metrics.leak=true", "metrics.sparsity=false", "metrics.boundary_iou.dilation=0.1")
    assert done.code == 0, done.err
    (folder,) = done.runs
    assert list(metrics_of(folder)) == [
        "fg_hit_rate", "bg_hit_rate", "distance_px", "miou", "dice", "boundary_iou", "mask_precision",
        "mask_recall", "leak_rate", "leak", "accuracy", "macro_accuracy",
        "pointing_game", "energy_in_mask", "best_threshold_iou",
    ]  # fmt: skip
    for title in ("Dice", "boundary IoU", "leak", "energy in mask"):
        assert f" {title} " in done.out
    assert "sparsity" not in pd.read_parquet(folder / "per_image.parquet")


def test_metrics_are_part_of_what_a_run_is(run, monkeypatch: pytest.MonkeyPatch):
    def identity(*overrides: str) -> str:
        return json.loads((run(*overrides, "limit=2").runs[-1] / "metrics.json").read_text())["identity"]

    plain, more = identity(), identity("+metrics.boundary_iou=true")
    other = identity("+metrics.boundary_iou.dilation=0.1")
    assert len({plain, more, other}) == 3
    assert identity("+metrics.boundary_iou.dilation=0.02") == more
    code = Registry.code
    monkeypatch.setattr(Registry, "code", lambda self, node: {} if self is METRICS else code(self, node))
    assert identity() != plain, "its code was edited"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+metrics.dise=true", "metrics.dise is not a metric; did you mean 'dice'"),
        ("+metrics.dice.width=3", "metrics.dice.width is not a parameter"),
        ("metrics.pointing_game.tolerance=-1", "metrics.pointing_game.tolerance=-1: "),
        ("metrics.miou=false", "metrics.miou is off, but runs are compared by it: leave it on"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(run, override: str, message: str):
    done = run(override)
    assert done.code == 1
    (line,) = done.err.strip().splitlines()
    assert line.startswith(f"gradsam_exp: {message}")
