"""A sweep ends in one table; a job that fails is a row of it; Ctrl-C keeps what was finished."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from gradsam_exp.engine.experiment import Experiment
from gradsam_exp.engine.session import Job
from gradsam_exp.reports import sweep
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.reading import Files
from gradsam_exp.segmenters.sam import SamSegmenter
from gradsam_exp.tasks.evaluate import _jobs_of_the_sweep
from tests import preloaded
from tests.faults.counts import only_soaking
from tests.reports.finished_runs import write_run


@pytest.mark.slow
def test_a_sweep_runs_every_combination_and_ends_with_a_table(run):
    done = run("-m", "pipeline=fg,fgbg", "bg_threshold=0.05,0.2", "grid_offset=1,2", "task.figures=auto")
    assert done.code == 0, done.err
    assert not list(done.folder.rglob("figures")), "drawing would take longer than the sweep"
    assert len(done.runs) == 8
    (path,) = done.folder.rglob("sweep.csv")
    table = pd.read_csv(path)
    assert table["job"].tolist() == list(range(8))
    assert set(zip(table["pipeline"], table["bg_threshold"], table["grid_offset"], strict=True)) == {
        (p, b, o) for p in ("fg", "fgbg") for b in (0.05, 0.2) for o in (1, 2)
    }
    for folder, row in zip(sorted(path.parent.glob("[0-9]*")), table.itertuples(), strict=True):
        metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
        assert row.miou == pytest.approx(metrics["miou"]["mean"])
        assert row.miou_low == pytest.approx(metrics["miou"]["ci95"][0])
        assert row.miou_n == 8
    markdown = path.with_suffix(".md").read_text()
    assert markdown.count("\n") == 33, "what all share, which knob matters, two tables of six runs, notes"
    assert "bg_threshold" in markdown
    assert "mIoU" in done.out
    baseline = (table["pipeline"] == "fg") & (table["grid_offset"] == 1)
    assert table["delta_miou"].isna().tolist() == baseline.tolist()
    images = [pd.read_parquet(path.parent / job / "per_image.parquet")["iou"] for job in ("0", "7")]
    assert table["delta_miou"][7] == pytest.approx((images[1] - images[0]).mean())
    assert table[["wins", "ties", "losses"]].sum(axis=1)[7] == 8


def test_segmenters_without_a_network_stand_in_a_sweep_of_several_grids(run, random_weights: list[str]):
    """Beside compact SAM, whose checkpoint they do not have."""
    classifier, compact = random_weights
    network = f"+hydra.sweeper.grids.network={{pipeline:fg,sam:compact,{compact.replace('=', ':')}}}"
    without = "+hydra.sweeper.grids.without={pipeline:'threshold,box',sam:'none,grabcut',fg_threshold:0.6}"
    small = (classifier, "limit=4", "logger=none", "task.figures=false")
    done = run("-m", "hydra/sweeper=grids", network, without, *small, defaults=False)
    assert done.code == 0, done.err
    assert "5 of 5 done" in done.out
    (path,) = done.folder.rglob("sweep.csv")
    table = pd.read_csv(path, keep_default_na=False, na_values=[""])
    assert list(zip(table["pipeline"], table["sam"], strict=True)) == [
        ("fg", "compact"),
        *((pipeline, sam) for pipeline in ("threshold", "box") for sam in ("none", "grabcut")),
    ]
    assert table["wins"].notna().tolist() == [False, True, True, True, True]
    estimates = [pd.read_parquet(path.parent / job / "per_image.parquet")["predicted_iou"] for job in "01234"]
    assert [own.notna().all() for own in estimates] == [True, False, False, False, False]
    assert not any(own.notna().any() for own in estimates[1:])
    assert (path.parent / "report.html").is_file()


def test_a_failed_job_is_a_row_and_the_others_go_on(run):
    done = run("-m", "pipeline=fg,fgbg", "bg_threshold=0.1,0.9")
    assert done.code == 1
    (path,) = done.folder.rglob("sweep.csv")
    table = pd.read_csv(path)
    assert table["status"].tolist() == ["finished", "finished", "finished", "failed"]
    assert "must be below fg_threshold" in table["error"][3]
    assert table["miou"].notna().tolist() == [True, True, True, False]
    assert "must be below fg_threshold" in path.with_suffix(".md").read_text()
    assert "Traceback" not in done.err


def test_a_bug_in_a_job_does_not_end_the_sweep(run, monkeypatch):
    from gradsam_exp.prompts.background import ForegroundBackground

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(ForegroundBackground, "propose", broken)
    done = run("-m", "pipeline=fgbg,fg")
    assert done.code == 1
    (path,) = done.folder.rglob("sweep.csv")
    assert pd.read_csv(path)["status"].tolist() == ["failed", "finished"]
    assert "ZeroDivisionError: a bug" in (path.parent / "0" / "run.log").read_text()


def test_a_job_without_memory_says_what_to_do(run, monkeypatch):
    evaluate, asked = Experiment.evaluate, iter([MemoryError("Unable to allocate 8.00 GiB for an array")])

    def greedy(*given: object, **more: object) -> object:
        for error in asked:
            raise error
        return evaluate(*given, **more)

    monkeypatch.setattr(Experiment, "evaluate", greedy)
    done = run("-m", "pipeline=fgbg,fg")
    assert done.code == 1
    (path,) = done.folder.rglob("sweep.csv")
    table = pd.read_csv(path)
    assert table["status"].tolist() == ["failed", "finished"]
    assert table["error"][0].startswith("there is no memory left (Unable to allocate 8.00 GiB for an array): use")
    assert "Traceback" not in done.err


def test_a_typo_in_a_sweep_is_refused_before_any_job(run):
    done = run("-m", "pipeline=fg,fgbg", "bg_treshold=0.1,0.2")
    assert done.code == 1
    assert done.err.strip().count("\n") == 0
    assert "did you mean 'bg_threshold'" in done.err
    assert not done.runs
    done = run("-m", "pipeline=fg,fgb")
    assert done.code == 1
    assert "did you mean 'fgbg'" in done.err
    assert not done.runs


def counted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows by one for every run that is really made."""
    made: list[object] = []
    evaluate = Experiment.evaluate
    monkeypatch.setattr(Experiment, "evaluate", lambda *a, **k: made.append(a) or evaluate(*a, **k))
    return made


def test_a_run_that_does_not_depend_on_what_is_varied_is_made_once(run, monkeypatch: pytest.MonkeyPatch):
    made = counted(monkeypatch)
    done = run("-m", "pipeline=fg,fgbg", "bg_threshold=0.05,0.1,0.2")
    assert done.code == 0, done.err
    assert len(made) == 4
    assert len(done.runs) == 6
    (path,) = done.folder.rglob("sweep.csv")
    table = pd.read_csv(path)
    assert table["same_as"].fillna(-1).tolist() == [-1, 0, 0, -1, -1, -1]
    assert table["miou"][:3].nunique() == 1
    text = path.with_suffix(".md").read_text()
    assert "| 0 ×3 | fg | 0.05, 0.1, 0.2 |" in text
    assert "×n: n jobs that are the same run" in text
    files = [
        (folder / name).read_bytes() for folder in done.runs[:3] for name in ("metrics.json", "per_image.parquet")
    ]
    assert len(set(files)) == 2
    assert json.loads((done.runs[1] / "provenance.json").read_text())["reused_from"].endswith("0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "queries"),
    [("", 8), ("store.answers_gb=0", 16), pytest.param("store.enabled=false", 16, marks=only_soaking)],
)
def test_prompts_that_jobs_have_in_common_are_decoded_once(
    run, monkeypatch: pytest.MonkeyPatch, override: str, queries: int
):
    decoded = []
    decode = SamSegmenter.decode

    def counted(self, embeddings, prompts):
        decoded.extend(prompts.example_index.tolist())
        return decode(self, embeddings, prompts)

    monkeypatch.setattr(SamSegmenter, "decode", counted)
    done = run("-m", "pipeline=argmax", "selector=predicted_iou,single", *filter(None, [override]))
    assert done.code == 0, done.err
    assert len(decoded) == queries


def test_each_job_has_its_own_configuration(run):
    done = run("-m", "bg_threshold=0.1,0.2,0.1", "pipeline=fgbg")
    assert done.code == 0, done.err
    configs = [OmegaConf.load(job / ".hydra" / "config.yaml") for job in done.runs]
    assert [config.bg_threshold for config in configs] == [0.1, 0.2, 0.1]
    kept = [OmegaConf.load(job / ".hydra" / "hydra.yaml").hydra.job.num for job in done.runs]
    assert kept == [0, 1, 2]


def test_resume_goes_on_where_a_sweep_stopped(run, monkeypatch: pytest.MonkeyPatch):
    first = run("-m", "pipeline=fg,argmax")
    (first.runs[1] / "metrics.json").unlink()  # it was interrupted there
    made, read = counted(monkeypatch), []
    read_text = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda own, *a, **k: read.append(own) or read_text(own, *a, **k))
    again = run("-m", "pipeline=fg,argmax,fgbg", "resume=true")
    assert again.code == 0, again.err
    assert len(made) == 2
    assert read.count(first.runs[0] / "metrics.json") == 1, "not for each job"
    assert "is the same run as" in again.out
    run("-m", "pipeline=fg,argmax,fgbg")
    assert len(made) == 5, "only if it is asked for"


def test_a_damaged_run_is_made_again(run, caplog: pytest.LogCaptureFixture):
    first = run("pipeline=argmax")
    path = first.runs[0] / "per_image.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    again = run("pipeline=argmax", "resume=true")
    assert again.code == 0, again.err
    assert "is the same run as" not in again.out
    assert "is damaged" in caplog.text
    assert len(pd.read_parquet(again.runs[-1] / "per_image.parquet")) == 8


def test_a_sweep_that_can_have_no_table_says_so_and_fails(run, monkeypatch: pytest.MonkeyPatch):
    def fails(*_: object) -> None:
        raise ValueError("no table today")

    monkeypatch.setattr(sweep, "collect_runs", fails)
    done = run("-m", "pipeline=fg,argmax")
    assert done.code == 1
    assert "gradsam_exp: the sweep has no table, ValueError: no table today" in done.err
    assert "task=report" in done.err
    assert "no table today" in next(done.folder.rglob("error.txt")).read_text()
    assert len(done.runs) == 2


def test_two_sweeps_are_not_mixed_in_one_folder(run, tmp_path: Path):
    place = f"hydra.sweep.dir={tmp_path / 'outputs' / 'one'}"
    assert run("-m", "pipeline=fg,argmax", place).code == 0
    second = run("-m", "pipeline=fgbg,fg", place)
    assert second.code == 1
    assert "holds another sweep" in second.err
    kept = [OmegaConf.load(job / ".hydra" / "config.yaml").pipeline.name for job in second.runs]
    assert kept == ["fg", "argmax"]


@pytest.mark.slow
def test_runs_of_a_sweep_equal_single_runs(run):
    run("-m", "pipeline=fgbg", "bg_threshold=0.1,0.2")
    run("pipeline=fgbg", "bg_threshold=0.2")
    finished = run("pipeline=fg").runs
    by_identity: dict[str, list[bytes]] = {}
    for folder in finished:
        content = (folder / "metrics.json").read_bytes()
        by_identity.setdefault(json.loads(content)["identity"], []).append(content)
    assert sorted(map(len, by_identity.values())) == [1, 1, 2]
    assert all(len(set(contents)) == 1 for contents in by_identity.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "sweep", [pytest.param(False, marks=only_soaking, id="run"), pytest.param(True, id="sweep")]
)
def test_ctrl_c_keeps_what_was_finished(
    tmp_path: Path, random_weights: list[str], sweep: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "150")
    given = ["pipeline=fgbg", "logger=none", f"output_root={tmp_path}", "store.enabled=false", *random_weights]
    many = ["-m", "limit=64", "bg_threshold=0.1,0.2,0.3,0.4,0.5,0.6"] if sweep else []
    program = preloaded.start("run.py", [*many, *given], tmp_path)
    deadline = time.monotonic() + 120
    while (
        time.monotonic() < deadline
    ):  # until a job is in the middle of its work, in a sweep the second or a later one
        started, ended = (len(list(tmp_path.rglob(name))) for name in ("run.log", "metrics.json"))
        if started > ended and (ended or not sweep):
            break
        time.sleep(0.1)
    time.sleep(1)
    assert program.process.pid is not None
    os.kill(program.process.pid, signal.SIGINT)
    code, out, err = preloaded.ended(program, within=60)
    assert code == 130, out + err
    assert err.strip().splitlines()[-1] == "gradsam_exp: interrupted; what was finished is kept"
    assert "Traceback" not in out + err
    statuses = [json.loads(path.read_text())["status"] for path in tmp_path.rglob("metrics.json")]
    assert "interrupted" in statuses
    if sweep:
        assert "finished" in statuses
        (path,) = tmp_path.rglob("sweep.csv")
        assert pd.read_csv(path)["status"].tolist().count("interrupted") == 1
        assert "interrupted" in out


def test_a_threshold_is_a_number_or_a_rule_in_one_sweep(run):
    done = run("-m", "fg_threshold=0.8,otsu,quantile:0.9")
    assert done.code == 0, done.err
    (table,) = done.folder.rglob("sweep.csv")
    assert pd.read_csv(table)["fg_threshold"].tolist() == ["0.8", "otsu", "quantile:0.9"]


def test_what_has_ended_is_read_once_however_many_jobs_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = write_run(tmp_path / "0", {"pipeline": "fg"}, [0.5] * 4, identity="one")
    write_run(tmp_path / "1", {"pipeline": "fgbg"}, [0.5] * 4, identity="other")
    read, outcome = [], Files.json
    monkeypatch.setattr(Files, "json", lambda run, *given: read.append(run.folder.name) or outcome(run, *given))
    job = Job(tmp_path / "2", sweep=tmp_path)
    job.folder.mkdir()
    for _ in range(3):
        assert [run.folder for run in _jobs_of_the_sweep(job, "one")] == [first]
    assert sorted(read) == ["0", "1"]
    write_run(tmp_path / "3", {"pipeline": "box"}, [0.5] * 4, identity="one")
    assert [run.folder.name for run in _jobs_of_the_sweep(job, "one")] == ["0", "3"], "another process's"
    remade = Job(tmp_path / "1", sweep=tmp_path, session=job.session)
    Run(remade.folder).begin()
    assert [run.folder.name for run in _jobs_of_the_sweep(remade, "other")] == []
    (tmp_path / "1" / "metrics.json").write_text((tmp_path / "0" / "metrics.json").read_text())
    assert [run.folder.name for run in _jobs_of_the_sweep(job, "one")] == ["0", "1", "3"], "made again"
