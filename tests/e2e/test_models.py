"""``task=models`` lists what can be chosen, where its weights are, and the layers of a network."""

from pathlib import Path

import pytest
import timm
import torch

from gradsam_exp.segmenters.checkpoints import OFFICIAL
from tests.e2e.conftest import ROOT


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def rows(text: str, option: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"│ {option} "))


def test_every_option_is_listed_with_where_its_weights_are(run, tmp_path: Path):
    before = run("task=models")
    for group in ("model", "sam"):
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            assert rows(before.out, path.stem)
    assert "here, installed" in rows(before.out, "imagenet")
    assert "has none" in rows(before.out, "grabcut")
    assert "downloaded on first use" in rows(before.out, "vit_b")
    assert "in the caches: none" in before.out
    official = tmp_path / "cache" / "gradsam_exp" / OFFICIAL["vit_b"].file
    official.parent.mkdir(parents=True)
    torch.save({}, official)
    after = run("task=models")
    assert "here, " in rows(after.out, "vit_b")
    assert f"{official}, " in after.out.split("in the caches")[1]


def test_what_was_trained_is_listed(run, random_weights: list[str]):
    folder = Path(random_weights[0].partition("=")[2]).parent
    listed = run("task=models", f"output_root={folder}").out.split("trained here")[1]
    assert f"{folder}/classifier.safetensors (resnet18, 5 classes), " in listed
    assert f"{folder}/compact.safetensors (compact), " in listed


def test_the_layers_of_a_network_have_their_maps(run):
    done = run("task=models", "task.layers=true", "model=timm", "model.name=test_resnet", "model.pretrained=false",
               defaults=False)  # fmt: skip
    assert done.code == 0, done.err
    channels = timm.create_model("test_resnet").feature_info[3]["num_chs"]
    assert [cell.strip() for cell in rows(done.out, "layer3").strip("│").split("│")][2:] == [
        str(channels),
        "10×10",
    ]
    assert not [line for line in done.out.splitlines() if line.startswith("│ fc ")]
