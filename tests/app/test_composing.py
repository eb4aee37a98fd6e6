"""A notebook composes a configuration as the command line does, and runs a task on it."""

from __future__ import annotations

import json
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra

import gradsam_exp as gs
from gradsam_exp.tasks import evaluate


def test_overrides_mean_what_they_mean_on_the_command_line():
    config = gs.compose(["pipeline=fgbg", "bg_threshold=0.2", "limit=4"])
    assert isinstance(config, gs.Config)
    assert (config.limit, config.bg_threshold, config.split) == (4, 0.2, "test")
    assert config.pipeline["name"] == "fgbg"
    assert config.pipeline["bg_threshold"] == 0.2, "interpolations are resolved"
    assert gs.compose() == gs.compose([])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pipeline=fgb", r"^pipeline='fgb' is not known; did you mean 'fgbg'\?"),
        ("bg_treshold=0.2", r"^'bg_treshold' is not a configuration key; did you mean 'bg_threshold'\?"),
        ("limit=many", r"^limit: Value 'many'"),
        ("limit=0", r"^limit=0: must be at least 1"),
        ("model=null", r"^a group cannot be null: leave it out"),
        ("data=folder", r"^data\.root has no default: give data\.root="),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(override: str, message: str):
    with pytest.raises(gs.InputError, match=message) as refused:
        gs.compose([override])
    assert "\n" not in str(refused.value)


def test_another_program_that_uses_hydra_is_left_as_it_was(tmp_path: Path):
    GlobalHydra.instance().clear()
    gs.compose()
    assert not GlobalHydra.instance().is_initialized()
    (tmp_path / "theirs.yaml").write_text("key: value\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        gs.compose(["limit=4"])
        assert hydra.compose("theirs") == {"key": "value"}


def test_an_evaluation_from_a_notebook(tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    overrides = ["limit=4", "logger=none", "task.figures=false", f"store.root={tmp_path / 'store'}"]
    evaluate.run(gs.compose(overrides), gs.Job(run))
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["status"] == "finished"
    assert metrics["metrics"]["miou"]["n"] == 4
