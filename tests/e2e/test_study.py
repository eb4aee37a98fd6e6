"""``task=background_points`` leaves runs, tables and figures."""

from __future__ import annotations

import json

import pandas as pd
import pytest


@pytest.mark.slow
def test_the_study_of_background_points(run):
    done = run("task=background_points", "limit=12")
    assert done.code == 0, done.err
    (text,) = done.folder.rglob("study.md")
    folder = text.parent
    runs = pd.read_csv(folder / "runs.csv").set_index("run")
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
    assert "| fgbg |" in done.out
    assert "| fgbg-oracle* |" in done.out
    assert json.loads((folder / "metrics.json").read_text())["status"] == "finished"


def test_the_study_needs_true_masks(run, tmp_path):
    from PIL import Image

    from gradsam_exp.data.shapes import SHAPES

    for name in SHAPES:
        (tmp_path / "data" / "images" / name).mkdir(parents=True)
        for k in range(30):
            Image.new("RGB", (40, 30)).save(tmp_path / "data" / "images" / name / f"{k}.png")
    done = run("task=background_points", "data=folder", f"data.root={tmp_path / 'data'}")
    assert done.code == 1
    assert "looks at the true masks, but the data set has none" in done.err
