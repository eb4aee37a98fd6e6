"""``python -m studies.background_points`` leaves runs, tables and figures."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from gradsam_exp.data.shapes import SHAPES, Shapes
from gradsam_exp.data.synthetic_shapes import SyntheticShapes
from gradsam_exp.runs.finding import find_runs
from studies.background_points.__main__ import main
from studies.background_points.study import compose, facts_and_truth, variants


@pytest.mark.slow
def test_the_study_of_background_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([f"output_root={tmp_path}", "limit=12"]) == 0
    out = capsys.readouterr().out
    (text,) = (tmp_path / "background_points").rglob("study.md")
    folder = text.parent
    runs = pd.read_csv(folder / "runs.csv").set_index("job")
    for name in ("fg", "fgbg", "ring-8", "fgbg-oracle", "adaptive"):
        metrics = json.loads((folder / "runs" / name / "metrics.json").read_text())
        assert runs["miou"][name] == pytest.approx(metrics["metrics"]["miou"]["mean"])
    assert json.loads((folder / "runs" / "fgbg-oracle" / "metrics.json").read_text())["upper_bound"]
    one, other = (pd.read_parquet(folder / "runs" / name / "per_image.parquet")["iou"] for name in ("fgbg", "fg"))
    assert runs["delta_miou"]["fgbg"] == pytest.approx((one - other).mean())
    assert {path.name for path in (folder / "figures").glob("*.png")} == {
        "places.png", "change.png", "counts.png", "quartiles.png",
    }  # fmt: skip
    assert "opacity" in set(pd.read_csv(folder / "quartiles.csv")["fact"])
    assert "| fgbg |" in out
    assert "| fgbg-oracle* |" in out
    assert {run.folder.name for run in find_runs(str(folder / "runs"))} == set(runs.index), (
        "any report can read them"
    )


def test_the_study_needs_true_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in SHAPES:
        (tmp_path / "data" / "images" / name).mkdir(parents=True)
        for k in range(30):
            Image.new("RGB", (40, 30)).save(tmp_path / "data" / "images" / name / f"{k}.png")
    assert main([f"output_root={tmp_path}", "data=folder", f"data.root={tmp_path / 'data'}"]) == 1
    assert "looks at the true masks, but the data set has none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("pipeline=box", "pipeline: the study chooses it itself"),
        ("selector.weight=1", "selector.weight: the study chooses it itself"),
        ("bg_treshold=0.2", "'bg_treshold' is not a configuration key; did you mean 'bg_threshold'?"),
        ("bg_threshold=otsu", "bg_threshold='otsu': the study doubles thresholds, give a number"),
        ("bg_threshold=2", "bg_threshold=2.0: must lie between 0 and 1"),
    ],
)
def test_wrong_overrides_are_refused_in_one_line(
    override: str, answer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([f"output_root={tmp_path}", override]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"gradsam_exp: {answer}")


def test_a_doubled_threshold_stays_below_that_of_the_foreground():
    chosen = variants(compose(["fg_threshold=0.5", "bg_threshold=0.3"]))
    assert chosen["fgbg-threshold-doubled"] == ("pipeline=fgbg", "bg_threshold=0.49")


def test_opacity_is_a_fact_of_drawn_shapes_only(shapes: Shapes, exported: Path):
    facts, truth = facts_and_truth(shapes)
    assert facts["opacity"].tolist() == [shapes.draw(index).opacity for index in range(8)]
    assert facts["area"].tolist() == [mask.sum() for mask in truth.values()]
    from_files, _ = facts_and_truth(SyntheticShapes(split="test", root=exported))
    drawn = facts.drop(columns="opacity").reset_index(drop=True)
    pd.testing.assert_frame_equal(from_files.iloc[:8].reset_index(drop=True), drawn)
