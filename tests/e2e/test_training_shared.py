"""Training by two processes: every image once, one set of weights, and an end that scores them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gradsam_exp.classifiers.classifier import ImageClassifier

pytestmark = pytest.mark.slow


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Five training images of each of two classes, in two sizes: batches of 3, 3, 2 and 2."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 3), ("test", 3)):
        for name in ("all", "cat dog"):
            for k in range(count):
                path = tmp_path / "own" / "images" / split / name / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 256, (32 if k else 40, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
    return tmp_path / "own"


def overrides(own: Path) -> list[str]:
    return [
        "task=train", "data=folder", f"data.root={own}", "logger=none", "task.epochs=1", "task.batch_size=3",
        "task.workers=0", "trainer.precision=32-true", "trainer.accelerator=cpu", "trainer.devices=2",
    ]  # fmt: skip


def test_no_image_comes_twice_or_is_lost(run, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    step = ImageClassifier.training_step

    def seen(model: ImageClassifier, batch, index: int):
        with (tmp_path / f"seen {model.global_rank}").open("a") as file:
            file.writelines(f"{name}\n" for name in batch.image_ids)
        return step(model, batch, index)

    monkeypatch.setattr(ImageClassifier, "training_step", seen)
    done = run(*overrides(own), "+trainer.strategy=ddp_fork", defaults=False)
    assert done.code == 0, done.err
    each = [(tmp_path / f"seen {rank}").read_text().splitlines() for rank in (0, 1)]
    assert sorted(each[0] + each[1]) == sorted(f"{name}/{k}" for name in ("all", "cat dog") for k in range(5))
    assert all(each), "both have trained"


def test_processes_of_their_own_end_with_scored_weights(command, own: Path, tmp_path: Path):
    done = command(*overrides(own))
    assert done.returncode == 0, done.stderr
    (accuracy,) = (tmp_path / "outputs").rglob("accuracy.json")
    assert json.loads(accuracy.read_text())["test"].keys() == {"overall", "macro", "classes"}
    assert (accuracy.parent / "classifier.safetensors").is_file()
