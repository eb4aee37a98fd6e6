"""A signal that ends the program is taken as Ctrl-C is, and nothing works on for a program that was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gradsam_exp.app.ending import Terminated, ending_in_order, first_finishing
from gradsam_exp.prompts.background import ForegroundBackground
from gradsam_exp.training.fitting import build_trainer, fit
from tests import preloaded
from tests.e2e.conftest import ROOT
from tests.tracking.conftest import inspect, offline_runs

SWEEP = ("-m", "limit=4", "pipeline=fgbg", "bg_threshold=0.1,0.2")


@pytest.fixture(autouse=True)
def as_at_a_terminal() -> Iterator[None]:
    """Where tests run in the background, a shell has these signals ignored."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def sent_in_job(number: int, sent: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Send this process a signal while the job of this number (from 0) prompts; counts jobs."""
    jobs: list[int] = []
    propose = ForegroundBackground.propose

    def sending(self, ctx):
        jobs.append(1)
        if len(jobs) == number + 1:
            signal.raise_signal(sent)
        return propose(self, ctx)

    monkeypatch.setattr(ForegroundBackground, "propose", sending)
    return jobs


def test_a_signal_ends_a_sweep_in_order_and_resume_goes_on(run, monkeypatch: pytest.MonkeyPatch):
    jobs = sent_in_job(1, signal.SIGTERM, monkeypatch)
    done = run(*SWEEP)
    assert done.code == 143
    assert done.err.strip() == (
        "gradsam_exp: ended by SIGTERM; what was finished is kept: the same command with resume=true goes on"
    )
    (path,) = done.folder.rglob("sweep.csv")
    assert pd.read_csv(path)["status"].tolist() == ["finished", "interrupted"]
    assert path.with_name("report.html").is_file()
    assert not (path.parent / ".running").exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    again = run(*SWEEP, "resume=true")
    assert again.code == 0, again.err
    assert len(jobs) == 3, "the finished one is not made again"
    assert pd.read_csv(max(again.folder.rglob("sweep.csv")))["status"].tolist() == ["finished"] * 2


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_single_run_says_how_to_go_on(run, monkeypatch: pytest.MonkeyPatch, name: str):
    sent_in_job(0, getattr(signal, name), monkeypatch)
    done = run("limit=4", "pipeline=fgbg")
    assert done.code == 128 + getattr(signal, name)
    assert done.err.strip() == (
        f"gradsam_exp: ended by {name}; what was finished is kept: "
        "the same command goes on with what is in the store"
    )
    assert json.loads((done.runs[0] / "metrics.json").read_text())["status"] == "interrupted"


def test_a_signal_that_comes_while_the_table_is_written_waits_for_it(run, monkeypatch: pytest.MonkeyPatch):
    from gradsam_exp.reports import sweep

    collect = sweep.collect_runs

    def sending(runs):
        signal.raise_signal(signal.SIGTERM)
        return collect(runs)

    monkeypatch.setattr(sweep, "collect_runs", sending)
    done = run("-m", "limit=4", "pipeline=fg,argmax")
    assert done.code == 143
    (path,) = done.folder.rglob("sweep.csv")
    assert pd.read_csv(path)["status"].tolist() == ["finished", "finished"]
    assert path.with_name("report.html").is_file()


def test_a_signal_that_is_ignored_stays_so_and_a_second_one_changes_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with ending_in_order():
            signal.raise_signal(signal.SIGHUP)
            with pytest.raises(Terminated):
                signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_is_not_to_be_interrupted_comes_to_its_end_first():
    ended = []

    def work() -> None:
        with first_finishing():
            signal.raise_signal(signal.SIGTERM)
            ended.append(True)

    with ending_in_order(), pytest.raises(Terminated):
        work()
    assert ended == [True]


@pytest.mark.slow
def test_wandb_is_closed(run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "gradsam_exp.tracking.evaluation.log_metrics", lambda *_: signal.raise_signal(signal.SIGTERM)
    )
    done = run("limit=4", "logger=wandb", "logger.images=0")
    assert done.code == 143
    (offline,) = offline_runs(done.folder)
    assert inspect(offline)["state"] in {"failed", "crashed", "finished"}


class Sending(pl.LightningModule):
    """Sends the process a signal in its third epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        if self.current_epoch == 2:
            signal.raise_signal(signal.SIGTERM)
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_training_is_ended_and_says_how_to_go_on(tmp_path: Path):
    said: list[str] = []
    (tmp_path / "last.ckpt").write_text("kept")
    given = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = build_trainer(given, max_epochs=5, enable_model_summary=False)
    batches = DataLoader(torch.ones(4, 1))
    with ending_in_order():
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.raises(Terminated):
            fit(trainer, Sending(), resume=None, last=tmp_path / "last.ckpt", say=said.append,
                train_dataloaders=batches)  # fmt: skip
        assert signal.getsignal(signal.SIGTERM) == handler
    assert said == [f"go on with the same command and task.resume={tmp_path / 'last.ckpt'}"]
    assert trainer.current_epoch == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def started(*arguments: str) -> subprocess.Popen[str]:
    """``python …`` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def waited_for(true: Callable[[], object], seconds: float) -> bool:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not (found := bool(true())) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


LEADING = """
import subprocess, sys
from gradsam_exp.app.ending import leading
with leading():
    subprocess.Popen([sys.executable, "-c", sys.argv[1]]).wait()
"""
STARTING = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', {0!r}]).wait()"
LED = """
import time
from gradsam_exp.app.ending import end_with_leader
end_with_leader()
print("ready", flush=True)
time.sleep(60)
"""


@contextmanager
def killed_when_ready(*arguments: str) -> Iterator[list[psutil.Process]]:
    """Kill a Python process that has said ``ready``; gives the processes that it had started."""
    leader = started(*arguments)
    assert leader.stdout is not None
    assert leader.stdout.readline() == "ready\n"
    family = psutil.Process(leader.pid).children(recursive=True)
    leader.kill()
    yield family
    leader.wait()
    leader.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("led", [LED, STARTING.format(LED)], ids=["child", "grandchild"])
def test_processes_end_with_the_one_that_leads_them(led: str):
    with killed_when_ready("-c", LEADING, led) as family:
        assert waited_for(lambda: not family[-1].is_running(), 5)


IDLE = """
import time
from joblib import Parallel, delayed
from omegaconf import OmegaConf
from gradsam_exp.app.ending import leading
from gradsam_exp.app.launchers import end_idle_workers_with_leader
end_idle_workers_with_leader(OmegaConf.create({"hydra": {"launcher": {"_target_": "plugin.JoblibLauncher"}}}))
with leading():
    Parallel(2, backend="loky")(delayed(time.sleep)(0) for _ in range(2))
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_worker_without_a_job_ends_with_the_one_that_leads_it():
    with killed_when_ready("-c", IDLE) as family:
        assert len(family) >= 2
        assert waited_for(lambda: not any(worker.is_running() for worker in family), 5)


@pytest.mark.slow
def test_the_workers_of_a_sweep_that_is_killed_end(tmp_path: Path, random_weights: list[str]):
    given = [
        "-m",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "pipeline=fgbg",
        "logger=none",
        *random_weights,
    ]
    given += ["limit=400", "bg_threshold=range(0.01,0.2,0.01)", f"output_root={tmp_path}"]
    sweep = preloaded.start("run.py", given, tmp_path).process
    try:
        assert waited_for(lambda: list(tmp_path.rglob("run.log")), 120)
        workers = psutil.Process(sweep.pid).children(recursive=True)
        assert len(workers) >= 2
        sweep.kill()
        assert waited_for(lambda: not any(worker.is_running() for worker in workers), 5)
    finally:
        sweep.kill()
        sweep.join()
