"""Runs are found on disk, and say what they varied and how to make them again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from gradsam_exp.errors import InputError
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.finding import chosen, differences, find_runs, in_canon, in_common
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.sweep import collect_runs
from tests.reports.finished_runs import write_run


def found(given: str | list[str]) -> list[Path]:
    """The folders of the runs that are found."""
    return [run.folder for run in find_runs(given)]


def test_a_folder_a_run_and_a_glob_lead_to_runs(tmp_path: Path):
    runs = [write_run(tmp_path / "sweep" / str(k), {"pipeline": "fg"}, [0.5] * 4) for k in (0, 2, 10)]
    failed = write_run(tmp_path / "sweep" / "11", {"pipeline": "no"}, None, error="no")
    (write_run(tmp_path / "sweep" / "12", {}, [0.5] * 4) / "metrics.json").unlink()
    assert found(str(tmp_path)) == [*runs, failed], "in natural order, without what did not end"
    assert found(str(runs[1])) == [runs[1]]
    assert found([f"{tmp_path}/sweep/1*", str(runs[0])]) == [runs[0], runs[2], failed]
    assert Runs.from_anywhere(map(Run, runs)).folder == (tmp_path / "sweep").resolve()
    with pytest.raises(InputError, match=r"runs=.*nowhere: no finished runs there"):
        find_runs(str(tmp_path / "nowhere"))


def test_the_command_is_quoted_and_an_experiment_is_one_run(tmp_path: Path):
    given = {"explainer.target_layers": "[layer2.-1]", "data.root": "my photos; rm"}
    run = write_run(tmp_path / "0", given, [0.5] * 4)
    command = Run(run).command
    assert shlex.split(command) == ["python", "run.py", *(f"{k}={v}" for k, v in given.items())]
    assert "hydra.mode" not in command
    again = write_run(tmp_path / "1", {"experiment": "table1", "pipeline": "fg"}, [0.5] * 4)
    assert Run(again).command.endswith("experiment=table1 pipeline=fg hydra.mode=RUN")


def test_what_a_configuration_says_is_written_as_on_the_command_line():
    config = {"pipeline": {"name": "fg", "n": 4}, "explainer": {"target_layers": ["a", "b"]}, "limit": None}
    keys = ("pipeline", "pipeline.n", "explainer.target_layers", "limit", "pipeline.tie")
    assert [chosen(config, key) for key in keys] == ["fg", "4", "[a,b]", "null", None]


def test_runs_from_anywhere_say_what_only_others_were_given(tmp_path: Path):
    one = write_run(tmp_path / "x" / "0", {"pipeline": "fgbg", "output_root": "here"}, [0.5] * 4)
    other = write_run(
        tmp_path / "y" / "0", {"bg_threshold": "0.2"}, [0.6] * 4, config={"pipeline": {"name": "fg"}}
    )
    table = collect_runs(Runs(tmp_path, map(Run, (one, other))))
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
        _ = Run(run).config


def test_the_command_makes_a_run_again_rather_than_taking_it_from_there(tmp_path: Path):
    for k, key in enumerate(("resume", "++resume")):
        run = write_run(tmp_path / str(k), {"pipeline": "fg", key: "True"}, [0.5] * 4)
        assert Run(run).command == "python run.py pipeline=fg"


def test_equal_numbers_are_one_value(tmp_path: Path):
    assert [in_canon(text) for text in ("1.0", "0.10", ".1", "1e-3", "-2.50", "007")] == [
        "1", "0.1", "0.1", "0.001", "-2.5", "7",
    ]  # fmt: skip
    assert [in_canon(text) for text in ("layer2.-1", "", "1.0.0", "nan", "[1.0]")] == [
        "layer2.-1", "", "1.0.0", "nan", "[1.0]",
    ]  # fmt: skip
    for k, (given, resolved) in enumerate((("1", 1.0), ("1.0", 1.0), (None, 1.0), ("2", 2.0))):
        overrides = {} if given is None else {"grid_offset": given}
        write_run(tmp_path / str(k), overrides, [0.5] * 4, config={"grid_offset": resolved})
    table = collect_runs(Runs(tmp_path, find_runs(str(tmp_path))))
    assert table["grid_offset"].tolist() == ["1", "1", "1", "2"]
    assert collect_runs(Runs(tmp_path))["grid_offset"].tolist()[:2] == ["1", "1"], "of a sweep"
    assert differences({str(k): Run(tmp_path / str(k)).config for k in (0, 1)}) == {"0": {}, "1": {}}


def test_an_option_may_have_another_name_than_what_it_configures(tmp_path: Path):
    blend = {"background": {"name": "blend"}, "model": {"backbone": "resnet18"}}
    one = write_run(tmp_path / "0", {"background": "mixed_cifar10", "model": "big"}, [0.5] * 4, config=blend)
    other = write_run(tmp_path / "1", {}, [0.5] * 4, config={**blend, "background": {"name": "mixed"}})
    table = collect_runs(Runs(tmp_path, map(Run, (one, other))))
    assert table["background"].tolist() == ["mixed_cifar10", "mixed"]
    assert table["model"].tolist() == ["big", "resnet18"]


def without(key: str) -> Callable[[Path], None]:
    """Takes a key out of a JSON file."""

    def take(path: Path) -> None:
        content = json.loads(path.read_text())
        del content[key]
        path.write_text(json.dumps(content))

    return take


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("metrics.json", Path.unlink, "metrics.json is missing"),
        ("metrics.json", cut, "metrics.json cannot be read"),
        ("metrics.json", without("identity"), "metrics.json has no identity"),
        ("per_image.parquet", Path.unlink, "per_image.parquet is missing"),
        ("per_image.parquet", cut, "per_image.parquet cannot be read"),
        ("provenance.json", Path.unlink, "provenance.json is missing"),
        ("provenance.json", without("digests"), "provenance.json has no digests"),
        (".hydra/overrides.yaml", lambda path: path.write_text("a: [b"), ".hydra/overrides.yaml cannot be read"),
        (".hydra/overrides.yaml", Path.unlink, ".hydra/overrides.yaml is missing"),
        (".hydra/config.yaml", lambda path: path.write_text("a: ${b}"), ".hydra/config.yaml cannot be read"),
    ],
)
def test_a_damaged_run_costs_itself_and_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: Callable[[Path], object], said: str
):
    whole, broken = (write_run(tmp_path / k, {"pipeline": "fg"}, [0.5] * 4) for k in "01")
    damage(broken / name)
    assert found(str(tmp_path)) == [whole]
    (message,) = caplog.messages
    assert message.startswith(f"{broken} is left out: {said}")
    ended = collect_runs(Runs(tmp_path))  # of a sweep it is a row
    assert ended["status"].tolist()[0] == "finished"
    assert set(ended["status"][1:]) <= {"damaged", "interrupted"}


def test_runs_of_other_tasks_are_passed_over_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    run = write_run(tmp_path / "0", {}, [0.5] * 4)
    explained = write_run(tmp_path / "1", {"task": "explain"}, None, config={"task": {"name": "explain"}})
    (explained / "metrics.json").unlink()
    assert found(str(tmp_path)) == [run]
    assert caplog.messages == []


def test_what_runs_have_in_common_leaves_out_what_differs():
    def config(background: str, **other: str) -> dict[str, object]:
        given = {"split": "val", "model": {"backbone": "resnet18"}, "explainer": {"name": "gradcam"}}
        return {**given, "data": {"name": "shapes", "background": {"name": background}}, **other}

    assert in_common([config("mixed")] * 2, [40, 40]) == "val · 40 images · shapes, mixed · gradcam · resnet18"
    differ = [config("mixed"), config("noise", split="test")]
    assert in_common(differ, [40, 50]) == "shapes · gradcam · resnet18"
    blend = config("blend")
    blend["data"]["background"]["of"] = [{"name": "mixed"}, {"name": "cifar10"}]
    assert in_common([blend], [1]) == "val · 1 images · shapes, mixed+cifar10 · gradcam · resnet18"
