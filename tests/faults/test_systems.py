"""Terminals, fonts, grammars, schedulers and searches that are not as we would like them."""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

import gradsam_exp
from gradsam_exp.app.arguments import as_meant
from gradsam_exp.engine.session import Job
from gradsam_exp.reports import figures
from gradsam_exp.tasks import evaluate
from gradsam_exp.weights import save_weights
from tests.tracking.conftest import offline_runs


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_that_cannot_show_a_letter_costs_nothing(run, monkeypatch: pytest.MonkeyPatch, encoding: str):
    shown = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", shown)
    done = run("-m", "limit=4", "pipeline=fg,argmax")
    assert done.code == 0, done.err
    (path,) = done.folder.rglob("sweep.csv")
    assert (path.with_name("report.html")).is_file()
    assert "Δ" in path.with_suffix(".md").read_text(encoding="utf-8")
    shown.flush()
    assert ("\\xb7" if encoding == "ascii" else "·") in shown.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("name=1e5", "name='1e5'"),
        ("+name=007", "+name='007'"),
        ("output_root=2026", "output_root='2026'"),
        ("seed=1e5", "seed=1e5"),
        ("name=a,b", "name=a,b"),
        ("fg_threshold=range(0.5,0.9,0.2)", "fg_threshold=0.5,0.7"),
        ("bg_threshold=range(start=0.1, stop=0.4, step=0.1)", "bg_threshold=0.1,0.2,0.3"),
        ("x=range(1,0,-0.25)", "x=1,0.75,0.5,0.25"),
        ("x=range(0,1e-3,5e-4)", "x=0,0.0005"),
        ("grid_size=range(1,9,2)", "grid_size=range(1,9,2)"),
        ("x=range(0,1,0.0)", "x=range(0,1,0.0)"),
        ("x=shuffle(range(0.1,1,0.3))", "x=shuffle(range(0.1,1,0.3))"),
        ("-m", "-m"),
        ("~logger", "~logger"),
        ("--pipeline=fgbg", "pipeline=fgbg"),
        ("--name=1e5", "name='1e5'"),
        ("--pipeline.n=2", "pipeline.n=2"),
        ("--config-name=config", "--config-name=config"),
        ("--cfg=job", "--cfg=job"),
    ],
)
def test_numbers_are_read_as_they_are_written(given: str, meant: str):
    assert as_meant([given]) == [meant]


def test_a_range_and_a_name_arrive_as_they_were_given(run):
    done = run("-m", "limit=4", "name=1e5", "fg_threshold=range(0.5,0.9,0.2)")
    assert done.code == 0, done.err
    (path,) = done.folder.glob("1e5/*/sweep.csv")
    assert pd.read_csv(path, dtype=str)["fg_threshold"].tolist() == ["0.5", "0.7"]


@pytest.mark.parametrize("path", ["/data/a=b", "/data/a (2)", "/data/[a", "/data/a:b,c={"])
def test_a_path_that_hydra_does_not_understand_is_named_and_quoted(run, path: str):
    done = run("data=folder", f"data.root={path}")
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert done.err.startswith("gradsam_exp: data.root")
    quoted = re.search(r"in quotes it is text: '(data\.root=.*)'$", done.err.strip())
    again = run("data=folder", quoted[1])
    assert f"data.root={path} does not exist" in again.err


def test_a_sweep_that_could_have_no_table_is_refused(run):
    for override in ("hydra.sweep.subdir='x/${hydra.job.num}'", "hydra.output_subdir=null"):
        done = run("-m", "limit=4", "pipeline=fg,argmax", override)
        assert done.code == 1
        assert done.err.startswith(f"gradsam_exp: {override.partition('=')[0]}=")
        assert done.err.count("\n") == 1
        assert not list(done.folder.rglob("run.log"))


def test_jobs_that_lie_too_deep_are_named(run):
    done = run("-m", "limit=4", "pipeline=fg,argmax", "hydra.sweep.subdir=${hydra.job.override_dirname}")
    assert done.code == 1
    assert "the jobs lie too deep for a table: python run.py task=report runs=" in done.err


def test_paths_are_those_of_where_the_command_was_given(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    done = run("limit=4", "hydra.job.chdir=true", "store.root=outputs/.store-of-a-test")
    store = Path("outputs/.store-of-a-test")
    try:
        assert done.code == 0, done.err
        assert list(store.rglob("*.safetensors"))
        assert not list(done.folder.rglob("outputs"))
    finally:
        for path in sorted(store.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        store.rmdir()


def test_a_composed_configuration_runs_in_a_notebook(tmp_path: Path, random_weights: list[str]):
    config = gradsam_exp.compose(
        ["limit=4", "logger=none", "name=1e5", f"output_root={tmp_path}", *random_weights]
    )
    assert config.name == "1e5"
    config.task["figures"] = False
    assert 0 <= evaluate.run(config, Job(tmp_path / "run")) <= 1
    assert (tmp_path / "run" / "metrics.json").is_file()


@pytest.mark.slow
def test_the_jobs_of_a_sweep_have_ids_of_their_own(run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_RUN_ID", "one")
    done = run("-m", "limit=4", "pipeline=fg,argmax", "logger=wandb", "logger.images=0")
    assert done.code == 0, done.err
    assert "WANDB_RUN_ID is one run's: the jobs of a sweep have ids of their own" in done.err
    ids = {offline.name.rpartition("-")[2] for offline in offline_runs(done.folder)}
    assert len(ids) == 2
    assert "one" not in ids


@pytest.mark.skipif(find_spec("optuna") is None, reason="NOT TESTED: needs pip install -e '.[sweep]'")
def test_a_search_that_can_find_nothing_is_refused_at_once(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "photos" / "images" / "val"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(folder / "a.png")
    search = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "split=val", "pipeline=fg,argmax")
    done = run(*search, "data=folder", f"data.root={tmp_path / 'photos'}", "data.labels=none")
    assert done.code == 1
    assert done.err.strip().splitlines()[-1] == (
        "gradsam_exp: every job has failed: hydra/sweeper looks for the highest mIoU, "
        "but the images of data=folder have no masks"
    )

    def old(_: str) -> None:
        raise AssertionError

    monkeypatch.setattr("optuna.storages.get_storage", old)
    done = run(*search, "hydra.sweeper.storage=sqlite:///x.db")
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert done.err.startswith("gradsam_exp: hydra.sweeper.storage=sqlite:///x.db cannot be used with Optuna")


def test_letters_that_no_font_has_are_one_note(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    figures._say_missing.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in ("one", "two"):
            with figures.styled():
                figure = Figure()
                figure.text(0.1, 0.5, "\U00012000\U00012001 猫")  # cuneiform: no common font has it
                figures.save_figure(figure, tmp_path / f"{name}.png")
                warnings.warn("something else", UserWarning, stacklevel=1)
    assert capsys.readouterr().err.count("are boxes in the figures") == 1
    assert [str(one.message) for one in caught] == ["something else"] * 2


def test_a_font_that_is_installed_is_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(figures, "get_font_names", lambda: ["DejaVu Sans", "Noto Sans CJK JP", "Comic Sans MS"])
    figures._more_fonts.cache_clear()
    assert figures._more_fonts() == ("Noto Sans CJK JP",)
    figures._more_fonts.cache_clear()


def test_a_file_is_replaced_where_renaming_onto_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As on Windows, whose ``rename`` takes no name that there is."""

    def rename(self: Path, target: Path) -> Path:
        raise FileExistsError(target)

    monkeypatch.setattr(Path, "rename", rename)
    for _ in range(2):
        save_weights(tmp_path / "weights.safetensors", {}, {"kind": "compact"})
    assert os.listdir(tmp_path) == ["weights.safetensors"]
