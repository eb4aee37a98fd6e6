"""A report of anybody's runs fetches, deletes and computes nothing; what is broken is left out and named."""

from __future__ import annotations

import functools
import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from gradsam_exp.config import Config
from gradsam_exp.digest import digest
from gradsam_exp.engine.session import Job
from gradsam_exp.engine.store import Store
from gradsam_exp.errors import InputError
from gradsam_exp.reports.page import gather
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.sweep import collect_runs
from gradsam_exp.tasks.report import run as report
from tests.reports.finished_runs import IDS, write_run

SECRET = "s3cret-0123456789"


class _Counting(http.server.BaseHTTPRequestHandler):
    def __init__(self, asked: list[str], *arguments: object) -> None:
        self.asked = asked
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A server's address, and what was asked of it."""
    asked: list[str] = []
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Counting, asked))
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_port}", asked
    serving.shutdown()


def keep(store: Path, run: Path, *, places: bool = True) -> list[dict]:
    """Put a run's four images and heatmaps of 6×4 px into a store, and say so in the run."""
    images = torch.arange(4 * 3 * 4 * 6).reshape(4, 3, 4, 6).to(torch.uint8)
    masks = torch.zeros(4, 4, 6, dtype=torch.bool)
    masks[:, 1:3, 2:5] = True
    tensors = {"images": images, "masks": masks, "labels": torch.zeros(4), "image_of": torch.arange(4)}
    Store(store).get("images", digest("i", size=16), lambda: (tensors, IDS))
    Store(store).get("heatmaps", digest("h", size=16), lambda: ({"values": torch.rand(4, 4, 6)}, None))
    stored = {"images": f"images/{digest('i', size=16)}", "heatmaps": f"heatmaps/{digest('h', size=16)}"}
    chunks = [{"example_ids": list(IDS), "stored": stored if places else {}}]
    (run / "prepared.json").write_text(json.dumps({"chunks": chunks}))
    return chunks


def ask(runs: Path, to: Path, **store: object) -> str:
    """The page that ``task=report`` writes."""
    to.mkdir()
    report(Config(runs=str(runs), task={"name": "report"}, store=dict(store)), Job(to))
    return (to / "report.html").read_text()


def test_pictures_come_from_the_readers_store_and_nothing_else_happens(
    tmp_path: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SECRET", SECRET)
    address, asked = server
    theirs = tmp_path / "theirs" / "models"
    theirs.mkdir(parents=True)
    (theirs / "my.safetensors").write_bytes(b"mine")
    os.utime(theirs / "my.safetensors", (1000, 1000))
    config = {
        "data": {"name": "synthetic_shapes", "url": f"{address}/data.zip?k=${{oc.env:SECRET}}", "root": None},
        "sam": {"name": "segment-anything", "url": f"{address}/sam.pth?k=${{oc.env:SECRET}}"},
        "store": {"enabled": True, "root": str(theirs.parent), "max_gb": 1e-9},
        "explainer": {"name": "gradcam"},
    }
    overrides = {"data.url": f"{address}/?k=${{oc.env:SECRET}}"}
    run = write_run(tmp_path / "runs" / "0", overrides, [0.5, 0.6, 0.7, 0.8], config=config)
    other = write_run(tmp_path / "runs" / "1", {"data.url": "x"}, [0.5, 0.6, 0.7, 0.9], config=config)
    keep(tmp_path / "store", run)
    keep(tmp_path / "store", other)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    page = ask(tmp_path / "runs", tmp_path / "report", root=str(tmp_path / "store"), max_gb=1e-9)
    assert page.count("data:image/webp;base64,") == 4 + 4, "each image, and each heatmap of both runs once"
    assert asked == []
    kept = {path: path.stat().st_mtime_ns for path in before if path.exists()}
    assert {path.name: when for path, when in kept.items() if path.is_file()} == {
        path.name: when for path, when in before.items() if path.is_file()
    }
    assert not list((tmp_path / "store").rglob("*.partial"))
    for path in (tmp_path / "report").iterdir():
        assert SECRET.encode() not in path.read_bytes(), path.name
    assert "${oc.env:SECRET}" in page


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ({"root": "elsewhere"}, "the pictures are not in the store"),
        ({"enabled": False}, "there are no pictures: store.enabled=false"),
    ],
)
def test_what_is_not_in_the_store_is_said_with_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: dict[str, object], said: str
):
    monkeypatch.chdir(tmp_path)
    keep(tmp_path / "store", write_run(tmp_path / "runs" / "0", {"pipeline": "fg"}, [0.5] * 4))
    page = ask(tmp_path / "runs", tmp_path / "report", **store)
    assert said in page
    assert "data:image/webp" not in page
    assert not (tmp_path / "elsewhere").exists(), "a report makes no store"
    assert ("this makes them again: python run.py pipeline=fg" in page) == ("root" in store)


def test_a_run_without_a_store_kept_no_pictures(tmp_path: Path):
    run = write_run(tmp_path / "runs" / "0", {"pipeline": "fg"}, [0.5] * 4)
    keep(tmp_path / "store", run, places=False)
    page = ask(tmp_path / "runs", tmp_path / "report", root=str(tmp_path / "store"))
    assert "no pictures were kept (store.enabled=false)" in page


@pytest.mark.parametrize("place", ["images/../../secret", "/etc/passwd", "models/my", "images/" + "0" * 32])
def test_a_place_outside_of_the_store_is_not_read(tmp_path: Path, place: str):
    run = write_run(tmp_path / "runs" / "0", {}, [0.5] * 4)
    keep(tmp_path / "store", run)
    chunks = [{"example_ids": list(IDS), "stored": {"images": place, "heatmaps": place}}]
    (run / "prepared.json").write_text(json.dumps({"chunks": chunks}))
    assert "the pictures are not in the store" in ask(
        tmp_path / "runs", tmp_path / "report", root=str(tmp_path / "store")
    )


def test_pictures_lie_as_the_run_left_them(tmp_path: Path):
    chunks = keep(tmp_path / "store", write_run(tmp_path / "runs" / "0", {}, [0.5] * 4))
    runs = Runs(tmp_path / "runs")
    (images,) = gather(runs, collect_runs(runs), Store(tmp_path / "store"))["sets"]
    assert images["pictures"]["of"] == [0, 1, 2, 3]
    assert images["notes"] == []
    (run,) = (runs[job] for job in runs.jobs)
    mask = run.predictions["mask_rle"].iloc[0]
    assert images["pictures"]["truths"] == [mask] * 4, "the truth is the same rectangle"
    assert run.prepared == chunks
    assert np.asarray(images["pictures"]["sizes"]).tolist() == [[6, 4]] * 4


def test_one_broken_run_of_several_costs_itself_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    broken = {
        "json": lambda run: (run / "metrics.json").write_text("{"),
        "pipe": lambda run: ((run / "per_image.parquet").unlink(), os.mkfifo(run / "per_image.parquet")),
        "folder": lambda run: ((run / "provenance.json").unlink(), (run / "provenance.json").mkdir()),
        "bomb": lambda run: (run / ".hydra" / "config.yaml").write_text("a: &a [1, 1]\nb: [*a, *a]"),
    }
    write_run(tmp_path / "runs" / "0", {"pipeline": "fg"}, [0.5] * 4)
    for name, spoil in broken.items():
        spoil(write_run(tmp_path / "runs" / name, {"pipeline": "fg"}, [0.5] * 4))
    page = ask(tmp_path / "runs", tmp_path / "report", enabled=False)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(broken)
    assert all(sum(f"/{name} is left out: " in line for line in said) == 1 for name in broken)
    assert "python run.py pipeline=fg" in page


def test_predictions_and_places_that_are_broken_cost_pictures_only(tmp_path: Path):
    for k, name in enumerate(("predictions.parquet", "prepared.json")):
        run = write_run(tmp_path / "runs" / str(k), {"pipeline": str(k)}, [0.5 + 0.1 * k] * 4)
        keep(tmp_path / "store", run)
        (run / name).unlink()
        os.mkfifo(run / name)
    page = ask(tmp_path / "runs", tmp_path / "report", root=str(tmp_path / "store"))
    assert "predictions.parquet cannot be read (it is no plain file)" in page
    assert "prepared.json cannot be read (it is no plain file)" in page


def test_a_report_that_is_to_compute_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"^task\.explain is not a parameter"):
        report(Config(runs=str(tmp_path), task={"name": "report", "explain": True}), Job(tmp_path))


def test_runs_that_differ_in_resolved_data_only_are_told_apart(tmp_path: Path):
    same = {"data": {"name": "folder", "root": "${oc.env:PHOTOS}"}}
    runs = [write_run(tmp_path / k, {}, [0.5] * 4, data=k, config=same) for k in "01"]
    assert [Run(run).data_digest for run in runs] == ["0", "1"]
    comparison = Runs(tmp_path)
    assert len(gather(comparison, collect_runs(comparison))["sets"]) == 2
