"""A strategy in a package of its own works as soon as it is installed, and is in nobody's way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults.counts import only_soaking
from tests.packaging.conftest import ROOT, Environment
from tests.packaging.test_wheel import FOUR_IMAGES

pytestmark = pytest.mark.slow


def test_its_strategy_is_listed_and_runs(environment: Environment, plugin: Path, tmp_path: Path):
    pipelines = [
        line
        for line in environment.run("gradsam-exp", "--help", cwd=tmp_path, path=plugin).stdout.splitlines()
        if line.startswith("pipeline: ")
    ]
    assert "spread" in pipelines[0].split(", ")
    environment.run("gradsam-exp", *FOUR_IMAGES, "pipeline=spread", "pipeline.points=2", cwd=tmp_path, path=plugin)
    (run,) = (tmp_path / "outputs" / "evaluate").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    assert metrics["miou"]["n"] == 4
    assert metrics["miou"]["mean"] > 0.5


@only_soaking
def test_its_knobs_are_checked_and_it_is_swept_in_other_processes(
    environment: Environment, plugin: Path, tmp_path: Path
):
    done = environment.run(
        "gradsam-exp", *FOUR_IMAGES, "pipeline=spread", "pipeline.points=0", cwd=tmp_path, path=plugin, check=False
    )
    assert (done.returncode, done.stderr) == (
        1, "gradsam_exp: pipeline.points=0: input should be greater than or equal to 1\n",
    )  # fmt: skip
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="NOT TESTED: needs the extra sweep")
    parallel = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "pipeline=spread,fg", *FOUR_IMAGES]
    done = environment.run("gradsam-exp", *parallel, cwd=tmp_path, path=plugin)
    assert "2 of 2 done" in done.stdout


@only_soaking
def test_its_own_test_passes(environment: Environment, plugin: Path, tmp_path: Path):
    pytest_of = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = environment.run(*pytest_of, str(ROOT / "examples/plugin/tests"), cwd=tmp_path, path=plugin)
    assert "2 passed" in done.stdout


def test_without_it_its_name_is_not_known(environment: Environment, tmp_path: Path):
    done = environment.run("gradsam-exp", "pipeline=spread", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "pipeline='spread' is not known" in done.stderr
