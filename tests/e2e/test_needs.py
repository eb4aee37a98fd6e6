"""What a strategy needs is made and stored; what it does not need is not even loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gradsam_exp.engine.stages.heatmaps import Explained
from tests.e2e.conftest import Finished
from tests.faults.counts import only_soaking

SMALL = ["pipeline.points_per_side=3", "pipeline.pred_iou_thresh=0", "pipeline.stability_score_thresh=0"]
Run = Callable[..., Finished]


def stored(folder: Path, stage: str) -> int:
    return len(list((folder / ".store" / stage).glob("*.safetensors")))


def identity(folder: Path) -> str:
    newest = max(folder.rglob("metrics.json"), key=lambda path: path.stat().st_mtime)
    return str(json.loads(newest.read_text())["identity"])


@only_soaking
def test_everything_mode_is_made_once_for_all_heatmaps_and_strategies(run: Run):
    folder = run("pipeline=fg").folder
    assert stored(folder, "everything") == 0
    identities = []
    for number, overrides in (
        (1, ["pipeline=everything_vote", *SMALL]),
        (1, ["pipeline=everything_merge", "explainer=eigencam", *SMALL]),
        (1, ["pipeline=box_then_everything", "selector=single", *SMALL]),
        (2, ["pipeline=everything_vote", *SMALL, "pipeline.points_per_side=2"]),
        (3, ["pipeline=everything_vote", *SMALL, "sam.coordinates=corners"]),
    ):
        done = run(*overrides)
        assert done.code == 0, done.err
        assert stored(folder, "everything") == number, overrides
        assert stored(folder, "embeddings") == 1
        identities.append(identity(folder))
    assert len(set(identities)) == len(identities)


@only_soaking
def test_a_refiner_and_a_strategy_share_everything_mode_if_they_ask_the_same(run: Run):
    refine = ["refine=segments", *(knob.replace("pipeline", "refine") for knob in SMALL)]
    identities = []
    for number, refined, overrides in (
        (1, 1, refine),
        (1, 1, [*refine, "pipeline=everything_vote", *SMALL]),
        (2, 1, [*refine, "pipeline=everything_vote", *SMALL, "pipeline.points_per_side=2"]),
        (2, 2, [*refine, "refine.overlap=mean"]),
        (2, 3, [*refine, "refine.points_per_side=2"]),
        (3, 4, [*refine, "sam.coordinates=corners"]),
        (3, 4, [*refine, "pipeline=gensam", "pipeline.max_rounds=2"]),
    ):
        done = run(*overrides)
        assert done.code == 0, done.err
        assert (stored(done.folder, "everything"), stored(done.folder, "refined")) == (number, refined), overrides
        identities.append(identity(done.folder))
    assert len(set(identities)) == len(identities)


def test_a_selector_that_has_no_effect_is_named_and_the_run_is_the_same(run: Run):
    first = run("pipeline=subsets", "pipeline.draws=1", "selector=largest")
    assert "selector has no effect with pipeline=subsets" in first.out
    before = identity(first.folder)
    run("pipeline=subsets", "pipeline.draws=1")
    assert identity(first.folder) == before


def test_the_classifier_is_asked_again_only_where_a_strategy_needs_it(run: Run, monkeypatch: pytest.MonkeyPatch):
    asked, explain = [], Explained.of_classes
    monkeypatch.setattr(Explained, "of_classes", lambda *given: asked.append(given) or explain(*given))
    run("pipeline=fg")
    assert len(asked) == 1, "one chunk"
    run("pipeline=persam")
    assert len(asked) == 1, "its heatmaps are stored"
    assert run("pipeline=gensam", "pipeline.max_rounds=3", "refine=guided").code == 0
    assert len(asked) == 3


def test_persam_is_refused_with_features_of_several_views(run: Run):
    done = run("pipeline=persam", "sam.tta=2")
    assert done.code == 1
    assert "use sam.tta=1" in done.err


def test_segments_are_refused_without_a_network_that_finds_them(run: Run):
    done = run("refine=segments", "pipeline=threshold", "sam=none", "logger=none", defaults=False)
    assert done.code == 1
    assert "refine=segments needs SAM's everything mode" in done.err
    assert "which sam=none does not have: choose sam=compact or refine=superpixels" in done.err
