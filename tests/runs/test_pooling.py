"""Runs that differ in a seed are one row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gradsam_exp.reports.tables import as_markdown, varied_columns
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.paired import paired_difference
from gradsam_exp.runs.pooling import pool_runs
from gradsam_exp.runs.summary import summarize


def runs(folder: Path, *jobs: tuple[dict[str, str], list[float], str], backbones: str = "") -> pd.DataFrame:
    """Write the files of finished runs, each with a letter as its backbone; returns the sweep's table."""
    rows = []
    for number, (varied, ious, data) in enumerate(jobs):
        run = folder / str(number)
        run.mkdir()
        images = pd.DataFrame({"example_id": list("abcd"), "class_name": "circle", "iou": ious, "correct": True})
        images.to_parquet(run / "per_image.parquet")
        facts = {"digests": {"data": data}, **({"backbone": backbones[number]} if backbones else {})}
        (run / "provenance.json").write_text(json.dumps(facts))
        mean = sum(ious) / 4
        miou = {"miou": mean, "miou_low": mean, "miou_high": mean, "miou_n": 4}
        rows.append({"job": str(number), **varied, "status": "finished", **miou})
        said = {"miou": {"mean": mean, "ci95": [mean, mean], "n": 4}}
        (run / "metrics.json").write_text(
            json.dumps({"identity": str(run), "status": "finished", "metrics": said})
        )
    return pd.DataFrame(rows)


def test_seeds_are_averaged_image_by_image_before_anything_is_compared(tmp_path: Path):
    table = runs(
        tmp_path,
        ({"pipeline": "fg", "model.checkpoint": "a"}, [0.2, 0.4, 0.6, 0.8], "x"),
        ({"pipeline": "fg", "model.checkpoint": "b"}, [0.4, 0.4, 0.4, 0.4], "x"),
        ({"pipeline": "box", "model.checkpoint": "a"}, [0.5, 0.5, 0.7, 0.9], "x"),
        ({"pipeline": "box", "model.checkpoint": "b"}, [0.7, 0.7, 0.7, 0.7], "x"),
    )
    pooled = pool_runs(Runs(tmp_path), table, varied_columns(table))
    assert pooled["pipeline"].tolist() == ["fg", "box"]
    assert pooled["class_miou:circle"].tolist() == pytest.approx(pooled["miou"].tolist())
    assert pooled.loc[1, ["wins", "ties", "losses"]].tolist() == [4, 0, 0]
    text = as_markdown(table, pooled, Runs(tmp_path).metric_facts(table))
    assert "| wins / ties / losses | mIoU circle |" in text
    assert "| 4/0/0 | 0.675 |" in text
    assert pooled["runs"].tolist() == [2, 2]
    assert pooled["miou"].tolist() == pytest.approx([0.45, 0.675])
    assert pooled["miou_sd"][0] == pytest.approx(0.1 / 2**0.5), "means 0.5 and 0.4"
    assert pooled["delta_miou"][1] == pytest.approx(0.225)
    assert (pooled["wins"][1], pooled["baseline"][1]) == (4, "fg")
    text = as_markdown(table, pooled, Runs(tmp_path).metric_facts(table))
    assert "| box | 2 | 0.675 [" in text
    assert "| fg | +0.225 [" in text


def test_classifiers_of_different_networks_are_not_pooled(tmp_path: Path):
    jobs = [({"model.checkpoint": name}, [0.2 + 0.1 * k] * 4, "x") for k, name in enumerate("abc")]
    table = runs(tmp_path, *jobs, backbones="RRV")
    pooled = pool_runs(Runs(tmp_path), table, varied_columns(table))
    assert pooled["backbone"].tolist() == ["R", "V"]
    assert pooled["runs"].tolist() == [2, 1]
    assert pooled["delta_miou"][1] == pytest.approx(0.15)
    assert "| V | 1 | 0.400 [" in as_markdown(table, pooled, Runs(tmp_path).metric_facts(table))


def test_runs_on_different_images_are_not_pooled(tmp_path: Path):
    table = runs(
        tmp_path,
        ({"background": "mixed", "seed": "0"}, [0.2] * 4, "x"),
        ({"background": "mixed", "seed": "1"}, [0.4] * 4, "x"),
        ({"background": "noise", "seed": "0"}, [0.6] * 4, "y"),
    )
    pooled = pool_runs(Runs(tmp_path), table, varied_columns(table))
    assert pooled["runs"].tolist() == [2, 1]
    assert pooled["miou"].tolist() == pytest.approx([0.3, 0.6])
    assert "p" not in pooled, "each is the first on its images"


def test_without_a_seed_there_is_nothing_to_pool(tmp_path: Path):
    table = runs(tmp_path, ({"pipeline": "fg"}, [0.2] * 4, "x"), ({"pipeline": "box"}, [0.4] * 4, "x"))
    pooled = pool_runs(Runs(tmp_path), table, varied_columns(table))
    assert pooled.empty
    assert "runs" not in as_markdown(table, pooled, Runs(tmp_path).metric_facts(table))


def test_pools_know_the_photographs_behind_their_images(tmp_path: Path):
    """Each photograph of two images is one draw, so the pool's interval is that of the photographs' means."""
    table = runs(
        tmp_path,
        *(
            ({"pipeline": name, "seed": seed}, [0.2, 0.4, 0.6, 0.8], "x")
            for name in ("fg", "box")
            for seed in "01"
        ),
    )
    rng = np.random.default_rng(0)
    ids = [f"{k:02d}" for k in range(24)]
    for number in range(4):
        ious = np.repeat(rng.random(12), 2)
        images = pd.DataFrame({"example_id": ids, "image_id": ids, "group": [f"p{k // 2:02d}" for k in range(24)]})
        images["iou"], images["class_name"] = ious, "circle"
        images.to_parquet(tmp_path / str(number) / "per_image.parquet")
    pooled = pool_runs(Runs(tmp_path), table, ["pipeline", "seed"])
    first = [pd.read_parquet(tmp_path / name / "per_image.parquet")["iou"][::2].to_numpy() for name in "0123"]
    fg, box = ((one + other) / 2 for one, other in (first[:2], first[2:]))
    expected = paired_difference(box, fg)
    assert pooled.loc[0, ["miou_low", "miou_high"]].tolist() == pytest.approx(list(summarize(fg).ci95))
    assert pooled.loc[1, ["delta_low", "delta_high"]].tolist() == pytest.approx(list(expected.difference.ci95))
    assert pooled["p"][1] == pytest.approx(expected.p)


def test_a_table_of_pools_needs_a_pool(tmp_path: Path):
    jobs = [({"pipeline": "fg", "seed": "0"}, [0.2] * 4, "x"), ({"pipeline": "box", "seed": "1"}, [0.4] * 4, "x")]
    table = runs(tmp_path, *jobs)
    assert pool_runs(Runs(tmp_path), table, varied_columns(table)).empty, "each would be a pool of one"
