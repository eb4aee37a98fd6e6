"""A classifier is randomised block by block, and its heatmaps are compared with those of before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from scipy.stats import spearmanr
from torch import nn

from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.errors import InputError
from gradsam_exp.runs.folder import Run
from studies.sanity_checks.__main__ import main
from studies.sanity_checks.cascade import blocks_of, randomised, untrained
from studies.sanity_checks.findings import TRAINED, compared, similarity
from tests.reports.finished_runs import IDS, write_run


def test_blocks_go_from_the_output_to_the_input():
    network = torchvision.models.resnet18(num_classes=5)
    assert blocks_of(network) == [
        ("fc",), ("layer4.1",), ("layer4.0",), ("layer3",), ("layer2",), ("layer1",), ("conv1", "bn1"),
    ], "layer4 has three quarters of all parameters"  # fmt: skip


def test_a_network_of_one_child_is_taken_apart():
    network = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3)))
    assert blocks_of(network) == [("0.3",), ("0.0", "0.1")]


def test_each_step_makes_one_block_more_random():
    names = ("stem.weight", "stem.bias", "body.weight", "head.weight", "token")
    trained = {name: torch.zeros(1) for name in names}
    fresh = {name: torch.ones(1) for name in names}
    steps = list(randomised(trained, fresh, [("head",), ("body",), ("stem",)]))
    found = [{name for name, value in state.items() if value.item()} for state in steps]
    assert found == [
        {"head.weight"},
        {"head.weight", "body.weight"},
        set(names),
    ], "a parameter of no block comes last"
    assert not any(value.item() for value in trained.values())


def test_the_untrained_classifier_is_drawn_by_its_seed():
    classifier = ImageClassifier("resnet18", ["cat", "dog"])
    generator = torch.random.get_rng_state()
    one, same, other = (untrained(classifier, seed).backbone.fc.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), generator)
    with pytest.raises(InputError, match="cannot be built without its weights"):
        untrained(ImageClassifier({}, ["cat"], network=nn.Linear(2, 1)), 0)


def test_heatmaps_are_compared_by_rank_and_structure():
    rng = np.random.default_rng(0)
    one, other = rng.random((12, 16)), rng.random((12, 16))
    assert similarity(one, one) == pytest.approx((1, 1))
    assert similarity(one, one**3)[0] == pytest.approx(1), "the same order"
    assert similarity(one, 1 - one)[0] == pytest.approx(-1)
    assert similarity(one, other)[0] == pytest.approx(spearmanr(one.ravel(), other.ravel()).statistic)
    assert similarity(one, other)[1] < 0.5
    rho, ssim = similarity(one, np.zeros((12, 16)))
    assert np.isnan(rho), "it has no order"
    assert ssim < 0.1
    assert np.isnan(similarity(one[:10], other[:10])[1]), "smaller than a window"


def finished(folder: Path, ious: list[float], predicted: str) -> Run:
    """A run of four images, one of whose heatmaps is empty."""
    run = write_run(folder, {}, ious)
    images = pd.read_parquet(run / "per_image.parquet")
    images["empty_heatmap"], images["predicted_class"] = [False, False, False, True], predicted
    images.to_parquet(run / "per_image.parquet")
    return Run(run)


def test_the_steps_are_compared_with_the_trained_classifier(tmp_path: Path):
    heat = np.arange(144, dtype=np.float64).reshape(12, 12) / 143
    maps = {
        TRAINED: dict.fromkeys(IDS, heat),
        "fc": dict(zip(IDS, (heat, heat, 1 - heat, np.zeros((12, 12))), strict=True)),
    }
    runs = {
        TRAINED: finished(tmp_path / "0", [0.9, 0.8, 0.7, 0.6], "circle"),
        "fc": finished(tmp_path / "1", [0.8, 0.7, 0.6, 0.5], "square"),
    }
    table = compared(runs, maps).set_index("step")
    assert table.loc[TRAINED, ["spearman", "ssim", "miou"]].tolist() == pytest.approx([1, 1, 0.75])
    step = table.loc["fc"]
    assert step["spearman"] == pytest.approx(1 / 3), "1, 1 and −1; the empty one has none"
    assert (step["miou"], step["delta_miou"]) == (pytest.approx(0.65), pytest.approx(-0.1))
    assert step["p"] == pytest.approx(2 / 2**4)
    assert table["accuracy"].tolist() == [1, 0]
    assert table["empty"].tolist() == [0.25, 0.25]


@pytest.mark.slow
def test_the_study_of_sanity_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([f"output_root={tmp_path}", "limit=6"]) == 0
    assert "| layer4.1 |" in capsys.readouterr().out
    (text,) = (tmp_path / "sanity_checks").rglob("sanity.md")
    table = pd.read_csv(text.parent / "sanity.csv").set_index("step")
    assert table.index.tolist() == [
        TRAINED, "fc", "layer4.1", "layer4.0", "layer3", "layer2", "layer1", "conv1",
    ]  # fmt: skip
    assert table["spearman"][TRAINED] == pytest.approx(1)
    assert table["spearman"]["conv1"] < 0.5
    assert table["miou"]["conv1"] < table["miou"][TRAINED]
    assert {path.name for path in text.parent.iterdir()} == {
        "runs", "sanity.md", "sanity.csv", "sanity.png", "sanity.pdf",
    }, "no weights are left"  # fmt: skip


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("explainer.target=predicted", "explainer.target: the study chooses it itself"),
        ("store.enabled=false", "store.enabled=false: the study reads heatmaps from the store"),
        ("model.chekpoint=x", "'model.chekpoint' is not a configuration key"),
    ],
)
def test_wrong_overrides_are_refused_in_one_line(
    override: str, answer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([f"output_root={tmp_path}", override]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert answer in line
