"""What MLflow and TensorBoard show of runs, read back by their own readers, and what is said without them."""

from __future__ import annotations

import json
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from gradsam_exp.errors import InputError
from gradsam_exp.runs.folder import Run
from gradsam_exp.tracking.settings import logger_settings
from tests.faults.counts import soaked
from tests.tracking.test_training import SMALL

SWEEP = ("-m", "pipeline=fg,fgbg", "limit=4")
Curves = dict[str, list[tuple[int, float]]]
LOGGERS = ("tensorboard", "mlflow")


def means(folder: Path) -> dict[str, float]:
    return {name: metric["mean"] for name, metric in Run(folder).outcome.metrics.items() if metric["n"]}


def curves(name: str, folder: Path) -> Curves:
    """The curves of the only run below a folder, step and value, as the logger's own reader finds them."""
    if name == "mlflow":
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=next(folder.rglob("mlruns")).as_uri())
        (run,) = client.search_runs([client.get_experiment_by_name("gradsam_exp").experiment_id])
        found = {metric: client.get_metric_history(run.info.run_id, metric) for metric in run.data.metrics}
    else:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(next(folder.rglob("tensorboard"))))
        events.Reload()
        found = {metric: events.Scalars(metric) for metric in events.Tags()["scalars"]}
    return {metric: [(point.step, point.value) for point in points] for metric, points in found.items()}


@pytest.mark.slow
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("name", soaked(LOGGERS[:1], LOGGERS))
def test_the_miou_so_far_is_a_curve_of_the_same_run(run, name: str, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    done = run(f"logger={name}", "limit=20")
    assert done.code == 0, done.err
    found = curves(name, done.folder)
    steps = [step for step, _ in found["miou_so_far"]]
    assert len(steps) > 1
    assert steps == sorted(steps)
    assert steps[-1] == 20
    (folder,) = (done.folder / "evaluate").iterdir()  # MLflow has copies of its files
    assert found["miou_so_far"][-1][1] == pytest.approx(means(folder)["miou"], rel=1e-5)
    assert found["miou"][-1][1] == pytest.approx(means(folder)["miou"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", soaked(LOGGERS[:1], LOGGERS))
def test_a_training_has_its_curve_and_accuracies(run, name: str, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    done = run(*SMALL, f"logger={name}", defaults=False)
    assert done.code == 0, done.err
    found = curves(name, done.folder)
    apart = "." if name == "mlflow" else "/"
    for curve in (f"val{apart}accuracy", f"val{apart}accuracy{apart}star"):
        assert len({step for step, _ in found[curve]}) == 2, "one point an epoch"
    accuracies = json.loads(next(done.folder.rglob("accuracy.json")).read_text())
    assert found["test_accuracy"][-1][1] == pytest.approx(accuracies["test"]["overall"], rel=1e-5)


@pytest.mark.slow
def test_mlflow_has_every_run_of_a_sweep(run, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    done = run(*SWEEP, "logger=mlflow")
    assert done.code == 0, done.err
    assert "MLflow: MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri" in done.out + done.err
    client = MlflowClient(tracking_uri=(done.folder / "mlruns").as_uri())
    found = client.search_runs([client.get_experiment_by_name("gradsam_exp").experiment_id])
    by_pipeline = {one.data.params["pipeline"]: one for one in found}
    assert by_pipeline.keys() == {"fg", "fgbg"}
    for folder in sorted((done.folder / "evaluate").glob("*/[01]")):  # MLflow has copies of their files
        shown = by_pipeline[Run(folder).config["pipeline"]["name"]]
        assert shown.info.status == "FINISHED"
        assert shown.data.tags["group"] == f"{folder.parent.name} pipeline"
        assert shown.data.params["identity"] == Run(folder).outcome.identity
        for name, mean in means(folder).items():
            assert shown.data.metrics[name] == pytest.approx(mean), name
        kept = {one.path for one in client.list_artifacts(shown.info.run_id)}
        assert {"per_image.parquet", "metrics.json"} <= kept
    assert "bg_threshold" not in by_pipeline["fg"].data.params, "only what a run depends on"


@pytest.mark.slow
def test_tensorboard_has_hparams_and_numbers(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    done = run("logger=tensorboard", "pipeline=fgbg", "limit=4")
    assert done.code == 0, done.err
    (folder,) = done.runs
    assert f"TensorBoard: tensorboard --logdir {folder}" in done.out
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    for name, mean in means(folder).items():
        assert events.Scalars(name)[-1].value == pytest.approx(mean, rel=1e-5), name
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    given = HParamsPluginData.FromString(content).session_start_info.hparams
    assert given["pipeline"].string_value == "fgbg"
    assert given["bg_threshold"].number_value == pytest.approx(0.1)


@pytest.mark.parametrize("name", LOGGERS)
def test_a_missing_package_is_one_line(name: str, monkeypatch):
    monkeypatch.delitem(sys.modules, name, raising=False)
    find = PathFinder.find_spec
    monkeypatch.setattr(
        PathFinder, "find_spec", lambda asked, *more: None if asked == name else find(asked, *more)
    )
    with pytest.raises(InputError) as error:
        logger_settings({"name": name})
    assert str(error.value) == f"logger={name} needs another package: pip install 'gradsam_exp[{name}]'"


@pytest.mark.slow
def test_what_goes_wrong_in_a_logger_costs_a_warning(run, tmp_path: Path):
    """Its folder cannot be made: a file is in the way."""
    (tmp_path / "taken").write_text("")
    done = run("logger=mlflow", f"logger.root={tmp_path / 'taken'}", "limit=2")
    assert done.code == 0, done.err
    (line,) = (line for line in done.err.splitlines() if "MLflow" in line)
    assert line.endswith("the run's own files are whole")
    assert json.loads((done.runs[0] / "metrics.json").read_text())["status"] == "finished"
