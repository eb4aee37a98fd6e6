"""A configuration calls nothing but the plugins of Hydra that are on the list."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    [
        "+hydra.callbacks.evil={_target_: gradsam_exp.app.callbacks.sys.exit, _args_: [0]}",
        "+hydra.callbacks.evil={_target_: pathlib.Path, _args_: [/tmp]}",
        "+hydra.callbacks.sweep_summary.deeper=[{_target_: builtins.print}]",
        "hydra.callbacks.sweep_summary._target_=logging.shutdown",
        "+hydra.launcher.deeper={_target_: builtins.print}",
        "hydra.sweeper._target_=hydra_plugins.gradsam_exp_sweeper.Plugins.instance",
    ],
)
def test_nothing_else_is_called(run, place: str, capsys: pytest.CaptureFixture[str]):
    done = run("-m", "limit=4", "pipeline=fg,argmax", place)
    assert done.code == 1
    assert "is none of the launchers, sweepers, samplers and callbacks" in done.err
    assert done.err.count("\n") == 1
    assert not list(done.folder.rglob("run.log"))


@pytest.mark.slow
@pytest.mark.parametrize("group", ["data", "model", "pipeline", "sam", "explainer", "task", "store", "selector"])
def test_groups_of_our_own_call_nothing(run, group: str, tmp_path: Path):
    done = run("limit=4", f"+{group}._target_=pathlib.Path.touch", f"+{group}.self={tmp_path / 'ran'}")
    assert done.code == 1
    assert "is not a parameter" in done.err or "is not a configuration key" in done.err
    assert not (tmp_path / "ran").exists()
