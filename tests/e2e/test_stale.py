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


HEAT = {"heatmaps", "refined", "quality"}
DEPENDS = {  # what is made again after an edit
    "engine/stages/images.py": set(STAGES),
    "data/shapes.py": set(STAGES),
    "data/dead_leaves.py": set(STAGES),  # what the background draws with
    "types.py": set(STAGES),
    "engine/stages/heatmaps.py": HEAT,
    "explainers/gradient.py": HEAT,
    "explainers/layers.py": HEAT,
    "classifiers/transform.py": HEAT,
    "engine/stages/refined.py": {"refined", "quality"},
    "refiners/edges.py": {"refined", "quality"},
    "engine/stages/quality.py": {"quality"},
    "metrics/heatmaps.py": {"quality"},
    "engine/stages/embeddings.py": {"embeddings"},
    "segmenters/encoder.py": {"embeddings"},
}
RUN_ONLY = [  # no stage depends on these, but the run does
    "engine/experiment.py",
    "engine/pipeline.py",
    "prompts/foreground.py",
    "selectors/score.py",
    "metrics/masks.py",
]
NEITHER = ["prompts/peaks.py", "explainers/attention.py", "reports/page.py", "tracking/upload.py"]

EDIT_AND_COMPARE = """
import json, sys
from pathlib import Path
import gradsam_exp as gs
from gradsam_exp import digest, registry
from gradsam_exp.engine import plan
from gradsam_exp.engine.stages import base

assert gs.__file__.startswith(str(Path.cwd())), "the copy is what is edited"
config, job = gs.compose(sys.argv[2:]), gs.Job(Path("nowhere"))

def recipes():
    for module in (base, plan, registry):
        module.source_digest = digest.Sources().digest  # reads the files as a process that starts now would
    planned = plan.plan(config, job)
    found = {stage.label: (stage.name, stage.recipe, stage.after) for stage in planned.preparation().stages}
    return found, planned.identity

stages, identity = recipes()
answers = {}
for path in json.loads(sys.argv[1]):
    file = Path("gradsam_exp", path)
    text = file.read_text(encoding="utf-8")
    file.write_text(text + "# edited\\n", encoding="utf-8")
    edited, other = recipes()
    file.write_text(text, encoding="utf-8")
    again = set()
    for label, (name, recipe, after) in edited.items():
        if recipe != stages[label][1] or again.intersection(after):
            again.add(label)
    answers[path] = sorted({edited[label][0] for label in again}), other != identity
print(json.dumps(answers))
"""


def test_an_edit_changes_the_keys_of_exactly_what_depends_on_it(copy: Copy):
    paths = [*DEPENDS, *RUN_ONLY, *NEITHER]
    places = ["store.enabled=false", *GIVEN, *copy.weights]
    command = [sys.executable, "-c", EDIT_AND_COMPARE, json.dumps(paths), *places]
    done = subprocess.run(command, cwd=copy.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert {path: set(stages) for path, (stages, _) in answers.items()} == {
        path: DEPENDS.get(path, set()) for path in paths
    }
    assert [path for path, (_, another_run) in answers.items() if not another_run] == NEITHER


def test_an_edit_makes_exactly_what_depends_on_it_again(copy: Copy):
    """The same with real runs, one edit of each kind."""
    made, _, taken = copy.run()
    assert set(made) == set(STAGES)
    assert not taken
    assert copy.run()[::2] == ({}, True), "nothing was edited"
    for path in ("refiners/edges.py", "segmenters/encoder.py", "prompts/foreground.py"):
        copy.append(path)
        made, _, taken = copy.run()
        assert (path, set(made), taken) == (path, DEPENDS.get(path, set()), False)
    copy.append("reports/page.py")
    assert copy.run()[::2] == ({}, True), "the report is not part of this run"


def test_a_metric_that_changed_is_measured_again(copy: Copy):
    """Reported: ``pointing_game × 0`` still printed the old number from the store."""
    _, before, _ = copy.run()
    assert before["pointing_game"] > 0
    copy.edit(
        "metrics/heatmaps.py", "(near & truth).flatten(1).any(1).double()", "0 * near.flatten(1)[:, 0].double()"
    )
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


def test_a_metric_that_joins_has_a_value_of_every_image(copy: Copy):
    """Reported: a new metric came out as 136 of 200 values, those whose chunks were not in the store."""
    copy.run()
    _, metrics, taken = copy.run("+metrics.boundary_iou=true", "task.faithfulness=true", "limit=6")
    assert not taken
    assert {"boundary_iou", "road"} <= set(metrics)
    newest = max(copy.outputs.rglob("metrics.json"), key=lambda path: path.stat().st_mtime)
    counts = {name: value["n"] for name, value in json.loads(newest.read_text())["metrics"].items()}
    assert set(counts.values()) - {0} == {6}
