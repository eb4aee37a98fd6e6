"""Whatever the server does, the experiment goes on, its run is whole, and one line says how to upload it later."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest

from gradsam_exp.app import process
from gradsam_exp.tasks import evaluate
from gradsam_exp.tracking import evaluation, upload
from gradsam_exp.tracking.upload import PROBE_S, Uploads, why_not
from tests.faults.counts import only_soaking, soaked
from tests.tracking.conftest import inspect, offline_runs, table
from tests.tracking.server import Server, closed_port

BOUND_S = 60.0  # for everything that W&B is used for, on a slow machine; without limits it would be minutes
KEY = "0" * 40


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each run was busy with W&B."""
    import wandb  # noqa: F401  (importing it takes a second once)

    spent: list[float] = []
    track = evaluate.track_evaluation

    def timed(*given: object, **more: object) -> object:
        start = time.monotonic()
        try:
            return track(*given, **more)
        finally:
            spent.append(time.monotonic() - start)

    monkeypatch.setattr(evaluate, "track_evaluation", timed)
    return spent


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Accepts connections and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def whole(folder: Path, images: int = 8) -> None:
    """The local run is finished, and the offline run beside it says the same."""
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["status"] == "finished"
    assert len(pd.read_parquet(folder / "per_image.parquet")) == images
    (offline,) = offline_runs(folder)
    found = inspect(offline)
    assert found["state"] == "finished"
    assert found["config"]["identity"] == metrics["identity"]
    assert found["summary"]["miou"] == pytest.approx(metrics["metrics"]["miou"]["mean"])
    assert found["summary"]["per_image"]["nrows"] == images
    assert len(table(folder, "per_image")["data"]) == images


def warned(err: str, reason: str, later: str) -> None:
    """Once, with the reason and the command for later."""
    lines = [line for line in err.splitlines() if "W&B" in line]
    assert len(lines) == 1, err
    assert reason in lines[0]
    assert lines[0].endswith(f"upload them later with: wandb sync {later}")


def no_process_is_left(folder: Path) -> None:
    """No upload of this folder, no zombie, and no service of W&B whose owner has gone."""
    deadline = time.monotonic() + 5
    while left := list(_leftovers(str(folder))):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def _leftovers(folder: str) -> Iterator[str]:
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            command = (status.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state == "Z" and int(parent) == os.getpid():
            yield f"zombie {status.parent.name}"
        if "wandb sync" in command and folder in command:
            yield command
        owner = command.partition("--pid ")[2].split(" ")[0]
        if "wandb-core" in command and owner and not Path("/proc", owner).exists():
            yield command


def online(run: Callable, monkeypatch: pytest.MonkeyPatch, address: str, *overrides: str):
    monkeypatch.setenv("WANDB_BASE_URL", address)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    return run("logger=wandb", "logger.upload_seconds=6", *overrides)


@pytest.mark.slow
def test_a_server_that_works_gets_everything(run, server: Server):
    done = run("logger=wandb")
    assert done.code == 0, done.err
    (folder,) = done.runs
    (offline,) = offline_runs(folder)
    assert "W&B" not in done.err
    assert f"W&B: {server.url}" in done.out
    assert server.runs == {offline.name.rpartition("-")[2]}
    assert server.config["pipeline"] == {"value": "fg"}
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert server.summary["miou"] == pytest.approx(metrics["miou"]["mean"])
    assert {made["artifactTypeName"] for made in server.artifacts} == {"run_table", "results"}
    no_process_is_left(folder)


@pytest.mark.slow
@pytest.mark.parametrize("fault", soaked(["refuses", "500"], ["refuses", "hangs", "401", "500"]))
def test_a_server_out_of_order_costs_a_warning(run, monkeypatch, server, hanging, seconds, fault: str):
    server.answer = int(fault) if fault.isdigit() else None
    address = {"refuses": closed_port(), "hangs": hanging}.get(fault, server.url)
    reason = {"refuses": "cannot be reached", "hangs": "does not answer", "401": "the API key (401)"}
    done = online(run, monkeypatch, address)
    assert done.code == 0, done.err
    assert max(seconds) < BOUND_S
    (folder,) = done.runs
    whole(folder)
    warned(done.err, reason.get(fault, "out of order (500)"), str(offline_runs(folder)[0]))
    assert "wandb sync" in (folder / "run.log").read_text()
    no_process_is_left(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "after"), soaked([("hang", 3)], [(500, 1), (500, 5), ("hang", 3), (401, 2)]))
def test_a_server_that_fails_in_the_middle(run, monkeypatch, server, seconds, fault, after: int):
    server.answer, server.after = fault, after
    done = online(run, monkeypatch, server.url)
    assert done.code == 0, done.err
    assert 0 < len(server.seen) <= after, "the upload had begun; a slow one's time is over sooner"
    assert max(seconds) < BOUND_S
    (folder,) = done.runs
    whole(folder)
    (offline,) = offline_runs(folder)
    reason = "failed" if fault == 401 and len(server.seen) == after else ""
    warned(done.err, f"an upload to {server.url} {reason}", str(offline))
    no_process_is_left(folder)
    server.answer = None  # it works again: the command in the warning does what it says
    later = done.err.strip().rpartition("later with: wandb sync ")[2]
    assert later == str(offline)
    assert Uploads().send(evaluation.WandbSettings(), offline, "", wait=True)
    assert "miou" in server.summary


@pytest.mark.slow
@only_soaking
def test_a_sweep_asks_a_dead_server_once(run, monkeypatch, hanging, seconds):
    asked: list[str] = []
    monkeypatch.setattr(upload, "why_not", lambda address, key: asked.append(address) or why_not(address, key))
    monkeypatch.setattr(upload, "_start", lambda *_: pytest.fail("nothing can be uploaded"))
    done = online(run, monkeypatch, hanging, "-m", "pipeline=fg,fgbg,argmax")
    assert done.code == 0, done.err
    assert len(seconds) == 3, "each of the three runs was logged"
    assert asked == [hanging]
    for folder in done.runs:
        whole(folder)
    warned(done.err, "does not answer", f"{done.runs[0].parent}/*/wandb/offline-run-*")


@pytest.mark.slow
def test_a_sweep_uploads_while_it_goes_on(run, server: Server):
    done = run("-m", "pipeline=fg,fgbg,argmax", "logger=wandb")
    process.SESSION.keep("uploads", None, Uploads).finish()  # at the end of a process
    assert done.code == 0, done.err
    assert len(server.runs) == 3
    assert "W&B" not in done.err
    no_process_is_left(done.folder)


@pytest.mark.slow
def test_a_key_is_needed_to_go_online(run):
    done = run("logger=wandb", "logger.mode=online")
    assert done.code == 0, done.err
    warned(done.err, "there is no API key (wandb login)", str(offline_runs(done.folder)[0]))


@pytest.mark.slow
def test_even_without_its_service_the_run_is_whole(run, monkeypatch, seconds):
    """W&B's own process is killed while a run is logged."""
    import wandb

    def killing(*given: object) -> None:
        os.kill(_service(), signal.SIGKILL)
        log_metrics(*given)

    log_metrics = evaluation.log_metrics
    monkeypatch.setattr(evaluation, "log_metrics", killing)
    done = run("logger=wandb")
    assert done.code == 0, done.err
    assert max(seconds) < BOUND_S
    assert json.loads((done.runs[0] / "metrics.json").read_text())["status"] == "finished"
    lines = [line for line in done.err.splitlines() if "W&B" in line]
    assert len(lines) == 1
    assert "the run's own files are whole" in lines[0]
    monkeypatch.undo()
    with suppress(Exception):
        wandb.teardown()  # or later tests would find it dead


def _service() -> int:
    """W&B's process of this one."""
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        if f"--pid\0{os.getpid()}\0" in status.read_text() and "wandb-core" in status.read_text():
            return int(status.parent.name)
    raise LookupError


@pytest.mark.parametrize("address", ["http://no-such-host.invalid", "http://127.0.0.1:1", "nonsense"])
def test_an_address_that_leads_nowhere_is_found_out_in_time(address: str):
    start = time.monotonic()
    assert address in str(why_not(address, KEY))
    assert time.monotonic() - start < PROBE_S + 1


def test_a_server_that_works_is_found(server: Server):
    assert why_not(server.url, KEY) is None
