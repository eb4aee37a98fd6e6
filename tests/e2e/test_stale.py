"""An edit of the code makes exactly what depends on it again. Each test edits a copy of the package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT

pytestmark = pytest.mark.slow
STAGES = ("images", "heatmaps", "refined", "quality", "embeddings")
GIVEN = ["limit=4", "logger=none", "task.figures=false", "refine=guided", "resume=true"]


class Copy:
    """A checkout of its own, whose runs share a store; the code can be edited between them."""

    def __init__(self, folder: Path, weights: list[str]) -> None:
        self.root, self.weights = folder / "checkout", weights
        for name in ("gradsam_exp", "conf"):
            shutil.copytree(ROOT / name, self.root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "run.py", self.root)
        self.store, self.outputs = folder / "store", folder / "outputs"

    def run(self, *overrides: str) -> tuple[Mapping[str, int], dict[str, float], bool]:
        """What was made anew of each stage, the metrics, and whether an earlier run was taken."""
        before = self._entries()
        places = [f"store.root={self.store}", f"output_root={self.outputs}", *self.weights]
        command = [sys.executable, "run.py", *GIVEN, *places, *overrides]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        new = Counter({stage: self._entries()[stage] - before[stage] for stage in STAGES})
        newest = max(self.outputs.rglob("metrics.json"), key=lambda path: path.stat().st_mtime)
        metrics = json.loads(newest.read_text())["metrics"]
        return +new, {name: value["mean"] for name, value in metrics.items()}, "taken from there" in done.stdout

    def _entries(self) -> Counter[str]:
        return Counter({stage: len(list((self.store / stage).glob("*.safetensors"))) for stage in STAGES})

    def edit(self, path: str, old: str, new: str) -> None:
        file = self.root / "gradsam_exp" / path
        text = file.read_text(encoding="utf-8")
        assert old in text, f"{path} has no {old!r}"
        file.write_text(text.replace(old, new), encoding="utf-8")

    def append(self, path: str) -> None:
        file = self.root / "gradsam_exp" / path
        file.write_text(file.read_text(encoding="utf-8") + "\n# edited\n", encoding="utf-8")


@pytest.fixture
def copy(tmp_path: Path, random_weights: list[str]) -> Copy:
    return Copy(tmp_path, random_weights)


def test_an_edit_makes_exactly_what_depends_on_it_again(copy: Copy):
    made, _, taken = copy.run()
    every = set(STAGES)
    assert set(made) == every
    assert not taken
    assert copy.run()[::2] == ({}, True), "nothing was edited"
    heat, own = {"heatmaps", "refined", "quality"}, {"quality"}
    for path, expected in {
        "engine/stages/images.py": every,
        "data/shapes.py": every,
        "data/dead_leaves.py": every,  # what the background draws with
        "types.py": every,
        "engine/stages/heatmaps.py": heat,
        "explainers/gradient.py": heat,
        "explainers/layers.py": heat,
        "classifiers/transform.py": heat,
        "engine/stages/refined.py": {"refined", "quality"},
        "refiners/edges.py": {"refined", "quality"},
        "engine/stages/quality.py": own,
        "metrics/heatmaps.py": own,
        "engine/stages/embeddings.py": {"embeddings"},
        "segmenters/encoder.py": {"embeddings"},
        # And of these no stage depends, but the run does:
        "engine/experiment.py": set(),
        "engine/pipeline.py": set(),
        "prompts/foreground.py": set(),
        "selectors/score.py": set(),
        "metrics/masks.py": set(),
    }.items():
        copy.append(path)
        made, _, taken = copy.run()
        assert (path, set(made), taken) == (path, expected, False)
    for path in ("prompts/peaks.py", "explainers/attention.py", "reports/page.py", "tracking/upload.py"):
        copy.append(path)
        assert copy.run()[::2] == ({}, True), f"{path} is not part of this run"


def test_a_metric_that_changed_is_measured_again(copy: Copy):
    """Reported: ``pointing_game × 0`` still printed the old number from the store."""
    _, before, _ = copy.run()
    assert before["pointing_game"] > 0
    copy.edit("metrics/heatmaps.py", "return (near & masks).flatten(1).any(1).double()", "return 0 * x.double()")
    _, after, _ = copy.run()
    assert after["pointing_game"] == 0


def test_a_run_whose_code_changed_is_not_taken_for_the_same(copy: Copy):
    """Reported: with ``iou`` halved, ``resume=true`` said that it is the same run."""
    _, before, _ = copy.run()
    copy.edit("overlap.py", "return torch.where(union > 0, ", "return 0.5 * torch.where(union > 0, ")
    _, after, taken = copy.run()
    assert not taken
    assert after["miou"] == pytest.approx(before["miou"] / 2)


def test_the_classifiers_transform_counts_for_the_heatmaps(copy: Copy):
    """Reported: with ``/300`` for ``/255`` heatmaps were not made again."""
    copy.run()
    copy.edit("classifiers/transform.py", "/ 255", "/ 300")
    made, _, _ = copy.run()
    assert made["heatmaps"] == 1
    assert made["embeddings"] == 0
