"""The program's start reads no more than it needs, its end leaves nothing undone, and changes are coped with."""

from __future__ import annotations

import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

from gradsam_exp.app.startup import compose_once, leave, share_store

ROOT = Path(__file__).parents[2]

ENDING = """
import atexit, sys, threading, time
from gradsam_exp.app.startup import leave
atexit.register(print, "registered")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
sys.stdout.write("main ")
"""
CHANGED = "del atexit._run_exitfuncs\n"  # of a Python to come


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["", CHANGED])
def test_threads_and_exit_functions_come_to_their_end(changed: str):
    command = [sys.executable, "-c", f"{ENDING}{changed}leave(3)"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "main thread\nregistered\n", "")


def test_whoever_runs_the_program_from_inside_goes_on():
    with pytest.raises(SystemExit) as end:
        leave(3)
    assert end.value.code == 3


@pytest.fixture
def own_store(monkeypatch: pytest.MonkeyPatch) -> type[ConfigStore]:
    """Hydra's class of stores, as if nothing of ours had touched it; what a test changes is put back."""
    monkeypatch.setattr(ConfigStore, "__deepcopy__", None, raising=False)
    del ConfigStore.__deepcopy__
    return ConfigStore


def test_the_store_of_schemas_is_copied_once(own_store: type[ConfigStore]):
    store = own_store.instance()
    share_store()
    assert deepcopy(store) is store


def test_a_hydra_that_copies_its_store_otherwise_is_left_alone(own_store: type[ConfigStore]):
    own_store.__deepcopy__ = lambda self, memo: "theirs"
    share_store()
    assert deepcopy(own_store.instance()) == "theirs"


class Loader:
    """Stands for Hydra's config loader; counts what it composes."""

    def __init__(self) -> None:
        self.composed: list[list[str]] = []

    def load_sweep_config(self, master_config: object, sweep_overrides: list[str]) -> list[str]:
        self.composed.append(list(sweep_overrides))
        return self.composed[-1]


JOBS = [["grid_offset=1"], ["grid_offset=2"]]
SEQUENTIAL = OmegaConf.create({"hydra": {"launcher": {"_target_": "hydra._internal.BasicLauncher"}}})
PARALLEL = OmegaConf.create({"hydra": {"launcher": {"_target_": "hydra_plugins.JoblibLauncher"}}})


@pytest.mark.parametrize(("config", "often"), [(SEQUENTIAL, 1), (PARALLEL, 2)])
def test_a_sweeps_configurations_are_composed_once_where_its_jobs_run_here(config: DictConfig, often: int):
    compose_once()
    loader = Loader()
    sweeper = SimpleNamespace(hydra_context=SimpleNamespace(config_loader=loader), config=config)
    Sweeper.validate_batch_is_legal(sweeper, JOBS)
    assert loader.composed == JOBS, "all are checked before the first starts"
    assert [loader.load_sweep_config(config, job) for job in JOBS] == JOBS
    assert len(loader.composed) == often * len(JOBS)
    loader.load_sweep_config(master_config=config, sweep_overrides=JOBS[0])
    assert len(loader.composed) == often * len(JOBS) + 1, "what was used is forgotten"


def test_a_hydra_that_keeps_its_loader_elsewhere_composes_as_it_likes():
    compose_once()
    loader = Loader()
    sweeper = SimpleNamespace(config_loader=loader, config=SEQUENTIAL)
    Sweeper.validate_batch_is_legal(sweeper, JOBS)
    assert [loader.load_sweep_config(SEQUENTIAL, job) for job in JOBS] == JOBS
    assert loader.composed == JOBS + JOBS


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["bg_treshold=0.2"], ["--version"]])
def test_what_needs_no_experiment_reads_none_of_the_heavy_packages(arguments: list[str]):
    """They take seconds: a package that is read on top of one of our modules would slow all of these down."""
    command = [sys.executable, "-X", "importtime", "run.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    read = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert {"hydra", "gradsam_exp"} <= read
    heavy = {"torch", "torchvision", "torchmetrics", "pytorch_lightning", "numpy", "pandas", "scipy", "wandb",
             "matplotlib", "plotly", "rich", "pydantic", "skimage", "sklearn", "segment_anything"}  # fmt: skip
    assert not read & heavy
