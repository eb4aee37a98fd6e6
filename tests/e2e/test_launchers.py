"""Sweeps in other processes, and by Optuna: the same results as one after the other, and as robust."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hydra.core.config_store import ConfigStore

from gradsam_exp.app.launchers import PLUGINS
from tests.app.test_launchers import composed
from tests.e2e.conftest import ROOT
from tests.faults.counts import only_soaking
from tests.faults.test_signals import waited_for

pytestmark = pytest.mark.slow
ADDRESS = "hydra.launcher.ray.init.address"
SWEEP = ("pipeline=fg,fgbg", "bg_threshold=0.1,0.9")  # 0 and 1 are the same run, 3 is refused


@dataclass(frozen=True)
class Sweep:
    code: int
    out: str
    err: str
    folder: Path

    @property
    def table(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "sweep.csv")


def installed(choice: str) -> None:
    """Skips the test if the plugin is not installed, and says so in the summary."""
    package, extra = PLUGINS[choice]
    if find_spec("hydra_plugins") is None or find_spec(f"hydra_plugins.{package}") is None:
        pytest.skip(f"NOT TESTED: {choice} needs pip install -e '.[{extra}]'")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, random_weights: list[str]) -> Callable[..., Sweep]:
    """A sweep in fresh processes, with a store of its own."""

    def call(*overrides: str) -> Sweep:
        root = tmp_path_factory.mktemp("sweep")
        done = subprocess.run(
            [sys.executable, "run.py", "-m", *overrides, f"output_root={root}", "limit=8", "logger=none"]
            + random_weights,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            # The number of threads shows in the last bit of a score; each launcher would choose its own.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        (folder,) = (root / "evaluate").iterdir()
        return Sweep(done.returncode, done.stdout, done.stderr, folder)

    return call


@pytest.fixture(scope="module")
def sequential(sweep: Callable[..., Sweep]) -> Sweep:
    return sweep(*SWEEP)


@pytest.mark.parametrize(
    "launcher",
    ["joblib", pytest.param("submitit_local", marks=only_soaking), pytest.param("ray", marks=only_soaking)],
)
def test_a_parallel_sweep_gives_what_a_sequential_one_gives(launcher: str, sweep, sequential: Sweep):
    installed(f"hydra/launcher/{launcher}")
    done = sweep(f"hydra/launcher={launcher}", *SWEEP)
    assert done.code == sequential.code == 1, done.out + done.err
    columns = ["job", "pipeline", "bg_threshold", "status", "same_as", "error", "miou", "miou_low", "delta_miou"]
    pd.testing.assert_frame_equal(done.table[columns], sequential.table[columns], check_exact=True)
    assert done.table["status"].tolist() == ["finished"] * 3 + ["failed"]
    for job in "012":
        for name in ("per_image.parquet", "predictions.parquet", "metrics.json"):
            assert (done.folder / job / name).read_bytes() == (sequential.folder / job / name).read_bytes()
    assert reused(done) == 1, "the same run is made once"
    for stage in ("images", "heatmaps", "embeddings"):
        assert len(list((done.folder.parents[1] / ".store" / stage).glob("*.safetensors"))) == 1
    assert not (done.folder / ".running").exists()
    assert done.out.count("4 of 4 done, 1 failed") == 1
    assert "best so far" in done.out
    assert "95 % interval" not in done.out, "the jobs' own tables would be mixed up"
    for complaint in ("Traceback", "leaked"):  # nanobind's, at the end of a process
        assert complaint not in done.out + done.err


def reused(done: Sweep) -> int:
    return sum("reused_from" in json.loads(p.read_text()) for p in done.folder.glob("[01]/provenance.json"))


@pytest.fixture(scope="module")
def ray_nodes() -> Iterator[tuple[Any, Any]]:
    """A Ray cluster on this machine, and its second node; each node runs one job at a time."""
    installed("hydra/launcher/ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster, second
    cluster.shutdown()


def test_a_sweep_on_two_ray_nodes_gives_what_a_sequential_one_gives(ray_nodes, sweep, sequential: Sweep):
    cluster, _ = ray_nodes
    done = sweep("hydra/launcher=ray", f"{ADDRESS}={cluster.address}", *SWEEP)
    assert done.code == 1, done.out + done.err
    columns = ["job", "pipeline", "bg_threshold", "status", "error", "miou", "miou_low", "delta_miou"]
    pd.testing.assert_frame_equal(done.table[columns], sequential.table[columns], check_exact=True)


def test_a_ray_node_that_dies_does_not_end_the_sweep(ray_nodes, tmp_path: Path, random_weights: list[str]):
    """Ray gives the dead node's job to the other node. The last test of this cluster, which is one node then."""
    cluster, second = ray_nodes
    process = subprocess.Popen(
        [sys.executable, "run.py", "-m", "hydra/launcher=ray", f"{ADDRESS}={cluster.address}", "pipeline=fgbg"]
        + ["bg_threshold=range(0.1,0.7,0.1)", "logger=none", "limit=16", f"output_root={tmp_path}"]
        + random_weights,
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert waited_for(lambda: list(tmp_path.rglob("metrics.json")), 300)
    cluster.remove_node(second, allow_graceful=False)
    out, err = process.communicate(timeout=400)
    (path,) = tmp_path.rglob("sweep.csv")
    statuses = pd.read_csv(path)["status"].tolist()
    assert len(statuses) == 6, out + err
    assert statuses.count("finished") >= 5, "at most the job of the dead node is lost"


@only_soaking
def test_ctrl_c_in_a_parallel_sweep_keeps_what_was_finished(tmp_path: Path, random_weights: list[str]):
    installed("hydra/launcher/joblib")
    process = subprocess.Popen(
        [sys.executable, "run.py", "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "pipeline=fgbg"]
        + ["bg_threshold=range(0.01,0.7,0.01)", "logger=none", "limit=16", f"output_root={tmp_path}"]
        + random_weights,
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  (background jobs ignore it)
    )  # fmt: skip
    assert waited_for(lambda: list(tmp_path.rglob("metrics.json")), 300)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert err.strip().splitlines()[-1] == "gradsam_exp: interrupted; what was finished is kept"
    (path,) = tmp_path.rglob("sweep.csv")
    statuses = pd.read_csv(path)["status"].tolist()
    assert "finished" in statuses
    assert len(statuses) < 69


def test_optuna_looks_for_the_highest_miou(run):
    installed("hydra/sweeper/optuna")
    search = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=5", "split=val", "pipeline=fg,argmax,center",
              "fg_threshold=interval(0.5,0.95)")  # fmt: skip
    done = run(*search)
    assert done.code == 0, done.err
    assert "split" not in done.err
    (path,) = done.folder.rglob("sweep.csv")
    table = pd.read_csv(path)
    assert len(table) == 5
    assert table["fg_threshold"].between(0.5, 0.95).all()
    found = yaml.safe_load((path.parent / "optimization_results.yaml").read_text())
    assert table["miou"].min() < table["miou"].max() == found["best_value"]
    best = table.loc[table["miou"].idxmax()]
    assert best["pipeline"] == found["best_params"]["pipeline"]
    assert "5 of 5 done" in done.out
    run(*search, "hydra.sweeper.n_trials=2")
    again = pd.read_csv(max(done.folder.rglob("sweep.csv")))
    assert again["fg_threshold"].tolist() == table["fg_threshold"][:2].tolist(), "the same seed, the same search"


@only_soaking
def test_a_search_on_test_is_warned_about_and_one_that_finds_nothing_ends_in_one_line(sweep):
    installed("hydra/sweeper/optuna")
    done = sweep("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "pipeline=fgbg",
                 "bg_threshold=interval(0.9,0.95)")  # fmt: skip
    assert done.code == 1
    lines = [line for line in done.err.splitlines() if line.startswith("gradsam_exp: ")]
    assert "choose with split=val" in lines[0]
    assert "the sweep ended early, ValueError: No trials are completed yet." in lines[1]
    assert "Traceback" not in done.out + done.err
    assert "Traceback" in (done.folder / "error.txt").read_text()
    assert done.table["status"].tolist() == ["failed", "failed"]


@pytest.mark.parametrize("choice", PLUGINS)
def test_a_plugin_that_is_not_installed_is_one_line_with_the_mend(run, choice: str, monkeypatch):
    composed()  # the plugins that are there have registered themselves
    group, _, name = choice.rpartition("/")
    kind = ConfigStore.instance().repo["hydra"][group.rpartition("/")[2]]
    monkeypatch.delitem(kind, f"{name}.yaml", raising=False)
    done = run("-m", f"{group}={name}", "pipeline=fg,fgbg")
    assert done.code == 1
    extra = PLUGINS[choice][1]
    assert done.err.strip() == (
        f"gradsam_exp: {group}={name} needs a package that is not installed: pip install -e '.[{extra}]'"
    )


def test_an_unknown_launcher_is_one_line(run):
    done = run("-m", "hydra/launcher=jblib", "pipeline=fg,fgbg")
    assert done.code == 1
    (line,) = done.err.strip().splitlines()
    assert line.startswith("gradsam_exp: hydra/launcher='jblib' is not known")
    assert not done.runs
