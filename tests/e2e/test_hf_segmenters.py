"""Every class of transformers that segments runs in the chain, in a sweep, and out of the store."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from safetensors import safe_open

from gradsam_exp.segmenters.hf import HfSegmenter
from tests.e2e.conftest import ROOT
from tests.faults.counts import only_soaking
from tests.hf_models import SIDES, saved

LEVELS = {"sam": 1, "sam_hq": 2, "sam2": 3, "edgetam": 3, "sam3_tracker": 3}

PRESETS = sorted(path.stem for path in (ROOT / "conf" / "sam").glob("*.yaml") if "\nid: " in path.read_text())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: saved(kind, root / kind) for kind in SIDES}


@pytest.mark.slow
@only_soaking
def test_all_classes_run_in_a_sweep_and_again_from_the_store(run, folders, random_weights, monkeypatch):
    ids = ",".join(map(str, folders.values()))
    common = ["logger=none", "limit=8", random_weights[0], "task.figures=false", "sam=hf"]
    swept = ("pipeline=fg,fgbg,cascade,box", f"sam.id={ids}", "selector=single,predicted_iou")
    first = run("-m", *common, *swept, defaults=False)
    assert first.code == 0, first.err
    (path,) = first.folder.rglob("sweep.csv")
    table = pd.read_csv(path)
    assert len(table) == 4 * 5 * 2
    assert table["status"].eq("finished").all()
    assert table["miou"].between(0, 1, inclusive="neither").all()
    assert table.groupby("pipeline")["miou"].nunique().min() >= 5, "each class has answers of its own"
    chunks = list((first.folder / ".store" / "embeddings").glob("*.safetensors"))
    found = []
    for chunk in chunks:
        with safe_open(chunk, "pt") as file:
            found.append(len(file.keys()))
    assert sorted(found) == sorted(LEVELS.values())

    def never(*_: object) -> None:
        raise AssertionError("the store has the embeddings")

    monkeypatch.setattr(HfSegmenter, "encode", never)
    for kind in ("sam_hq", "sam3_tracker"):
        again = run(*common, f"sam.id={folders[kind]}", "sam.coordinates=corners", defaults=False)
        assert again.code == 0, again.err
        assert f"fg · gradcam · {kind} · shapes/test" in again.out
    with pytest.raises(AssertionError, match="the store has"):
        run(*common, f"sam.id={folders['sam']}", "sam.tta=2", defaults=False)


@pytest.mark.slow
@pytest.mark.parametrize("given", ["sam.precision=bf16", "sam.tta=8"])
def test_options_of_all_segmenters_work_for_these_as_well(run, folders, random_weights, given: str):
    common = ["logger=none", "limit=8", random_weights[0], "task.figures=false", "sam=hf", "pipeline=cascade"]
    done = run(*common, f"sam.id={folders['sam2']}", given, defaults=False)
    assert done.code == 0, done.err


def test_weights_for_boxes_only_are_refused_to_points_before_they_are_fetched(run, random_weights, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("fetched"))
    done = run("sam=medsam", "pipeline=box_points", random_weights[0], "logger=none", defaults=False)
    assert done.code == 1
    assert done.err.strip() == (
        "gradsam_exp: pipeline=box_points prompts with points, which sam=wanglab/medsam-vit-base does not accept; "
        "it accepts boxes"
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_without_a_network_a_preset_names_what_to_do(run, random_weights, preset: str, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = run(f"sam={preset}", "pipeline=box", random_weights[0], "logger=none", defaults=False)
    assert done.code == 1
    assert "could not be downloaded" in done.err
    assert "give its folder, or use sam=compact" in done.err
    assert done.err.count("\n") == 1
