"""Training by two processes: every image once, one set of weights, and an end that scores them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import ROOT

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


# Lightning starts the second process with this file too, so both write down what they train on.
WATCHED = """
import os
from pathlib import Path
from gradsam_exp.app.cli import main
from gradsam_exp.classifiers.classifier import ImageClassifier

step = ImageClassifier.training_step

def seen(model, batch, index):
    with Path(os.environ["SEEN"], f"seen {model.global_rank}").open("a") as file:
        file.writelines(f"{name}\\n" for name in batch.image_ids)
    return step(model, batch, index)

ImageClassifier.training_step = seen
main()
"""


def test_no_image_comes_twice_or_is_lost_and_the_weights_are_scored(own: Path, tmp_path: Path):
    script = tmp_path / "watched.py"
    script.write_text(WATCHED)
    done = subprocess.run(
        [sys.executable, str(script), *overrides(own), f"output_root={tmp_path / 'outputs'}"],
        cwd=ROOT,
        env={**os.environ, "SEEN": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    each = [(tmp_path / f"seen {rank}").read_text().splitlines() for rank in (0, 1)]
    assert sorted(each[0] + each[1]) == sorted(f"{name}/{k}" for name in ("all", "cat dog") for k in range(5))
    assert all(each), "both have trained"
    (accuracy,) = (tmp_path / "outputs").rglob("accuracy.json")
    assert json.loads(accuracy.read_text())["test"].keys() == {"overall", "macro", "classes"}
    assert (accuracy.parent / "classifier.safetensors").is_file()
