"""Runs are found on disk, and say what they varied and how to make them again."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from gradsam_exp.errors import InputError
from gradsam_exp.reports.runs import chosen, command_of, common_folder, config_of, differences, find_runs
from gradsam_exp.reports.sweep import collect_runs
from tests.reports.finished_runs import write_run


def test_a_folder_a_run_and_a_glob_lead_to_runs(tmp_path: Path):
    runs = [write_run(tmp_path / "sweep" / str(k), {"pipeline": "fg"}, [0.5] * 4) for k in (0, 2, 10)]
    failed = write_run(tmp_path / "sweep" / "11", {"pipeline": "no"}, None, error="no")
    (write_run(tmp_path / "sweep" / "12", {}, [0.5] * 4) / "metrics.json").unlink()
    assert find_runs(str(tmp_path)) == [*runs, failed], "in natural order, without what did not end"
    assert find_runs(str(runs[1])) == [runs[1]]
    assert find_runs([f"{tmp_path}/sweep/1*", str(runs[0])]) == [runs[0], runs[2], failed]
    assert common_folder(runs) == (tmp_path / "sweep").resolve()
    with pytest.raises(InputError, match=r"runs=.*nowhere: no finished runs there"):
        find_runs(str(tmp_path / "nowhere"))


def test_the_command_is_quoted_and_an_experiment_is_one_run(tmp_path: Path):
    given = {"explainer.target_layers": "[layer2.-1]", "data.root": "my photos; rm"}
    run = write_run(tmp_path / "0", given, [0.5] * 4)
    command = command_of(run)
    assert shlex.split(command) == ["python", "run.py", *(f"{k}={v}" for k, v in given.items())]
    assert "hydra.mode" not in command
    again = write_run(tmp_path / "1", {"experiment": "table1", "pipeline": "fg"}, [0.5] * 4)
    assert command_of(again).endswith("experiment=table1 pipeline=fg hydra.mode=RUN")


def test_what_a_configuration_says_is_written_as_on_the_command_line():
    config = {"pipeline": {"name": "fg", "n": 4}, "explainer": {"target_layers": ["a", "b"]}, "limit": None}
    keys = ("pipeline", "pipeline.n", "explainer.target_layers", "limit", "pipeline.tie")
    assert [chosen(config, key) for key in keys] == ["fg", "4", "[a,b]", "null", None]


def test_runs_from_anywhere_say_what_only_others_were_given(tmp_path: Path):
    one = write_run(tmp_path / "x" / "0", {"pipeline": "fgbg", "output_root": "here"}, [0.5] * 4)
    other = write_run(
        tmp_path / "y" / "0", {"bg_threshold": "0.2"}, [0.6] * 4, config={"pipeline": {"name": "fg"}}
    )
    table = collect_runs(tmp_path, [one, other])
    assert table["job"].tolist() == ["x/0", "y/0"]
    assert table["pipeline"].tolist() == ["fgbg", "fg"]
    assert table["bg_threshold"].tolist() == ["", "0.2"]
    assert "output_root" not in table


def test_differences_leave_out_what_no_result_depends_on():
    common = {"seed": 0, "device": "cpu"}
    runs = {
        "0": {**common, "pipeline": {"name": "fg"}, "output_root": "a", "store": {"max_gb": 1}},
        "1": {**common, "pipeline": {"name": "fgbg", "n": 4}, "output_root": "b", "store": {"max_gb": 2}},
    }
    assert differences(runs) == {"0": {"pipeline.name": "fg"}, "1": {"pipeline.name": "fgbg", "pipeline.n": "4"}}


def test_a_broken_configuration_is_named(tmp_path: Path):
    run = write_run(tmp_path / "0", {"pipeline": "fg"}, [0.5] * 4)
    (run / ".hydra" / "config.yaml").write_text("a: ${b}")
    with pytest.raises(InputError, match=r"0/\.hydra/config\.yaml cannot be read"):
        config_of(run)
