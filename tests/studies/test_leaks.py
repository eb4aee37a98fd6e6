"""Which leaks are found and what that gains, on tables worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from gradsam_exp.errors import InputError
from studies.leaks.__main__ import main
from studies.leaks.repairs import BOX, FG, RULE, TRUTH, repair_cells, repairs
from tests.reports.finished_runs import write_run

NAN = float("nan")
EXAMPLES = {  # IoU of fg, leak, rounds, IoU of adaptive, with the truth deciding, of the true box
    "a": (0.4, 1.0, 2, 0.8, 0.8, 0.9),
    "b": (0.4, 1.0, 3, 0.3, 0.4, 0.9),
    "c": (0.5, 1.0, 1, 0.5, 0.5, 0.9),
    "d": (0.9, 0.0, 2, 0.6, 0.9, 0.9),
    "e": (0.9, 0.0, 1, 0.9, 0.9, 0.9),
    "f": (NAN, NAN, 2, 0.9, 0.9, 0.9),
}


def tables() -> dict[str, pd.DataFrame]:
    index = pd.Index(EXAMPLES, name="example_id")
    fg, leaks, rounds, rule, truth, box = (
        pd.Series(column, index) for column in zip(*EXAMPLES.values(), strict=True)
    )
    first = pd.DataFrame({"iou": fg, "leak_rate": leaks, "image_id": index, "group": index})
    later = {RULE: rule, TRUTH: truth, BOX: box}
    return {FG: first} | {name: pd.DataFrame({"iou": own, "rounds": rounds}) for name, own in later.items()}


def test_shares_and_gains_are_those_counted_by_hand():
    """Of a to e three leak; a, b and d are asked again, two of which leak."""
    found = repairs(tables())
    shares = {"leaks": 3 / 5, "asked": 3 / 5, "precision": 2 / 3, "recall": 2 / 3}
    gains = {RULE: (0.4 - 0.1 + 0 - 0.3 + 0) / 5, TRUTH: 0.4 / 5, BOX: (0.5 + 0.5 + 0.4) / 5}
    assert {name: own.mean for name, own in found.items()} == pytest.approx(shares | gains)
    assert {name: own.n for name, own in found.items()} == {
        "leaks": 5, "asked": 5, "precision": 3, "recall": 3, RULE: 5, TRUTH: 5, BOX: 5,
    }  # fmt: skip
    assert all(own.ci95[0] <= own.mean <= own.ci95[1] for own in found.values())
    headings, rows = repair_cells({"leaky": found})
    assert headings[-3:] == ["Δ adaptive", "Δ adaptive, decided by the truth", "Δ oracle_box"]
    assert rows[0][:2] == ["leaky", "5"]
    assert rows[0][-2].startswith("+0.080 [")


def test_upper_bounds_may_be_missing_and_nothing_may_leak():
    given = {name: table for name, table in tables().items() if name in (FG, RULE)}
    given[FG] = given[FG].assign(leak_rate=0.0)
    found = repairs(given)
    assert list(found) == ["leaks", "asked", "precision", "recall", RULE]
    assert found["recall"].n == 0
    assert repair_cells({"": found})[1][0][5] == ""


def test_runs_without_leaks_are_refused_by_name():
    given = tables()
    given[FG] = given[FG].drop(columns="leak_rate")
    with pytest.raises(InputError, match="metrics=full"):
        repairs(given)


def test_finished_runs_are_grouped_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pipelines = [{"name": "fg"}, {"name": "adaptive"}, {"name": "adaptive", "decide": "truth"}]
    for sam in ("compact", "compact_drawn"):
        for job, pipeline in enumerate(pipelines):
            own = {"sam": sam, "pipeline": pipeline["name"]}
            own |= {"pipeline.decide": pipeline["decide"]} if "decide" in pipeline else {"metrics": "full"}
            run = write_run(
                tmp_path / "runs" / f"{sam}{job}", own, [0.5, 0.6, 0.7, 0.8 + job / 10],
                config={"pipeline": pipeline, "sam": {"name": sam}},
            )  # fmt: skip
            table = pd.read_parquet(run / "per_image.parquet")
            table.assign(leak_rate=[1.0, 0, 0, 1], rounds=[1, 1, 1, 2]).to_parquet(run / "per_image.parquet")
    assert main([str(tmp_path / "runs"), "--to", str(tmp_path / "to")]) == 0
    assert "| compact_drawn | 4 | 0.50 [" in capsys.readouterr().out
    written = pd.read_csv(tmp_path / "to" / "leaks.csv").set_index(["runs", "what"])["mean"]
    assert written["compact", RULE] == pytest.approx(0.1 / 4)
    assert written["compact", TRUTH] == pytest.approx(0.2 / 4)
    assert written["compact", "recall"] == pytest.approx(0.5)
    assert main([str(tmp_path / "runs" / "compact0"), "--to", str(tmp_path / "to")]) == 1
