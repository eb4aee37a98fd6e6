"""Transformers from the command line: trained, explained, and refused in one line where something does not suit.

The networks are those of ``model=vit_b_16`` and ``model=swin_t`` by name, and tiny.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn
from torchvision.models import SwinTransformer, VisionTransformer
from torchvision.models._api import BUILTIN_MODELS

from gradsam_exp.classifiers.checkpoints import save_classifier
from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.classifiers.transform import Transform
from gradsam_exp.data.shapes import SHAPES
from gradsam_exp.engine import plan as assembly
from gradsam_exp.engine.plan import Plan
from gradsam_exp.tasks import evaluate
from gradsam_exp.tracking.content import flat_config
from tests.faults.counts import only_soaking


def tiny_vit(num_classes: int = 1000, **_: Any) -> nn.Module:
    return VisionTransformer(224, 56, 2, 2, 16, 32, num_classes=num_classes)


def tiny_swin(num_classes: int = 1000, **_: Any) -> nn.Module:
    return SwinTransformer([4, 4], 8, [1, 1, 1, 1], [1, 1, 2, 2], [7, 7], num_classes=num_classes)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, build in (("vit_b_16", tiny_vit), ("swin_t", tiny_swin)):
        monkeypatch.setattr(build, "__module__", BUILTIN_MODELS[name].__module__)
        monkeypatch.setitem(BUILTIN_MODELS, name, build)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[[str], str]:
    """``checkpoint("vit_b_16")`` is the override that chooses such a classifier, with random weights."""

    def make(backbone: str) -> str:
        torch.manual_seed(0)
        model = ImageClassifier(backbone, SHAPES, Transform(size=(224, 224)))
        for parameter in model.backbone.parameters():
            nn.init.normal_(parameter, std=0.3)
        return f"model.checkpoint={save_classifier(model, tmp_path / f'{backbone}.safetensors')}"

    return make


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans of the runs that follow."""
    made: list[Plan] = []
    monkeypatch.setattr(evaluate, "plan", lambda config, job: made.append(assembly.plan(config, job)) or made[-1])
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "explainers"),
    [
        ("vit_b_16", "gradcam,attention_relevance"),
        pytest.param("swin_t", "gradcam,layercam", marks=only_soaking),
    ],
)
def test_a_transformer_is_trained_and_explained(run, model: str, explainers: str):
    small = ["background=noise", "data.lengths.train=8", "data.lengths.val=4", "data.lengths.test=4"]
    trained = run("task=train", f"model={model}", "task.epochs=1", "task.batch_size=4", *small,
                  "trainer.precision=32-true", "logger=none", defaults=False)  # fmt: skip
    assert trained.code == 0, trained.err
    (weights,) = trained.folder.rglob("classifier.safetensors")
    (printed,) = (line for line in trained.out.splitlines() if line.startswith("use it: python run.py "))
    assert {f"model={model}", f"model.checkpoint={weights}"} <= set(printed.split())
    used = run("-m", f"model={model}", f"model.checkpoint={weights}", f"explainer={explainers}", "limit=2")
    assert used.code == 0, used.err
    (table,) = used.folder.rglob("sweep.csv")
    assert pd.read_csv(table)["status"].tolist() == ["finished"] * 2


@pytest.mark.parametrize(
    ("model", "layers"), [("vit_b_16", ["encoder.layers.-1.ln_1"]), ("swin_t", ["features.5.-1"])]
)
def test_the_models_config_chooses_the_layers(run, plans, checkpoint, model: str, layers: list[str]):
    done = run(f"model={model}", checkpoint(model), "limit=2")
    assert done.code == 0, done.err
    assert plans[0].config.explainer["target_layers"] == layers
    assert json.loads((done.runs[0] / "provenance.json").read_text())["backbone"] == model


def test_the_checkpoint_says_what_network_it_holds(run, plans, checkpoint):
    """Nobody has to repeat it; but the default layers are another network's."""
    vit = checkpoint("vit_b_16")
    done = run(vit, "explainer=attention_rollout", "limit=2")
    assert done.code == 0, done.err
    described = flat_config(plans[0].config)
    assert described["model"] == "vit_b_16"
    assert described["model_size"] == "224 224"
    layers = run(vit)
    assert layers.code == 1
    assert "there is no layer 'layer2' in VisionTransformer" in layers.err
    assert "holds a vit_b_16: choose layers of it by model=…" in layers.err


def test_heat_is_spread_along_the_classifiers_attention(run, checkpoint):
    vit = ["model=vit_b_16", checkpoint("vit_b_16"), "limit=2"]
    values = []
    for refine in (["refine=none"], ["refine=affinity"], ["refine=affinity", "refine.layers=1"]):
        done = run(*vit, *refine)
        assert done.code == 0, done.err
        newest = max(done.folder.rglob("metrics.json"), key=lambda path: path.stat().st_mtime)
        values.append(pd.read_parquet(newest.parent / "per_image.parquet")["sparsity"].tolist())
    assert values[0] != values[1] != values[2]
    swin = run("model=swin_t", checkpoint("swin_t"), "refine=affinity", "limit=2")
    assert swin.code == 1
    assert "refine=affinity needs a transformer whose attention is over all patches" in swin.err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.size=[64,64]"], "model.size=[64, 64], but model.checkpoint="),
        (["explainer.target_layers=[heads]"], "explainer.target_layers=heads (Sequential) gives 5 numbers"),
        (["explainer.target_layers=[encoder.layers.-1]"], "every heatmap is empty. Take a layer before it"),
        (["explainer.target_layers=[encoder.layers.-1.mlp]"], "such as encoder.layers.-1.ln_1"),
        (["explainer.target_layers=[encoder.layers.-1.self_attention]"], "self_attention gives a tuple"),
    ],
)
def test_refused_in_one_line(run, checkpoint, overrides: list[str], message: str):
    done = run("model=vit_b_16", checkpoint("vit_b_16"), *overrides)
    assert done.code == 1
    (line,) = done.err.strip().splitlines()
    assert message in line


def test_one_target_layer_needs_no_brackets(run, plans, checkpoint):
    swin = checkpoint("swin_t")
    for layer in ("features.3.-1", "[features.3.-1]"):
        done = run(swin, f"explainer.target_layers={layer}", "limit=2")
        assert done.code == 0, done.err
    assert plans[0].identity == plans[1].identity


def test_shapleycam_of_a_vit(run, checkpoint):
    done = run("model=vit_b_16", checkpoint("vit_b_16"), "explainer=shapleycam", "limit=2")
    assert done.code == 0, done.err


def test_a_sweep_says_once_what_fullgrad_leaves_out(run, checkpoint):
    done = run("-m", "model=vit_b_16", checkpoint("vit_b_16"), "explainer=fullgrad", "grid_size=1,3", "limit=2")
    assert done.code == 0, done.err
    logs = "".join(path.read_text(encoding="utf-8") for path in done.folder.rglob("run.log"))
    assert logs.count("leaves out the biases of the layer norms and linear layers of vit_b_16") == 1


def test_without_a_checkpoint_the_hint_is_given(run):
    done = run("model=vit_b_16", "model.checkpoint=null")
    assert done.code == 1
    assert "model.checkpoint is null: train a classifier with task=train" in done.err
