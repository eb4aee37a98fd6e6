"""Photographs with a classifier of ImageNet's classes, which comes along: no download, no hub."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as pictures

from tests.e2e.conftest import ROOT, Finished

pytestmark = pytest.mark.slow
Run = Callable[..., Finished]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name in ("chelsea", "coffee"):
        Image.fromarray(getattr(pictures, name)()).save(folder / f"{name}.png")
    return folder


def test_a_cat_and_an_espresso_are_seen_located_and_segmented(run: Run, photographs: Path):
    done = run("task=explain", f"image={photographs}", "model=imagenet", defaults=False)
    assert done.code == 0, done.err
    assert re.search(r"chelsea: Egyptian cat 77\.\d%, ", done.out)
    assert re.search(r"coffee: espresso 89\.\d%, ", done.out)
    for name, size in (("chelsea", (451, 300)), ("coffee", (600, 400))):
        (figure,) = done.folder.rglob(f"{name}.png")
        (mask,) = done.folder.rglob(f"{name}_mask.png")
        assert Image.open(figure).width > 1000
        assert Image.open(mask).size == size
        assert 0 < np.asarray(Image.open(mask)).mean() < 255


def test_the_shipped_classifier_says_that_it_knows_shapes_only(run: Run, photographs: Path):
    done = run("task=explain", f"image={photographs / 'coffee.png'}", defaults=False)
    assert done.out.count("for photographs use model=imagenet") == 1
    assert (
        "knows nothing but circle" not in run("limit=2", "logger=none", "task.figures=false", defaults=False).out
    )


def accuracy(done: Finished) -> float:
    all_runs = [json.loads(path.read_text()) for path in done.folder.rglob("metrics.json")]
    (finished,) = [one for one in all_runs if one["status"] == "finished"]
    return finished["metrics"]["accuracy"]["mean"]


def folder(tmp_path: Path, classes: dict[str, np.ndarray]) -> Path:
    for name, picture in classes.items():
        for kind, pixels in (("images", picture), ("masks", np.uint8(255) * (picture[..., 0] > 100))):
            path = tmp_path / "own" / kind / "test" / name / "one.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path / "own"


def test_classes_of_the_data_are_said_by_a_map(run: Run, tmp_path: Path):
    own = folder(tmp_path, {"animal": pictures.chelsea(), "drink": pictures.coffee()})
    plain = ["data=folder", f"data.root={own}", "model=imagenet", "logger=none", "task.figures=false"]
    refused = run(*plain, defaults=False)
    assert refused.code == 1
    assert "class 'animal' (and 1 others: drink) is not one the classifier knows" in refused.err
    assert "model.map" in refused.err
    done = run(*plain, "model.map={animal: [281, 282, 283, 284, 285], drink: espresso}", defaults=False)
    assert done.code == 0, done.err
    assert accuracy(done) == 1


def test_classes_named_by_wordnet_ids_are_understood(run: Run, tmp_path: Path):
    own = folder(tmp_path, {"n02124075": pictures.chelsea(), "n07920052": pictures.coffee()})
    done = run(
        "data=folder", f"data.root={own}", "model=imagenet", "logger=none", "task.figures=false", defaults=False
    )
    assert done.code == 0, done.err
    assert accuracy(done) == 1


NET = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
"""


def test_a_network_of_ones_own_is_explained_and_trained(
    run: Run, tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "a_users_net.py").write_text(NET)
    (tmp_path / "names.txt").write_text("cat\ncup\n")
    monkeypatch.syspath_prepend(tmp_path)
    from a_users_net import build

    torch.save({"state_dict": build().state_dict()}, tmp_path / "w.ckpt")
    own = ["model=module", "model.target=a_users_net:build", f"model.names={tmp_path / 'names.txt'}"]
    done = run(
        "task=explain", f"image={photographs}", *own, f"model.checkpoint={tmp_path / 'w.ckpt'}", defaults=False
    )
    assert done.code == 0, done.err
    assert re.search(r"coffee: (cat|cup) \d+\.\d%", done.out)
    refused = run("task=explain", f"image={photographs}", *own, defaults=False)
    assert "build has random weights, which explain nothing: give model.checkpoint" in refused.err
    for split in ("train", "val", "test"):
        for name in ("cat", "cup"):
            path = tmp_path / "data" / "images" / split / name / "0.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((32, 32, 3), 200 if name == "cat" else 20, np.uint8)).save(path)
    training = ["data=folder", f"data.root={tmp_path / 'data'}", "logger=none"]
    trained = run(
        "task=train", *training, *own, "task.epochs=1", "task.batch_size=2", "task.workers=0",
        "task.mixup=0.2", "task.cutmix=1", "trainer.precision=32-true", defaults=False,
    )  # fmt: skip
    assert trained.code == 0, trained.err
    (weights,) = tmp_path.rglob("classifier.safetensors")
    assert f"model=checkpoint model.checkpoint={weights}" in trained.out.replace("\n", "")
    again = run(*training, "model=checkpoint", f"model.checkpoint={weights}", "task.figures=false", defaults=False)
    assert again.code == 0, again.err


def test_a_frozen_network_learns_its_last_layer_alone(run: Run, tmp_path: Path):
    for split in ("train", "val", "test"):
        for name, value in (("cat", 200), ("cup", 20)):
            path = tmp_path / "data" / "images" / split / name / "0.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((32, 32, 3), value, np.uint8)).save(path)
    done = run(
        "task=train", "data=folder", f"data.root={tmp_path / 'data'}", "logger=none", "model=imagenet",
        "task.freeze=all", "task.epochs=1", "task.batch_size=2", "task.workers=0", "trainer.precision=32-true",
        defaults=False,
    )  # fmt: skip
    assert done.code == 0, done.err
    from gradsam_exp.classifiers.base import CLASSIFIERS
    from gradsam_exp.classifiers.checkpoints import find_classifier

    (weights,) = tmp_path.rglob("classifier.safetensors")
    before = CLASSIFIERS.build({"source": "imagenet"}).load().backbone.state_dict()
    after = find_classifier(weights).load().backbone.state_dict()
    kept = {name: torch.allclose(after[name].float(), value.float(), atol=2e-3, rtol=2e-3)
            for name, value in before.items() if not name.startswith("classifier")}  # fmt: skip
    assert all(kept.values()), [name for name, same in kept.items() if not same]
    assert after["classifier.weight"].shape == (2, 1280)


def test_the_examples_of_the_documentation_name_options_that_exist():
    text = (ROOT / "docs" / "classifiers.md").read_text()
    options = {path.stem for path in (ROOT / "conf" / "model").glob("*.yaml")}
    assert options == set(re.findall(r"model=(\w+)", text)) | {"resnet34", "resnet50", "vit_b_16", "swin_t"}
