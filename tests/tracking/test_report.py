"""The workspace view and the report of a sweep: right without the service, uploaded with a key."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from gradsam_exp.runs.summary import MetricFacts
from tests.tracking.conftest import inspect, offline_runs, records
from tests.tracking.server import Server, closed_port

report = pytest.importorskip("gradsam_exp.tracking.report")
pytestmark = pytest.mark.slow

MIOU = {"miou": MetricFacts("iou", "mIoU", higher_is_better=True, group="masks")}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the sweep is, once it was made."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def sweep(run, kept: Path):
    """A sweep's folder: numbers and choices were varied."""
    if made := next(kept.glob("*/"), None):
        return made
    done = run("-m", "pipeline=fgbg", "grid_offset=1,2", "pipeline.tie=first,median", "logger=wandb")
    assert done.code == 0, done.err
    folder = done.runs[0].parent
    said = [line for line in done.out.splitlines() if "wandb sync" in line]
    assert said == [f"W&B: wandb sync {folder}/*/wandb/offline-run-*"], "one line for all"
    return Path(shutil.copytree(folder, kept / folder.name, symlinks=True))


def panels(spec: dict) -> list[dict]:
    """All of a view's."""
    found = []

    def walk(node: object) -> None:
        if isinstance(node, dict):
            if "viewType" in node:
                found.append(node)
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(spec)
    return found


def test_every_panel_shows_what_the_runs_have(run, sweep: Path):
    done = run("task=wandb_report", f"sweep={sweep}", "logger=wandb", defaults=False)
    assert done.code == 0, done.err
    assert "not uploaded" in done.out
    runs = [inspect(path) for path in offline_runs(sweep)]
    assert len(runs) == 4
    (group,) = {records(path, "run")[0]["run_group"] for path in offline_runs(sweep)}
    for name in ("wandb_workspace.json", "wandb_report.json"):
        spec = json.loads((sweep / name).read_text())
        text = json.dumps(spec)
        for key in set(re.findall(r"config:(\w+)\.value", text)) | {"pipeline_tie"}:
            assert len({found["config"][key] for found in runs}) > 1, key
        for metric in re.findall(r'summary:(\w+)"', text):
            assert all(metric in found["summary"] for found in runs)
        assert json.dumps({"key": {"section": "run", "name": "group"}, "op": "=", "value": group})[:-1] in text
        shown = {panel["viewType"]: panel["config"] for panel in panels(spec)}
        axes = [column["accessor"] for column in shown["Parallel Coordinates Plot"]["columns"]]
        assert axes[:2] == ["config:grid_offset.value", "config:pipeline_tie.value"]
        assert axes[-1] == "summary:miou"
        assert {"summary:distance_px"} == {
            c["accessor"] for c in shown["Parallel Coordinates Plot"]["columns"] if c.get("inverted")
        }
        assert shown["Scatter Plot"]["xAxis"] == "config:grid_offset.value"
        assert shown["Scatter Plot"]["yAxis"] == "summary:miou"
        grouped = {p["config"].get("groupBy") for p in panels(spec) if p["viewType"] == "Bar Chart"}
        assert "pipeline_tie.value" in grouped
        assert shown["Media Browser"]["mediaKeys"] == ["worst"]
        assert '"examples"' in json.dumps(shown["Weave"])
    assert all("examples" in found["summary"] and found["summary"]["worst"]["count"] == 3 for found in runs)


def test_the_report_has_the_paired_table(run, sweep: Path):
    run("task=wandb_report", f"sweep={sweep}", "logger=wandb", defaults=False)
    spec = json.loads((sweep / "wandb_report.json").read_text())
    effects, tables = (block["content"] for block in spec["blocks"] if block["type"] == "markdown-block")
    assert tables == (sweep / "sweep.md").read_text()
    assert "wins / ties / losses" in tables
    assert effects.strip() in tables
    assert "grid_offset" in effects


def test_with_a_key_both_are_uploaded(run, sweep: Path, server: Server):
    done = run("task=wandb_report", f"sweep={sweep}", "logger=wandb", defaults=False)
    assert done.code == 0, done.err
    titles = {view["displayName"] for view in server.views}
    assert titles == {f"sweep {sweep.name}", f"Sweep {sweep.name}"}
    assert {view["entityName"] for view in server.views if "entityName" in view} == {"me"}
    assert done.out.count(f"W&B: {server.url}") == 2


def test_a_dead_server_costs_a_warning(run, sweep: Path, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", closed_port())
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    done = run("task=wandb_report", f"sweep={sweep}", "logger=wandb", defaults=False)
    assert done.code == 0, done.err
    assert "cannot be reached; the files are written" in done.err
    assert (sweep / "wandb_report.json").is_file()


def test_what_is_no_sweep_is_refused(run, tmp_path: Path):
    for given, said in ((["sweep=/nowhere"], "holds no sweep.md"), ([], "sweep=outputs/evaluate/DATE_TIME")):
        done = run("task=wandb_report", *given, "logger=wandb", defaults=False)
        assert done.code == 1
        assert said in done.err
        assert done.err.count("\n") == 1


def test_an_upper_bound_is_not_the_best():
    means = [{"miou": 0.8}, {"miou": 0.95}, {"miou": 0.9}]
    knobs = {"pipeline": ["fg", "oracle", "fgbg"], "pipeline_tie": [None, "x", "first"]}
    facts = report.SweepFacts("s", "s pipeline", knobs, MIOU, means, [False, True, False], "", "", "")
    assert facts.best == 2
    best, _, bounds = report.findings(facts)
    assert best == "Best mIoU 0.900: pipeline=fgbg, pipeline_tie=first."
    assert bounds == "1 of them look at the truth: upper bounds, no choice."
    alone = report.SweepFacts("s", "s", {}, MIOU, means[1:2], [True], "", "", "")
    assert (alone.best, report.findings(alone)) == (None, [bounds])


def test_what_nobody_varied_has_no_panel(run):
    done = run("-m", "pipeline=fg,fgbg,oracle", "bg_threshold=0.2", "logger=none")
    assert done.code == 0, done.err
    folder = done.runs[0].parent
    facts = report.read_sweep(folder)
    assert list(facts.knobs) == ["pipeline"], "bg_threshold and tie are of fgbg alone"
    assert facts.bounds == (False, False, True)
    assert facts.about.startswith("test · 8 images · shapes, mixed · gradcam · resnet18 · compact")
    (folder / "1" / "metrics.json").write_text("{")
    assert len(report.read_sweep(folder).means) == 2, "a damaged run is left out"
