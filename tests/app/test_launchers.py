"""The presets reach the plugins, the jobs are counted, and the processes share the cores."""

from __future__ import annotations

import os

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from gradsam_exp.app.composing import HYDRA, prepare_hydra
from gradsam_exp.app.launchers import THREADS, join_cluster, number_of_jobs, share_cores, threads_of_a_job
from gradsam_exp.runs.varied import varied_keys
from hydra_plugins.gradsam_exp_sweeper import Grids


def composed(*overrides: str, with_hydra: bool = True) -> DictConfig:
    """The configuration as Hydra has it, its own part included."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(prepare_hydra()), version_base=HYDRA):
        return compose("config", list(overrides), return_hydra_config=with_hydra)


@pytest.mark.parametrize(
    ("varied", "jobs"),
    [
        ([], 1),
        (["pipeline=fg,fgbg", "bg_threshold=0.1,0.2,0.3", "limit=8"], 6),
        (["grid_size=range(1,8,2)", "pipeline=choice(fg,fgbg)"], 8),
        (["explainer.target_layers=[layer2.-1],[layer3.-1]"], 2),
        (["pipeline=glob(*)"], None),
    ],
)
def test_jobs_of_a_sweep_are_counted(varied: list[str], jobs: int | None):
    config = composed()
    config.hydra.overrides.task = varied
    assert number_of_jobs(config) == jobs
    assert number_of_jobs(composed("experiment=table1")) == 2


def test_the_command_line_has_the_last_word_about_what_is_varied():
    config = composed("experiment=table1")
    for given, jobs in (("pipeline=fg,fgbg,box", 3), ("pipeline=fg", 1)):
        config.hydra.overrides.task = ["experiment=table1", given]
        assert number_of_jobs(config) == jobs


GRIDS = (
    "hydra/sweeper=grids",
    "+hydra.sweeper.grids.one={pipeline:'fg,box',sam:compact}",
    "+hydra.sweeper.grids.two={pipeline:box,sam:grabcut,fg_threshold:'0.1,0.2'}",
)


def test_every_combination_of_each_of_several_grids():
    sweeper = composed(*GRIDS).hydra.sweeper
    assert Grids(dict(sweeper.grids), dict(sweeper.params)).jobs(["split=val"]) == [
        ["pipeline=fg", "sam=compact", "split=val"],
        ["pipeline=box", "sam=compact", "split=val"],
        ["pipeline=box", "sam=grabcut", "fg_threshold=0.1", "split=val"],
        ["pipeline=box", "sam=grabcut", "fg_threshold=0.2", "split=val"],
    ]
    given = Grids(dict(sweeper.grids), {"seed": "0,1"}).jobs(["fg_threshold=0.3", "pipeline=mask"])
    assert given == [
        ["pipeline=mask", "sam=compact", "seed=0", "fg_threshold=0.3"],
        ["pipeline=mask", "sam=compact", "seed=1", "fg_threshold=0.3"],
        ["pipeline=mask", "sam=grabcut", "fg_threshold=0.3", "seed=0"],
        ["pipeline=mask", "sam=grabcut", "fg_threshold=0.3", "seed=1"],
    ], "the command line has the last word"
    with pytest.raises(HydraException, match=r"fg_threshold=interval\(0,1\): .* tries lists of values only"):
        Grids(dict(sweeper.grids), {}).jobs(["fg_threshold=interval(0,1)"])


def test_the_command_line_does_not_change_what_a_grid_fixes():
    grids = {
        "network": {"pipeline": "fg,box", "sam": "compact"},
        "none": {"pipeline": "threshold", "sam!": "none"},
    }
    assert Grids(grids, {"data": "shapes"}).jobs(["sam=vit_b,vit_l"]) == [
        ["pipeline=fg", "sam=vit_b", "data=shapes"],
        ["pipeline=fg", "sam=vit_l", "data=shapes"],
        ["pipeline=box", "sam=vit_b", "data=shapes"],
        ["pipeline=box", "sam=vit_l", "data=shapes"],
        ["pipeline=threshold", "data=shapes", "sam=none"],
    ]
    config = composed("experiment=published")
    tiers, strategies, everything, without = 4, 26, 3, 2 + 1 + 2
    assert number_of_jobs(config) == tiers * (2 * (strategies + everything) + without)
    assert {"sam", "data.difficulty", "pipeline", "refine"} <= set(varied_keys(config))
    config.hydra.overrides.task = ["experiment=published", "sam=vit_b"]
    assert number_of_jobs(config) == tiers * (strategies + everything + without)


def test_jobs_and_keys_of_several_grids_are_counted():
    config = composed(*GRIDS)
    assert number_of_jobs(config) == 4
    assert varied_keys(config) == ("pipeline", "sam", "fg_threshold")
    config.hydra.overrides.task = ["seed=0,1", "pipeline=mask"]
    assert number_of_jobs(config) == 2 + 4


@pytest.mark.parametrize(
    ("launcher", "jobs", "threads"),
    [
        ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, 20, None),
        ({"_target_": "x.JoblibLauncher", "n_jobs": -1}, 20, 1),
        ({"_target_": "x.JoblibLauncher", "n_jobs": -1}, 3, 5),
        ({"_target_": "x.JoblibLauncher", "n_jobs": -1}, None, 1),
        ({"_target_": "x.JoblibLauncher", "n_jobs": 4}, 20, 4),
        ({"_target_": "x.JoblibLauncher", "n_jobs": 64}, 20, 1),
        ({"_target_": "x.LocalLauncher", "cpus_per_task": None}, 8, 2),
        ({"_target_": "x.LocalLauncher", "cpus_per_task": 3}, 8, 3),
        ({"_target_": "x.SlurmLauncher", "cpus_per_task": 4}, 800, 4),
        ({"_target_": "x.SlurmLauncher", "cpus_per_task": None}, 800, None),
        ({"_target_": "x.RayLauncher"}, 800, 1),
    ],
)
def test_jobs_that_run_at_once_share_the_cores(launcher: dict, jobs: int | None, threads: int | None):
    assert threads_of_a_job(OmegaConf.create(launcher), jobs, cores=16) == threads


def test_presets_change_the_plugins_defaults_and_keep_the_others():
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="NOT TESTED: needs pip install -e '.[sweep]'")
    sweeper = composed("hydra/sweeper=optuna", "seed=3").hydra.sweeper
    assert (sweeper.direction, sweeper.storage, sweeper.sampler.seed) == ("maximize", None, 3)
    assert sweeper.sampler.n_startup_trials == 10
    assert (
        composed("hydra/sweeper=optuna", "hydra.sweeper.direction=minimize").hydra.sweeper.direction == "minimize"
    )


def test_a_searchs_jobs_share_the_cores_among_those_that_run_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(THREADS, "1")  # so that it is put back
    monkeypatch.delenv(THREADS)
    monkeypatch.setattr("gradsam_exp.app.launchers.available_cores", lambda: 16)
    launcher = {"_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher", "n_jobs": -1}
    share_cores(OmegaConf.create({"hydra": {"launcher": launcher, "sweeper": {"n_trials": 20, "n_jobs": 4}}}))
    assert os.environ[THREADS] == "4"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"address": "auto"}, {"address": "auto", "object_store_memory": None}),
        ({"address": "auto", "object_store_memory": 7}, {"address": "auto", "object_store_memory": 7}),
        ({"address": None}, {"address": None}),
    ],
)
def test_a_ray_cluster_that_runs_already_keeps_its_object_store(given: dict, expected: dict):
    """Ray's own refuses any size then; what a person gives is theirs to be refused."""
    config = OmegaConf.create({"hydra": {"launcher": {"ray": {"init": given}}}})
    OmegaConf.set_struct(config, True)
    join_cluster(config)
    assert OmegaConf.to_container(config.hydra.launcher.ray.init) == expected
    other = OmegaConf.create({"hydra": {"launcher": {"n_jobs": 1}}})
    join_cluster(other)
    assert other.hydra.launcher == {"n_jobs": 1}
