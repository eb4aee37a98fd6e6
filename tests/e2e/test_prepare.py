"""``task=prepare`` shares one data set out over jobs through the store; a run then makes nothing itself."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from gradsam_exp.engine import preparation
from gradsam_exp.engine.store import Store
from gradsam_exp.tasks import prepare


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "CHUNK", 4)


def chunks(folder: Path) -> list[Path]:
    return sorted((folder / ".store" / "embeddings").glob("*.safetensors"))


def test_shards_begin_far_from_each_other():
    assert [prepare.radical_inverse(k) for k in range(6)] == [0, 0.5, 0.25, 0.75, 0.125, 0.625]


def test_shards_make_everything_once_and_a_run_makes_nothing(run, monkeypatch: pytest.MonkeyPatch):
    done = run("-m", "task=prepare", "shard=range(0,3)", "limit=12")
    assert done.code == 0, done.err
    assert len(chunks(done.folder)) == 3
    assert "12 images prepared, 0 were there" in done.out
    assert done.out.count("0 images prepared, 12 were there") == 2

    def made(self, stage: str, key: str, make, usable=None):
        pytest.fail(f"{stage} is made again")

    monkeypatch.setattr(Store, "_write", made)
    assert run("limit=12", "pipeline=fg").code == 0


def test_what_another_has_in_hand_is_left_to_it(run, monkeypatch: pytest.MonkeyPatch):
    """Two shards at once: while the first is at its first chunk, the second makes the rest."""
    seen: list[str] = []
    in_turn = prepare.in_turn

    def first(preparation, dataset, missing, shard: int):
        with preparation.claimed(dataset, missing[0]) as free:
            assert free
            yield from in_turn(preparation, dataset, missing, shard)
            seen.append("second has ended")

    monkeypatch.setattr(prepare, "in_turn", first)
    done = run("task=prepare", "shard=1", "limit=12")
    assert done.code == 0, done.err
    assert seen == ["second has ended"]
    assert len(chunks(done.folder)) == 2
    assert "8 images prepared, 0 were there, 0 came from others meanwhile, 4 are in others' hands" in done.out


def test_half_precision_takes_half_the_room_and_is_a_run_of_its_own(run):
    given = {"whole": "store.half=false", "half": "store.half=true"}
    whole, half = (run("limit=8", "pipeline=fgbg", value, f"name={name}") for name, value in given.items())
    assert (whole.code, half.code) == (0, 0), half.err
    sizes = sorted(path.stat().st_size for path in chunks(half.folder))
    assert len(sizes) == 4
    assert sizes[-1] > 1.9 * sizes[0]
    runs = [next(half.folder.glob(f"{name}/*/metrics.json")) for name in given]
    said = [json.loads(path.read_text()) for path in runs]
    assert said[0]["identity"] != said[1]["identity"]
    tables = [pd.read_parquet(path.parent / "per_image.parquet") for path in runs]
    assert (tables[0]["iou"] - tables[1]["iou"]).abs().mean() < 0.05


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["store.enabled=false"], "task=prepare fills the store, but store.enabled=false"),
        (["shard=-1"], "shard=-1"),
        (["store.max_gb=1e-6"], "store.max_gb=1e-06 is too little"),
    ],
)
def test_what_cannot_be_is_one_line(run, overrides: list[str], message: str):
    done = run("task=prepare", *overrides)
    assert done.code == 1
    assert done.err.strip().splitlines()[-1].startswith(f"gradsam_exp: {message}")
    assert "Traceback" not in done.err
