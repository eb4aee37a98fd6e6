"""What W&B shows of an evaluation, read back from the offline run with W&B's own tool."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wandb
import yaml
from PIL import Image
from pycocotools import mask as coco

from gradsam_exp.config import Config
from gradsam_exp.errors import InputError
from gradsam_exp.reports.gallery import Example, fitted
from gradsam_exp.runs.folder import Run
from gradsam_exp.tasks import evaluate
from gradsam_exp.tracking import live
from gradsam_exp.tracking.content import flat_config, run_name
from gradsam_exp.tracking.examples import chosen_images, common_images
from gradsam_exp.tracking.pictures import numbers_table, plain
from gradsam_exp.tracking.settings import api_key
from tests.e2e.conftest import ROOT
from tests.faults.counts import only_soaking
from tests.tracking.conftest import artifact, inspect, offline_runs, records, table


@pytest.fixture(scope="module")
def made() -> dict[tuple[str, ...], tuple[Path, Path]]:
    """Runs of this module by their overrides: most tests look at the same."""
    return {}


@pytest.fixture
def tracked(run, made, tmp_path: Path):
    """``tracked("pipeline=fgbg")``: the run's folder and its only offline run."""

    def call(*overrides: str) -> tuple[Path, Path]:
        if overrides not in made:
            done = run("logger=wandb", *overrides)
            assert done.code == 0, done.err
            (folder,) = done.runs
            (offline,) = offline_runs(folder)
            assert f"wandb sync {offline}" in done.out
            assert not list((tmp_path / "home").rglob("*wandb*/artifacts")), "nothing is written elsewhere"
            made[overrides] = folder, offline
        return made[overrides]

    return call


USUAL = ("pipeline=fgbg", "logger.images=1")


def examples(offline: Path) -> tuple[list[dict], dict[str, Path]]:
    """Rows of the table of examples, and the files that its cells name."""
    files = artifact(offline, "-examples")
    found = json.loads(files["examples.table.json"].read_text())
    return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]], files


@pytest.mark.slow
def test_configuration_and_summary_are_flat(tracked):
    folder, offline = tracked("pipeline=fgbg", "bg_threshold=0.2", "pipeline.tie=median")
    found = inspect(offline)
    metrics = json.loads((folder / "metrics.json").read_text())
    for name, metric in metrics["metrics"].items():
        expected = {name: metric["mean"], f"{name}_low": metric["ci95"][0], f"{name}_high": metric["ci95"][1]}
        for key, value in {**expected, f"{name}_n": metric["n"]}.items():
            assert found["summary"][key] == pytest.approx(value), key
    expected = {"pipeline": "fgbg", "explainer": "gradcam", "selector": "predicted_iou", "refine": "none"}
    expected |= {"sam": "compact", "model": "resnet18", "data": "shapes", "background": "mixed"}
    expected |= {
        "bg_threshold": 0.2,
        "fg_threshold": 0.8,
        "grid_size": 3,
        "grid_offset": 1,
        "pipeline_tie": "median",
    }
    expected |= {"explainer_target_layers": "layer2.-1", "limit": 8, "images": 8, "split": "test"}
    assert expected.items() <= found["config"].items()
    assert found["config"]["identity"] == metrics["identity"]
    assert not [key for key, value in found["config"].items() if isinstance(value, dict) or "." in key]
    assert found["tags"] == ["fgbg", "gradcam", "compact"]
    assert found["name"].endswith("fgbg·bg0.20·tie=median")


@pytest.mark.slow
def test_a_run_has_the_knobs_it_uses_and_no_others(tracked):
    _, offline = tracked("pipeline=center", "selector=oracle")
    config, tags = inspect(offline)["config"], inspect(offline)["tags"]
    assert not {"fg_threshold", "bg_threshold", "grid_size", "batch_size", "device"} & config.keys()
    assert config["upper_bound"] is True
    assert tags[-1] == "upper bound"


@pytest.mark.slow
def test_metrics_have_a_direction(tracked):
    _, offline = tracked(*USUAL)
    found = {metric["name"]: metric["summary"] for metric in records(offline, "metric")}
    assert found["miou"] == {"max": True}
    assert found["distance_px"] == {"min": True}
    history = records(offline, "history")[0]
    assert "miou" in json.dumps(history)


@pytest.mark.slow
def test_every_metric_of_a_run_has_a_direction(run):
    metrics = json.loads((run("task.faithfulness=true", "limit=2").runs[0] / "metrics.json").read_text())
    directions = {name: metric["higher_is_better"] for name, metric in metrics["metrics"].items()}
    assert len(directions) == 13
    assert {name for name, better in directions.items() if better is False} == {"distance_px", "deletion_auc"}
    assert None not in directions.values()


@pytest.mark.slow
@only_soaking
def test_a_sweep_of_four_is_four_runs_in_one_group(run):
    done = run("-m", "pipeline=fgbg", "bg_threshold=0.05,0.2", "grid_offset=1,4", "logger=wandb", "limit=4")
    assert done.code == 0, done.err
    sweep = done.runs[0].parent
    offline = sorted((sweep / "wandb").iterdir())
    assert {path.resolve() for path in offline} == {path.resolve() for path in offline_runs(done.folder)}
    found = [inspect(path) for path in offline]
    assert len({(f["config"]["bg_threshold"], f["config"]["grid_offset"]) for f in found}) == 4
    assert {f["name"].partition("·fgbg·")[2] for f in found} >= {"bg0.05·off1", "bg0.20·off4"}
    for path, content in zip(offline, found, strict=True):
        assert content["state"] == "finished"
        assert 0 <= content["summary"]["miou_low"] <= content["summary"]["miou"] <= content["summary"]["miou_high"]
        assert content["summary"]["examples"]["nrows"] == content["summary"]["per_image"]["nrows"] == 4
        header = records(path, "run")[0]
        group = f"{sweep.name} bg_threshold,grid_offset"
        assert (header["run_group"], header["job_type"]) == (group, "evaluate")


@pytest.mark.slow
@pytest.mark.parametrize("dashes", ["", pytest.param("--", marks=only_soaking)])
def test_a_run_of_an_agent_joins_its_sweep(run, monkeypatch, request, dashes: str):
    """The example's keys and values, given as ``wandb agent`` gives them; it sets two variables."""
    wandb.teardown()  # W&B reads variables once per process, and earlier tests have used it in this one
    request.addfinalizer(wandb.teardown)
    planned = yaml.safe_load((ROOT / "examples/wandb_sweep.yaml").read_text())
    chosen = {
        key: own.get("value", own.get("min", own.get("values", [None])[0]))
        for key, own in planned["parameters"].items()
    }
    monkeypatch.setenv("WANDB_SWEEP_ID", "swept123")
    monkeypatch.setenv("WANDB_RUN_ID", "agents1")
    done = run("logger=wandb", "limit=4", *(f"{dashes}{key}={value}" for key, value in chosen.items()))
    assert done.code == 0, done.err
    (offline,) = offline_runs(done.folder)
    header = records(offline, "run")[0]
    assert (header["sweep_id"], header["run_id"]) == ("swept123", "agents1")
    config = inspect(offline)["config"]
    assert chosen.items() <= config.items()
    assert planned["metric"]["name"] in inspect(offline)["summary"]


@pytest.mark.slow
@only_soaking
def test_jobs_that_are_the_same_run_are_shown_once(run):
    done = run("-m", "pipeline=fg", "bg_threshold=0.05,0.1", "logger=wandb", "limit=4")
    assert len(done.runs) == 2
    assert len(offline_runs(done.folder)) == 1


@pytest.mark.slow
def test_the_table_has_one_row_per_image(tracked):
    folder, _ = tracked(*USUAL)
    found = table(folder, "per_image")
    expected = pd.read_parquet(folder / "per_image.parquet")
    assert found["columns"] == list(expected.columns)
    assert found["data"] == [list(map(plain, row)) for row in expected.itertuples(index=False)]


def test_a_column_has_the_same_type_with_and_without_values():
    one = pd.DataFrame(
        {"example_id": ["a", "b"], "iou": [0.5, 1.0], "hits": [math.nan] * 2, "correct": [True, None]}
    )
    other = pd.DataFrame({"example_id": ["a"], "iou": [math.nan], "hits": [1.0], "correct": [False]})
    kinds = {"example_id": str, "iou": float, "hits": float, "correct": bool}
    for per_image in (one, other):
        added = wandb.Table(list(kinds), dtype=list(kinds.values()))
        for row in per_image.itertuples(index=False):
            added.add_data(*map(plain, row))
        assert numbers_table(per_image) == added  # columns, their types, and rows


@pytest.mark.slow
def test_examples_have_masks_heatmap_prompts_and_metrics(tracked):
    folder, offline = tracked(*USUAL)
    per_image = pd.read_parquet(folder / "per_image.parquet").set_index("example_id")
    predictions = pd.read_parquet(folder / "predictions.parquet").set_index("example_id")
    rows, files = examples(offline)
    assert [row["shown_as"] for row in rows] == ["worst", "median", "best"]
    ious = [row["iou"] for row in rows]
    assert ious[0] == per_image["iou"].min()
    assert ious == sorted(ious)
    assert set(per_image.columns) < rows[0].keys()
    for row in rows:
        masks = row["image"]["masks"]
        assert masks.keys() == {"prediction", "ground truth"}
        pixels = np.asarray(Image.open(files[masks["prediction"]["path"]]))
        predicted = predictions.loc[row["example_id"]]
        size = [int(predicted["height"]), int(predicted["width"])]
        expected = coco.decode({"size": size, "counts": predicted["mask_rle"].encode()})
        assert np.array_equal(pixels > 0, expected > 0)
        assert np.asarray(Image.open(files[row["heatmap"]["path"]])).std() > 1
        drawn = np.asarray(Image.open(files[row["prompts"]["path"]])).astype(int)
        assert drawn.shape == (192 + 16, 256 + 16, 3)
        orange = np.abs(drawn - (0xE6, 0x9F, 0x00)).max(axis=2) < 12
        assert orange.sum() > 20, "the foreground points"


@pytest.mark.slow
def test_class_labels_name_what_a_mask_shows(tracked):
    _, offline = tracked(*USUAL)
    rows, files = examples(offline)
    names = ["background", "circle", "square", "triangle", "star", "diamond"]
    for row in rows:
        for layer, column in (("prediction", "predicted_class"), ("ground truth", "class_name")):
            pixels = np.asarray(Image.open(files[row["image"]["masks"][layer]["path"]]))
            assert {names[k] for k in np.unique(pixels)} <= {"background", row[column]}
    (labels,) = (json.loads(path.read_text()) for name, path in files.items() if name.endswith("classes.json"))
    assert [entry["name"] for entry in labels["class_set"]] == names


@pytest.mark.slow
def test_without_a_store_heatmaps_are_left_out_rather_than_computed_twice(tracked):
    _, offline = tracked("store.enabled=false", "logger.images=1")
    assert [row["heatmap"] for row in examples(offline)[0]] == [None] * 3


@pytest.mark.slow
@only_soaking
def test_a_run_that_was_taken_from_an_earlier_one_is_shown_as_well(run):
    run("pipeline=fg")
    done = run("pipeline=fg", "resume=true", "logger=wandb")
    assert "taken from there" in done.out
    (offline,) = offline_runs(done.folder)
    summary = inspect(offline)["summary"]
    assert summary["examples"]["nrows"] == 8
    assert summary["per_image"]["nrows"] == 8


@pytest.mark.slow
def test_the_size_of_what_was_logged_is_said(tracked):
    folder, offline = tracked(*USUAL)
    (line,) = (line for line in (folder / "run.log").read_text().splitlines() if "images shown" in line)
    assert "3 of 8 images shown (logger.images=1)" in line
    assert str(offline) in line


def test_large_images_are_made_smaller():
    height, width = 60, 100
    mask = np.zeros((height, width), dtype=bool)
    mask[20:40, 50:70] = True
    image = np.where(mask, 255, 0).astype(np.uint8)[:, :, None].repeat(3, 2)
    points = np.array([[59.5, 29.5], [-0.5, -0.5]], dtype=np.float32)
    given = Example("i", "star", image, mask.astype(np.float32), points, np.array([1, 0]),
                    np.array([[49.5, 19.5, 69.5, 39.5]], dtype=np.float32), mask, mask, 1.0)  # fmt: skip
    small = fitted(given, 50)
    assert small.image.shape == (30, 50, 3)
    assert np.argwhere(small.mask).tolist() == [[y, x] for y in range(10, 20) for x in range(25, 35)]
    assert (small.image[:, :, 0] > 127).tolist() == small.mask.tolist() == (small.heatmap > 0.5).tolist()
    assert small.points.tolist() == [[29.5, 14.5], [-0.5, -0.5]]
    assert small.boxes.tolist() == [[24.5, 9.5, 34.5, 19.5]]
    assert fitted(given, 100) is given


def ranked(ious: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"example_id": [f"i{k}" for k in range(len(ious))], "iou": ious, "predicted_iou": ious[::-1]}
    )


def test_worst_median_and_best_are_shown():
    found = chosen_images(ranked([0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.4]), 1)
    assert found == {"i0": "worst", "i6": "median", "i1": "best"}
    assert list(found) == ["i0", "i6", "i1"]
    assert len(chosen_images(ranked([0.1, 0.9, 0.2]), 3)) == 3, "each once"
    assert chosen_images(ranked([0.1, 0.9]), 0) == {}
    assert chosen_images(ranked([0.9, 0.1]), "all") == {"i1": "all", "i0": "all"}


def test_all_runs_show_one_image_of_each_class():
    table = ranked([0.1, 0.9, 0.2, 0.8]).assign(class_name=["star", None, "circle", "star"])
    assert common_images(table, 10) == ["i1", "i2", "i0"]
    assert common_images(table[::-1], 10) == ["i1", "i2", "i0"], "whatever their order"
    assert common_images(table, 2) == ["i1", "i2"]


@pytest.mark.slow
def test_runs_with_different_answers_show_common_images_commit_and_seconds(tracked):
    shown = []
    for overrides in (USUAL, ("pipeline=center", "selector=oracle")):
        folder, offline = tracked(*overrides)
        found, provenance = inspect(offline), json.loads((folder / "provenance.json").read_text())
        shown.append(found["summary"]["common"]["captions"])
        ious = pd.read_parquet(folder / "per_image.parquet").set_index("example_id")["iou"]
        assert shown[-1] == [f"{(name := text.split()[0])}  IoU {ious[name]:.2f}" for text in shown[-1]]
        assert found["config"].get("commit") == (provenance["git"] or {}).get("commit")
        assert found["summary"]["seconds_segment"] == provenance["seconds"]["segment"]
    assert [text.split()[0] for text in shown[0]] == [text.split()[0] for text in shown[1]]


@pytest.mark.slow
@pytest.mark.usefixtures("at_once")
def test_the_miou_so_far_is_a_curve_of_the_same_run(run):
    done = run("logger=wandb", "limit=20")
    assert done.code == 0, done.err
    (folder,) = done.runs
    (offline,) = offline_runs(folder)
    curve = history(offline)
    counts = [count for count, _ in curve]
    assert len(counts) > 1
    assert counts == sorted(counts)
    assert counts[-1] == 20
    outcome = Run(folder).outcome
    assert curve[-1][1] == pytest.approx(outcome.metrics["miou"]["mean"])
    first = Run(folder).images["iou"]  # in the images' order, as they are scored
    assert curve[0][1] == pytest.approx(first[: counts[0]].mean())
    summary = inspect(offline)["summary"]
    assert "miou_so_far" not in summary, "at the end there is miou"
    assert summary["miou"] == pytest.approx(curve[-1][1])
    assert inspect(offline)["config"]["identity"] == outcome.identity


@pytest.mark.slow
@pytest.mark.usefixtures("at_once")
def test_a_run_that_fails_half_way_is_shown_as_failed(run, monkeypatch):
    def full(*_: object) -> None:
        raise InputError("no space left")

    monkeypatch.setattr(evaluate, "write", full)
    done = run("logger=wandb")
    assert done.code != 0
    (offline,) = offline_runs(done.folder)
    assert history(offline)
    assert [exit_["exit_code"] for exit_ in records(offline, "exit")] == [1]


@pytest.mark.slow
@pytest.mark.usefixtures("at_once")
def test_what_goes_wrong_with_the_curve_costs_one_line(run, monkeypatch):
    def broken(_: live.Live) -> None:
        raise RuntimeError("no socket")

    monkeypatch.setattr(live.Live, "_log", broken)
    done = run("logger=wandb", "limit=20")
    assert done.code == 0, done.err
    assert (done.out + done.err).count("W&B: no curve (RuntimeError: no socket); the run goes on") == 1
    (offline,) = offline_runs(done.folder)
    assert not history(offline)
    assert inspect(offline)["summary"]["miou_n"] == 20


def history(offline: Path) -> list[tuple[int, float]]:
    """The live curve: examples so far, mIoU so far."""
    points = (record["item"] for record in records(offline, "history"))
    return [(point["examples_so_far"], point["miou_so_far"]) for point in points if "miou_so_far" in point]


def test_where_there_is_no_truth_the_score_decides():
    table = ranked([float("nan")] * 3).assign(predicted_iou=[0.3, 0.1, 0.2])
    assert chosen_images(table, 1) == {"i1": "worst", "i2": "median", "i0": "best"}


@pytest.mark.slow
def test_results_are_an_artifact(tracked):
    folder, offline = tracked(*USUAL)
    identity = json.loads((folder / "metrics.json").read_text())["identity"]
    files = artifact(offline, f"results-{identity[:12]}")
    assert {"per_image.parquet", "predictions.parquet", "config.yaml", "metrics.json"} <= files.keys()
    assert files["per_image.parquet"].read_bytes() == (folder / "per_image.parquet").read_bytes()
    assert "pipeline:" in files["config.yaml"].read_text()


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["pipeline=fgbg", "bg_threshold=0.10", "grid_offset=1"], "fgbg·bg0.10·off1"),
        (["pipeline=fgbg", "bg_threshold=0.1"], "fgbg·bg0.10"),
        (["bg_threshold=0.125"], "bg0.125"),
        (["fg_threshold=quantile\\:0.9", "bg_threshold=otsu"], "fgquantile:0.9·bgotsu"),
        (["explainer=gradcam", "pipeline.tie=median"], "gradcam·tie=median"),
        (["model.checkpoint=outputs/train/one/classifier.safetensors"], "checkpoint=one"),
        (["task=evaluate", "logger.mode=offline", "device=cpu", "experiment=table1", "limit=8"], "evaluate"),
        (["seed=3"], "seed=3"),
        ([], "evaluate"),
    ],
)
def test_runs_are_named_after_what_was_varied(overrides: list[str], name: str):
    assert run_name(overrides, "evaluate") == name


def test_a_value_has_the_name_of_its_group_unless_people_sweep_it_by_its_own():
    config = Config(
        data={"name": "shapes", "seed": 3, "background": {"name": "blend", "of": [{"name": "mixed"}]}},
        model={"backbone": "resnet18", "checkpoint": "shipped:resnet18-shapes"},
        pipeline={"name": "fgbg", "bg_threshold": 0.3, "tie": "first"},
        selector={"name": "hybrid", "weight": 0.5},
    )
    flat = flat_config(config)
    expected = {"data": "shapes", "data_seed": 3, "background": "blend", "model": "resnet18", "seed": 0}
    expected |= {"model_checkpoint": "shipped:resnet18-shapes", "pipeline": "fgbg", "bg_threshold": 0.3}
    expected |= {"pipeline_tie": "first", "selector": "hybrid", "selector_weight": 0.5}
    assert expected.items() <= flat.items()


def test_api_keys_are_found_where_wandb_looks(monkeypatch, tmp_path: Path):
    assert api_key() is None
    monkeypatch.setenv("WANDB_BASE_URL", "https://api.wandb.ai")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0123456789")
    (tmp_path / "netrc").chmod(0o600)
    assert api_key() == "0123456789"
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert api_key() == "x" * 40
