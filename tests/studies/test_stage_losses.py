"""What is missing to mIoU 1 is split over the stages of the chain."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from gradsam_exp.errors import InputError
from gradsam_exp.runs.folder import Run
from studies.stage_losses.__main__ import main
from studies.stage_losses.losses import LOSSES, losses, stages_of
from tests.reports.finished_runs import write_run

SETTINGS = {  # the IoUs of four images, by pipeline, selector and explained class
    ("fg", "predicted_iou", "predicted"): [0.2, 0.5, 0.6, 0.7],
    ("fg", "oracle", "predicted"): [0.3, 0.5, 0.6, 0.7],
    ("fg", "predicted_iou", "label"): [0.6, 0.5, 0.6, 0.7],
    ("oracle_heatmap", "predicted_iou", "predicted"): [0.6, 0.7, 0.6, 0.7],
    ("oracle", "predicted_iou", "predicted"): [0.6, 0.6, 0.7, 0.7],
    ("oracle_box", "predicted_iou", "predicted"): [0.7, 0.8, 0.7, 0.6],
    ("oracle_box", "oracle", "predicted"): [0.8, 0.8, 0.9, 0.9],
    ("oracle", "oracle", "predicted"): [0.9, 0.9, 0.9, 0.9],
}


def sweep(folder: Path, *without: tuple[str, str, str], **more: str) -> list[Run]:
    """Finished runs of ``experiment=oracles``."""
    runs = []
    for k, (settings, ious) in enumerate(SETTINGS.items()):
        if settings in without:
            continue
        pipeline, selector, target = settings
        given = {"pipeline": pipeline, "selector": selector, "explainer.target": target, **more}
        config = {"pipeline": {"name": pipeline}, "selector": {"name": selector}, "explainer": {"target": target}}
        runs.append(Run(write_run(folder / str(k), given, ious, config=config)))
    return runs


def test_each_stage_is_found_among_the_runs(tmp_path: Path):
    found = stages_of(sweep(tmp_path))
    assert {name: run.folder.name for name, run in found.items()} == {
        "fg": "0", "class": "2", "heatmap": "3", "prompt": "5", "selection": "6",
    }, "the box is the better prompt, though not with the oracle's choice"  # fmt: skip
    without = stages_of(sweep(tmp_path / "predicted alone", ("fg", "predicted_iou", "label")))
    assert list(without) == ["fg", "heatmap", "prompt", "selection"]


def test_a_missing_run_is_named(tmp_path: Path):
    runs = sweep(tmp_path, ("oracle_heatmap", "predicted_iou", "predicted"))
    with pytest.raises(InputError, match="no finished run of pipeline=oracle_heatmap selector=predicted_iou"):
        stages_of(runs)
    with pytest.raises(InputError, match="no finished run of pipeline=oracle_box selector=oracle"):
        stages_of(sweep(tmp_path / "other", ("oracle_box", "oracle", "predicted")))


def test_losses_by_hand_add_up_to_one(tmp_path: Path):
    table = losses({name: run.images for name, run in stages_of(sweep(tmp_path)).items()}).set_index("stage")
    assert table["miou"].to_dict() == pytest.approx(
        {"fg": 0.5, "class": 0.6, "heatmap": 0.65, "prompt": 0.7, "selection": 0.85, "masks": 1.0}
    )
    assert table["delta"].iloc[1:].to_dict() == pytest.approx(
        {"class": 0.1, "heatmap": 0.05, "prompt": 0.05, "selection": 0.15, "masks": 0.15}
    )
    assert table["delta"].sum() + table["miou"].iloc[0] == pytest.approx(1)
    assert table["delta_low"]["masks"] == pytest.approx(0.1)
    assert table["delta_high"]["masks"] == pytest.approx(0.2)
    alone = {"class": 1.0, "heatmap": 1.0, "prompt": 1.0}
    assert table["p"][list(alone)].to_dict() == pytest.approx(alone), "one differs, or four of both signs"
    assert table["p"]["selection"] == pytest.approx(1.0), "three that differ: 2/8, the smallest of four"
    assert pd.isna(table["p"]["masks"])
    assert list(LOSSES) == table.index.tolist()


def test_examples_without_an_iou_in_a_stage_are_left_out():
    index = pd.Index(["a", "b"], name="example_id")
    stages = {
        "fg": pd.DataFrame({"iou": [0.5, 0.7]}, index=index),
        "heatmap": pd.DataFrame({"iou": [0.6, float("nan")]}, index=index),
    }
    table = losses(stages)
    assert table["n"].tolist() == [1, 1, 1]
    assert table["miou"].tolist() == pytest.approx([0.5, 0.6, 1])
    with pytest.raises(InputError, match="no example with an IoU in common"):
        losses({"fg": stages["fg"], "heatmap": stages["heatmap"].iloc[1:]})


@pytest.mark.slow
def test_every_segmenter_has_a_table_and_a_panel(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for sam in ("compact", "vit_b"):
        sweep(tmp_path / "runs" / sam, sam=sam)
    assert main([str(tmp_path / "runs"), "--to", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert (
        printed.count("| the classifier is wrong | 0.600 [0.525, 0.675] | +0.100 [+0.000, +0.300] | 1 | 4 |") == 2
    )
    assert "## compact" in printed
    assert "## vit_b" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "losses.md", "losses.csv", "losses.png", "losses.pdf",
    }  # fmt: skip
    assert pd.read_csv(tmp_path / "out" / "losses.csv")["runs"].value_counts().to_dict() == {
        "compact": 6,
        "vit_b": 6,
    }
    sweep(
        tmp_path / "runs" / "vit_h",
        ("oracle", "oracle", "predicted"),
        ("oracle_box", "oracle", "predicted"),
        sam="vit_h",
    )
    assert main([str(tmp_path / "runs"), "--to", str(tmp_path / "again")]) == 0
    assert "vit_h" not in capsys.readouterr().out, "a warning says that a run is missing"
    assert main([str(tmp_path / "runs" / "compact" / "0")]) == 1
    assert "experiment=oracles makes it" in capsys.readouterr().err
