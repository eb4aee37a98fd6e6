"""The weights that ship: whole, small enough, and as good as the documentation says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import gradsam_exp
from gradsam_exp.classifiers.checkpoints import find_classifier
from gradsam_exp.weights import shipped
from tests.e2e.conftest import ROOT
from tests.faults.counts import only_soaking, soaked

WEIGHTS = Path(gradsam_exp.__file__).parent / "weights"


def test_every_file_is_listed_whole_and_has_a_card():
    index = json.loads((WEIGHTS / "index.json").read_text())
    assert set(index) == {"compact", "compact_drawn", "resnet18-shapes", "resnet18_weak"}
    assert {entry["file"] for entry in index.values()} == {path.name for path in WEIGHTS.glob("*.safetensors")}
    for name, limit_mb in (("compact", 16), ("compact_drawn", 12), ("resnet18-shapes", 25), ("resnet18_weak", 3)):
        file = shipped(name)  # checks the digest
        assert file.path.stat().st_size < limit_mb * 2**20
        card = (WEIGHTS / f"{name}.md").read_text(encoding="utf-8")
        assert "## Training" in card
        assert "## Quality" in card


COLUMNS = ("fg_hit_rate", "distance_px", "miou")
PROMISED = {
    "fg": "0.965 [0.951, 0.978] | 2.500 [2.285, 2.749] | 0.954 [0.940, 0.967]",
    "fgbg": "0.965 [0.951, 0.978] | 2.500 [2.285, 2.749] | 0.945 [0.931, 0.957]",
    "center": "0.110 [0.082, 0.140] | 15.970 [15.416, 16.528] | 0.141 [0.113, 0.172]",
    "oracle": "1.000 | 0.000 | 0.970 [0.963, 0.977]",
}
"""Rows of the documentation's first table (``background=mixed``): mean and 95 % interval."""

ACCURACY = "0.980 [0.968, 0.992]"  # of the classifier, on its card


def written(metric: dict) -> str:
    """As the table writes it: no interval where it has no width."""
    mean, low, high = (f"{value:.3f}" for value in (metric["mean"], *metric["ci95"]))
    return mean if low == high else f"{mean} [{low}, {high}]"


def test_what_is_promised_is_what_the_documentation_says():
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    lines = {line for path in documents for line in path.read_text(encoding="utf-8").splitlines()}
    for pipeline, row in PROMISED.items():
        bound = " (upper bound)" if pipeline == "oracle" else ""
        assert f"| `{pipeline}`{bound} | `compact`, mixed | {row} |" in lines
    assert f"| accuracy | {ACCURACY} |" in (WEIGHTS / "resnet18-shapes.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_runs_give_what_the_documentation_promises(run):
    given = ("logger=none", "task.figures=false", "task.faithfulness=false")
    promised = {name: PROMISED[name] for name in soaked(["fg", "fgbg"], list(PROMISED))}
    done = run("-m", f"pipeline={','.join(promised)}", *given, defaults=False)
    assert done.code == 0, done.err
    for (pipeline, row), folder in zip(promised.items(), done.runs, strict=True):
        metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
        assert (pipeline, " | ".join(written(metrics[name]) for name in COLUMNS)) == (pipeline, row)
        assert metrics["miou"]["n"] == 500
        assert written(metrics["accuracy"]) == ACCURACY


def test_the_weak_classifier_has_the_layers_of_the_good_one_and_takes_any_size():
    weak, good = (find_classifier(f"shipped:{name}") for name in ("resnet18_weak", "resnet18-shapes"))
    assert (weak.class_names, weak.size) == (good.class_names, None)
    channels = [len(one.outline().backbone.get_submodule("layer2")[-1].conv2.weight) for one in (weak, good)]
    assert channels == [128, 128]


@pytest.mark.slow
@only_soaking
def test_the_weak_classifier_is_as_weak_as_its_card_says(run):
    done = run("model=resnet18_weak", "logger=none", "task.figures=false", defaults=False)
    assert done.code == 0, done.err
    accuracy = json.loads(next(done.folder.rglob("metrics.json")).read_text())["metrics"]["accuracy"]
    assert 0.86 <= accuracy["mean"] <= 0.90
    assert f"| accuracy | {written(accuracy)} |" in (WEIGHTS / "resnet18_weak.md").read_text(encoding="utf-8")
