"""Each file of somebody else's run may be anything: the run is left out by name or shown without it."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gradsam_exp.classifiers.networks import read_weights
from gradsam_exp.errors import InputError
from tests.faults.counts import soaked
from tests.reports.finished_runs import write_run
from tests.reports.test_hostile import ask, keep

NEEDED = ("metrics.json", "per_image.parquet", "provenance.json", ".hydra/config.yaml", ".hydra/overrides.yaml")
MORE = ("predictions.parquet", "prepared.json", "counts.parquet", "problems.csv", "run.log", "figures/figure1.png")
SECRET = "s3cret-0123456789"


class Creates:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return open, (str(self.file), "w")


def gone(path: Path) -> Path:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    return path


def secret(path: Path) -> Path:
    """A file of the reader's own, which every reader of a run's files could make sense of."""
    place = path.parents[2] / "secret"
    place.write_text(f'{{"{SECRET}": 1}}')
    return place


def huge(path: Path) -> None:
    gone(path).touch()
    os.truncate(path, 2**40)


HOSTILE: dict[str, Callable[[Path], object]] = {
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 20),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7] if path.suffix != ".yaml" else b"a: [b"),
    "huge": huge,
    "device": lambda path: gone(path).symlink_to("/dev/zero"),
    "loop": lambda path: gone(path).symlink_to(path),
    "away": lambda path: gone(path).symlink_to(secret(path)),
    "pipe": lambda path: os.mkfifo(gone(path)),
    "folder": lambda path: gone(path).mkdir(),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Creates(path.parents[2] / "ran"))),
    "missing": gone,
}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with one whole run."""
    write_run(tmp_path / "runs" / "whole", {"pipeline": "fg", "seed": "7"}, [0.5] * 4)
    return tmp_path / "runs"


def other(runs: Path, name: str) -> Path:
    run = write_run(runs / name, {"pipeline": "argmax"}, [0.6] * 4)
    keep(runs.parent / "store", run)
    pd.DataFrame({"metric": ["m"], "image_id": ["a"], "part": [0], "a": [1.0]}).to_parquet(run / "counts.parquet")
    for more in ("problems.csv", "run.log", "figures/figure1.png"):
        (run / more).parent.mkdir(exist_ok=True)
        (run / more).write_text("file,problem\n")
    return run


def asked_beside_hostile(runs: Path, tmp_path: Path, name: str) -> str:
    """The report's page where other runs have each hostile thing instead of a file; no secret, nothing has run."""
    for kind, spoil in HOSTILE.items():
        spoil(other(runs, kind) / name)
    page = ask(runs, tmp_path / "report", root=str(tmp_path / "store"))
    assert SECRET not in page
    assert not list(tmp_path.rglob("ran"))
    return page


@pytest.mark.slow
@pytest.mark.parametrize("name", soaked(NEEDED[:2], NEEDED))
def test_a_run_without_a_file_that_is_needed_is_left_out_by_name(
    runs: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    page = asked_beside_hostile(runs, tmp_path, name)
    said = capsys.readouterr().err.splitlines()
    for kind in HOSTILE:
        assert sum(f"/{kind} is left out: " in line for line in said) == 1, (kind, said)
    assert "seed=7" in page


@pytest.mark.slow
@pytest.mark.parametrize("name", soaked(MORE[:1], MORE))
def test_a_run_without_a_file_that_is_not_needed_is_shown(
    runs: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    asked_beside_hostile(runs, tmp_path, name)
    assert "left out" not in capsys.readouterr().err
    table = pd.read_csv(tmp_path / "report" / "sweep.csv")
    assert table["status"].tolist() == ["finished"] * (1 + len(HOSTILE))


def test_a_table_that_names_a_pickled_type_runs_nothing(runs: Path, tmp_path: Path):
    """Parquet files may say how to make a type of Arrow's by a pickle."""
    run = other(runs, "typed")
    table = pq.read_table(run / "per_image.parquet")
    kind = {b"ARROW:extension:name": b"arrow.py_extension_type"}
    kind[b"ARROW:extension:metadata"] = pickle.dumps(Creates(tmp_path / "ran"))
    fields = [field.with_metadata(kind) if field.name == "iou" else field for field in table.schema]
    pq.write_table(table.cast(pa.schema(fields)), run / "per_image.parquet")
    page = ask(runs, tmp_path / "report", enabled=False)
    assert "seed=7" in page
    assert not (tmp_path / "ran").exists()


CHECKPOINTS = {
    "classifier.ckpt": ["model.checkpoint={}"],
    "classifier.safetensors": ["model.checkpoint={}"],
    "compact.safetensors": ["sam.checkpoint={}"],
    "sam_vit_b.pth": ["sam=vit_b", "sam.checkpoint={}"],
    "start.safetensors": ["task=train", "task.start={}"],
    "compact_start.safetensors": ["task=train_sam", "task.start={}"],
}


@pytest.mark.parametrize("name", ["state.pt", "state.pth", "state.ckpt", "state.safetensors"])
def test_weights_of_any_network_that_hold_a_program_are_refused(tmp_path: Path, name: str):
    for write in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))):
        write({"state_dict": {"x": Creates(tmp_path / "ran")}}, tmp_path / name)
        with pytest.raises(InputError, match=name):
            read_weights(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_checkpoint_that_holds_a_program_is_refused_in_one_line(run, tmp_path: Path, name: str, form: str):
    path, content = tmp_path / name, {"state_dict": {"x": Creates(tmp_path / "ran")}}
    if form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    done = run(*(override.format(path) for override in CHECKPOINTS[name]))
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert str(path) in done.err
    assert not (tmp_path / "ran").exists()
