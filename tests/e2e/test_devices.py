"""Several processes prepare one run: the same tables as one, and each chunk made once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import gradsam_exp as gs
from gradsam_exp.engine.plan import plan
from gradsam_exp.engine.session import Job
from gradsam_exp.segmenters.sam import SamSegmenter
from tests.faults.counts import only_soaking


def files(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("metrics.json", "per_image.parquet", "predictions.parquet")]


def made_here(*_: object) -> None:
    raise AssertionError("the run itself reads what the processes made")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "devices", "chunks"),
    [
        pytest.param(130, 2, 3, id="uneven"),
        pytest.param(72, 3, 2, id="fewer-chunks-than-processes", marks=only_soaking),
    ],
)
def test_two_processes_give_what_one_gives(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, devices: int, chunks: int
):
    given = (f"limit={limit}", "pipeline=fgbg", "task.faithfulness=false")
    one = run(*given, f"store.root={tmp_path / 'one'}")
    with monkeypatch.context() as patch:  # of this process; those that are spawned do not see it
        patch.setattr(SamSegmenter, "encode", made_here)
        patch.setattr("gradsam_exp.classifiers.checkpoints.ClassifierFile.load", made_here)
        two = run(*given, f"store.root={tmp_path / 'two'}", f"devices={devices}")
    assert one.code == two.code == 0, two.out + two.err
    first, second = two.runs
    assert files(first) == files(second)
    assert json.loads((second / "metrics.json").read_text())["metrics"]["miou"]["n"] == limit
    for stage, entries in (("images", 1), ("heatmaps", 1), ("quality", 4), ("embeddings", 1)):  # four metrics
        names = [
            sorted(path.name for path in (tmp_path / s / stage).glob("*.safetensors")) for s in ("one", "two")
        ]
        assert names[0] == names[1]
        assert len(names[0]) == chunks * entries


@pytest.mark.slow
@only_soaking
def test_a_sweep_on_two_processes_is_one_sweep_and_spawns_them_once(run):
    done = run("-m", "pipeline=fg,fgbg", "devices=2", "limit=72")
    assert done.code == 0, done.err
    assert len(done.runs) == 2, "the processes do not repeat the command line"
    seconds = [json.loads((folder / "provenance.json").read_text())["seconds"] for folder in done.runs]
    assert seconds[1]["devices"] < 1 < seconds[0]["devices"], "the second job finds everything in the store"


@pytest.mark.slow
def test_what_is_wrong_is_one_line_with_two_processes_as_well(run):
    done = run("devices=2", "limit=72", "explainer=attention_rollout")
    assert done.code == 1
    assert done.err.startswith("gradsam_exp: this explainer needs attention")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["devices=0"], r"devices=0: must be at least 1"),
        (
            ["devices=2", "store.enabled=false"],
            r"devices=2 hand over .* store.enabled=false: leave it on",
        ),
        (["devices=2", "device=cpu:0"], r"devices=2, but device=cpu:0 names one; use device=cpu"),
        (["devices=9", "device=cuda"], r"device=cuda cannot be used here|devices=9: this machine has \d GPUs"),
    ],
)
def test_devices_that_cannot_be_are_refused(run, overrides: list[str], message: str):
    done = run(*overrides)
    assert done.code == 1
    (line,) = done.err.strip().splitlines()
    assert re.match(f"gradsam_exp: {message}", line), line


def test_chunks_that_another_process_has_in_hand_come_last(
    tmp_path: Path, random_weights: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gradsam_exp.engine.preparation.CHUNK", 2)
    planned = plan(
        gs.compose(["limit=7", f"store.root={tmp_path}", "logger=none", *random_weights]), Job(tmp_path)
    )
    images, preparation = planned.dataset, planned.preparation()
    first, second, third, last = (batch.example_ids for batch in preparation.images(images))
    assert [len(ids) for ids in (first, second, third, last)] == [2, 2, 2, 1]
    ours, theirs = ((batch.example_ids for batch in preparation.images(images)) for _ in range(2))
    assert next(ours) == first
    assert next(theirs) == second
    assert next(ours) == third, "the second is in the other's hands"
    assert next(theirs) == last
    assert list(ours) == [second, last]
    assert list(theirs) == [first, third]
    assert not list((tmp_path / "claims").iterdir())


def test_what_is_missing_is_told_by_the_store(tmp_path: Path, random_weights: list[str]):
    planned = plan(
        gs.compose(["limit=72", f"store.root={tmp_path}", "logger=none", *random_weights]), Job(tmp_path)
    )
    preparation = planned.experiment().prepare
    first, second = preparation.missing(planned.dataset)
    for item in preparation(planned.dataset, chunks=[second]):
        assert isinstance(item.batch.images, torch.Tensor)
        assert len(item.batch) == 8
    assert preparation.missing(planned.dataset) == [first]
    assert preparation.missing(planned.dataset, [second]) == []
    next((tmp_path / "embeddings").glob("*.safetensors")).unlink()
    assert preparation.missing(planned.dataset) == [first, second]
