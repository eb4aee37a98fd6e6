"""Training by two processes: every image once, one set of weights, and an end that scores them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import ROOT
from tests.faults.counts import only_soaking

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


def assert_trained_once(seen: Path) -> None:
    """Both processes have trained, and no image came twice or not at all."""
    each = [(seen / f"seen {rank}").read_text().splitlines() for rank in (0, 1)]
    assert sorted(each[0] + each[1]) == sorted(f"{name}/{k}" for name in ("all", "cat dog") for k in range(5))
    assert all(each)


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
    assert_trained_once(tmp_path)
    (accuracy,) = (tmp_path / "outputs").rglob("accuracy.json")
    assert json.loads(accuracy.read_text())["test"].keys() == {"overall", "macro", "classes"}
    assert (accuracy.parent / "classifier.safetensors").is_file()


@only_soaking
def test_two_nodes_train_as_two_processes_of_one_do(own: Path, tmp_path: Path):
    """Each node gives the command; here both are on this machine."""
    script = tmp_path / "watched.py"
    script.write_text(WATCHED)
    given = [one for one in overrides(own) if not one.startswith("trainer.devices")]
    of_all = {**os.environ, "SEEN": str(tmp_path), "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        of_all["MASTER_PORT"] = str(free.getsockname()[1])
    nodes = [
        subprocess.Popen(
            [sys.executable, str(script), *given, "+trainer.num_nodes=2", f"output_root={tmp_path / str(rank)}"],
            cwd=ROOT,
            env={**of_all, "NODE_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [node.communicate(timeout=200)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert_trained_once(tmp_path)
    (accuracy,) = (tmp_path / "0").rglob("accuracy.json")
    assert (accuracy.parent / "classifier.safetensors").is_file()
    assert not list((tmp_path / "1").rglob("*.safetensors")), "one of them writes"
