"""An edit of the code makes exactly what depends on it again. Each test edits a copy of the package."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pytest

from tests import preloaded
from tests.faults.counts import only_soaking
from tests.packaging.conftest import install_plugin

pytestmark = pytest.mark.slow
STAGES = ("images", "heatmaps", "refined", "quality", "embeddings")
EVERY, HEAT, REFINED = set(STAGES), {"heatmaps", "refined", "quality"}, {"refined", "quality"}
GIVEN = ["limit=4", "logger=none", "task.figures=false", "refine=guided", "resume=true"]
DEPENDS = Path(__file__).with_name("depends.py")


class Copy:
    """A checkout of its own, whose runs share a store; the code can be edited between them."""

    def __init__(self, folder: Path, weights: list[str]) -> None:
        self.folder, self.root, self.weights = folder, folder / "checkout", weights
        self.store, self.outputs = folder / "store", folder / "outputs"

    def fill(self) -> None:
        for name in ("gradsam_exp", "conf"):
            shutil.copytree(preloaded.ROOT / name, self.root / name)
        shutil.copy(preloaded.ROOT / "run.py", self.root)

    def run(self, *overrides: str) -> tuple[Mapping[str, int], dict[str, float], bool]:
        """How many chunks of each stage were made, the metrics, and whether an earlier run was taken."""
        before = self._stored()
        places = [f"store.root={self.store}", f"output_root={self.outputs}"]
        out = self._python("run.py", *GIVEN, *places, *self.weights, *overrides)
        new = Counter({stage: count - before[stage] for stage, count in self._stored().items()})
        newest = max(self.outputs.rglob("metrics.json"), key=lambda path: path.stat().st_mtime)
        metrics = json.loads(newest.read_text())["metrics"]
        return +new, {name: value["mean"] for name, value in metrics.items()}, "taken from there" in out

    def changed_by(self, edits: Sequence[str], *overrides: str) -> dict[str, set[str]]:
        """The stages that an edit of each file changes, with ``run`` if it changes the run."""
        out = self._python(DEPENDS, json.dumps([*GIVEN, *self.weights, *overrides]), json.dumps(list(edits)))
        found = {edit: set(names) for edit, names in json.loads(out).items()}
        return {edit: {name.partition(" ")[0] for name in names} for edit, names in found.items()}

    def _python(self, script: str | Path, *arguments: str) -> str:
        code, out, err = preloaded.ended(
            preloaded.start(script, arguments, self.folder, root=self.root, packages=[self.folder / "plugins"])
        )
        assert code == 0, err
        return out

    def _stored(self) -> Counter[str]:
        return Counter({stage: len(list((self.store / stage).glob("*.safetensors"))) for stage in STAGES})

    def edit(self, path: str, old: str, new: str) -> None:
        file = self.root / "gradsam_exp" / path
        text = file.read_text(encoding="utf-8")
        assert old in text, f"{path} has no {old!r}"
        file.write_text(text.replace(old, new), encoding="utf-8")

    def append(self, path: str) -> None:
        file = self.root / "gradsam_exp" / path
        file.write_text(file.read_text(encoding="utf-8") + "\n# edited\n", encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, random_weights: list[str]) -> tuple[Copy, dict[str, float]]:
    """A copy that has made one run, and that run's metrics."""
    copy = Copy(tmp_path_factory.mktemp("finished"), random_weights)
    copy.fill()
    made, metrics, taken = copy.run()
    assert set(made) == EVERY
    assert not taken
    return copy, metrics


@pytest.fixture
def copy(finished: tuple[Copy, dict[str, float]], tmp_path: Path) -> Copy:
    """A copy of that, to be edited."""
    first, _ = finished
    shutil.copytree(first.folder, tmp_path, dirs_exist_ok=True)
    return Copy(tmp_path, first.weights)


@pytest.fixture
def before(finished: tuple[Copy, dict[str, float]]) -> dict[str, float]:
    """The metrics of the run that the copy has made."""
    return finished[1]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("engine/stages/images.py", EVERY),
        ("engine/stages/refined.py", REFINED),
        ("segmenters/encoder.py", {"embeddings"}),
        ("prompts/foreground.py", set()),
    ],
)
def test_a_run_after_an_edit_makes_what_depends_on_it_again(copy: Copy, path: str, expected: set[str]):
    copy.append(path)
    made, _, taken = copy.run()
    assert set(made) == expected
    assert not taken


def test_a_run_after_an_edit_that_is_no_part_of_it_is_taken(copy: Copy):
    copy.append("reports/page.py")
    made, _, taken = copy.run()
    assert not made
    assert taken


def test_a_metric_that_changed_is_measured_again(copy: Copy, before: dict[str, float]):
    """Reported: ``pointing_game × 0`` still printed the old number from the store."""
    assert before["pointing_game"] > 0
    copy.edit("metrics/heatmaps.py", "(maxima & near).sum((1, 2)).double()", "0 * near.double()[:, 0, 0]")
    made, after, _ = copy.run()
    assert after["pointing_game"] == 0
    assert set(made) == {"quality"}


def test_a_run_whose_code_changed_is_not_taken_for_the_same(copy: Copy, before: dict[str, float]):
    """Reported: with ``iou`` halved, ``resume=true`` said that it is the same run."""
    copy.edit("overlap.py", "return torch.where(union > 0, ", "return 0.5 * torch.where(union > 0, ")
    _, after, taken = copy.run()
    assert not taken
    assert after["miou"] == pytest.approx(before["miou"] / 2)


def test_the_classifiers_transform_counts_for_the_heatmaps(copy: Copy):
    """Reported: with ``/300`` for ``/255`` heatmaps were not made again."""
    copy.edit("classifiers/transform.py", "/ 255", "/ 300")
    made, _, taken = copy.run()
    assert set(made) == HEAT
    assert not taken


def test_of_every_file_it_is_known_what_depends_on_it(copy: Copy):
    """All edits one after the other in one process; see ``depends.py``."""
    expected = {
        "engine/stages/images.py": EVERY,
        "data/shapes.py": EVERY,
        "data/dead_leaves.py": EVERY,  # what the background draws with
        "types.py": EVERY,
        "engine/stages/heatmaps.py": HEAT,
        "explainers/gradient.py": HEAT,
        "explainers/layers.py": HEAT,
        "classifiers/transform.py": HEAT,
        "engine/stages/refined.py": REFINED,
        "refiners/edges.py": REFINED,
        "engine/stages/quality.py": {"quality"},
        "metrics/heatmaps.py": {"quality"},
        "engine/stages/embeddings.py": {"embeddings"},
        "segmenters/encoder.py": {"embeddings"},
        # And of these no stage depends, but the run does:
        "engine/experiment.py": set(),
        "engine/pipeline.py": set(),
        "prompts/foreground.py": set(),
        "selectors/score.py": set(),
        "metrics/masks.py": set(),
    }
    table = {f"gradsam_exp/{path}": stages | {"run"} for path, stages in expected.items()}
    nothing = ("prompts/peaks.py", "explainers/attention.py", "reports/page.py", "tracking/upload.py")
    table |= {f"gradsam_exp/{path}": set() for path in nothing}
    assert copy.changed_by(list(table)) == table


@only_soaking
def test_a_strategy_of_another_package_counts_with_its_own_source(copy: Copy):
    install_plugin(copy.folder / "plugins")
    strategy = "../plugins/spread_points/strategy.py"
    made, _, taken = copy.run("pipeline=spread")
    assert not made, "heatmaps and embeddings do not depend on it"
    assert not taken
    table = {strategy: {"run"}, "gradsam_exp/prompts/peaks.py": set()}
    assert copy.changed_by(list(table), "pipeline=spread") == table
    assert copy.run("pipeline=spread")[::2] == ({}, False), "it was edited"


@only_soaking
def test_a_metric_that_is_chosen_later_has_a_value_of_every_image(run):
    """Reported: where the store held a part of the images, a new metric came out as 136 of 200 values."""
    first = run("limit=66", "metrics.sparsity=false")  # two chunks
    assert first.code == 0, first.err
    later = run("limit=72", "+metrics.dice=true")
    assert later.code == 0, later.err
    newest = max(later.runs, key=lambda path: path.stat().st_mtime)
    table = pd.read_parquet(newest / "per_image.parquet")
    assert len(table) == 72
    assert table[["dice", "sparsity"]].notna().all(axis=None)
    metrics = json.loads((newest / "metrics.json").read_text())["metrics"]
    assert (metrics["dice"]["n"], metrics["sparsity"]["n"]) == (72, 72)
