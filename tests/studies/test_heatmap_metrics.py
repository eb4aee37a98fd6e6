"""Rank correlations of heatmap metrics with IoU are right on data whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from gradsam_exp.errors import InputError
from gradsam_exp.metrics.heatmaps import EnergyInMask, Sparsity
from gradsam_exp.runs.folder import Run
from studies.heatmap_metrics.__main__ import main
from studies.heatmap_metrics.correlation import of_means, over_examples, over_methods
from studies.heatmap_metrics.report import correlations
from tests.reports.finished_runs import IDS, facts_of, write_run

NAN = float("nan")


def test_over_the_methods_of_one_image_by_hand():
    """Three images: the same order (1), the opposite one (−1), one pair swapped (0.5)."""
    metric = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0, 3.0, 3.0]])
    iou = np.array([[0.1, 0.3, 0.2], [0.2, 0.2, 0.1], [0.3, 0.1, 0.3]])
    found = over_methods(metric, iou)
    assert found.rho == pytest.approx(0.5 / 3)
    assert found.n == 3
    assert found.ci95 == pytest.approx((-1, 1))
    assert found.p == 1, "±1 ±1 ±0.5 is never nearer to 0 than 0.5"


def test_images_without_an_order_are_left_out():
    metric = np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 1.0, NAN], [3.0, 3.0, 1.0, 3.0]])
    iou = np.array([[0.1, 0.5, 0.2, 0.1], [0.2, 0.5, 0.1, 0.2], [0.3, 0.5 + 1e-15, 0.3, 0.3]])
    found = over_methods(metric, iou)
    assert (found.rho, found.n) == (pytest.approx(1), 1), "equal IoUs, equal metrics, two methods"
    assert np.isnan(over_methods(metric[:2], iou[:2]).rho)


def test_spearman_is_scipys_with_ties_and_missing_values():
    rng = np.random.default_rng(0)
    metric, iou = rng.integers(0, 6, (7, 20)).astype(float), rng.random((7, 20))
    metric[2, 5] = iou[3, 8] = NAN
    theirs = [spearmanr(metric[:, k], iou[:, k], nan_policy="omit").statistic for k in range(20)]
    assert over_methods(metric, iou).rho == pytest.approx(np.mean(theirs))
    theirs = [spearmanr(metric[k], iou[k], nan_policy="omit").statistic for k in range(7)]
    assert over_examples(metric, iou, None).rho == pytest.approx(np.mean(theirs))


def test_with_the_size_held_fixed_the_sign_can_turn():
    """Larger objects have both more, but within two of one size the order is opposite: 0.6, partial −1."""
    metric, iou, size = (
        np.array([[1.0, 2.0, 3.0, 4.0]]),
        np.array([[0.2, 0.1, 0.4, 0.3]]),
        np.array([5.0, 5, 9, 9]),
    )
    assert over_examples(metric, iou, None).rho == pytest.approx(0.6)
    assert over_examples(metric, iou, size).rho == pytest.approx(-1)
    assert over_examples(metric, iou, np.full(4, 7.0)).rho == pytest.approx(0.6), "all are of one size"


def test_the_partial_correlation_is_that_of_its_formula():
    rng = np.random.default_rng(1)
    size = rng.random(200)
    metric, iou = size + rng.random((3, 200)), size + rng.random((3, 200))
    expected = []
    for x, y in zip(metric, iou, strict=True):
        xy, xz, yz = (spearmanr(*pair).statistic for pair in ((x, y), (x, size), (y, size)))
        expected.append((xy - xz * yz) / ((1 - xz**2) * (1 - yz**2)) ** 0.5)
    found = over_examples(metric, iou, size)
    assert found.rho == pytest.approx(np.mean(expected))
    assert found.ci95[0] < 0 < found.ci95[1], "independent given the size"
    assert over_examples(metric, iou, None).ci95[0] > 0.2
    without = over_examples(metric[:, :100], iou[:, :100], size[:100])
    size[100:] = NAN
    assert over_examples(metric, iou, size).rho == pytest.approx(without.rho)


def test_methods_are_ordered_by_their_means():
    metric = np.array([[0.1, 0.2], [0.4, 0.3], [0.2, 0.4]])  # means 0.15, 0.35, 0.3
    iou = np.array([[0.5, 0.5], [0.9, 0.7], [0.9, 0.9]])  # 0.5, 0.8, 0.9
    found = of_means(metric, iou)
    assert (found.rho, found.n) == (pytest.approx(0.5), 3)
    assert found.ci95 == pytest.approx((0.5, 1)), "0.5 with both images, 0.87 and 1 with one of them alone"
    assert np.isnan(of_means(metric[:2], iou[:2]).rho)


def test_images_on_one_photograph_are_drawn_together():
    rng = np.random.default_rng(2)
    metric, iou, size = rng.random((4, 30)), rng.random((4, 30)), rng.random(30)
    repeated = np.repeat(metric, 3, 1), np.repeat(iou, 3, 1)
    units = np.repeat([f"{k:02d}" for k in range(30)], 3)
    for once, thrice in (
        (over_methods(metric, iou), over_methods(*repeated, units=units)),
        (over_examples(metric, iou, size), over_examples(*repeated, np.repeat(size, 3), units=units)),
        (of_means(metric, iou), of_means(*repeated, units=units)),
    ):
        assert thrice.rho == pytest.approx(once.rho)
        assert thrice.ci95 == pytest.approx(once.ci95, abs=1e-9)
        assert thrice.p == pytest.approx(once.p, nan_ok=True)


ENERGY = {"gradcam": [0.1, 0.2, 0.3, 0.4], "layercam": [0.2, 0.3, 0.4, 0.5], "cam": [0.3, 0.4, 0.5, 0.6]}


def sweep(folder: Path, *, old: bool = False, **given: str) -> list[Run]:
    """Runs of three explainers in which more energy in the mask means a better one, and sparsity nothing."""
    more = {"energy_in_mask": facts_of(EnergyInMask), "sparsity": facts_of(Sparsity)}
    runs = []
    for k, (explainer, energy) in enumerate(ENERGY.items()):
        ious = [0.5 + 0.1 * k, 0.6 + 0.1 * k, 0.4 + 0.1 * k, 0.3 + 0.1 * k]
        run = write_run(folder / str(k), {"explainer": explainer, **given}, ious, more=more)
        images = pd.read_parquet(run / "per_image.parquet").assign(energy_in_mask=energy, sparsity=0.5)
        images["truth_px"] = [40, 30, 20, 10]
        images.drop(columns=["truth_px"] if old else []).to_parquet(run / "per_image.parquet")
        runs.append(Run(run))
    return runs


def test_metrics_of_finished_runs_are_correlated(tmp_path: Path):
    table = correlations(sweep(tmp_path)).set_index("metric")
    assert table.index.tolist() == ["energy_in_mask", "sparsity"], "mIoU is no metric of heatmaps"
    energy = table.loc["energy_in_mask"]
    assert (energy["methods"], energy["methods_n"]) == (pytest.approx(1), len(IDS))
    assert energy["p"] == pytest.approx(2 / 2**4), "four images of one sign"
    assert energy["means"] == pytest.approx(1)
    assert np.isnan(energy["examples"]), "here the size says all of the energy"
    assert np.isnan(table.loc["sparsity", "methods"])
    assert "examples" in correlations(sweep(tmp_path / "old", old=True))


def test_two_heatmaps_are_too_few(tmp_path: Path):
    with pytest.raises(InputError, match="2 runs with different heatmaps are too few: give at least 3"):
        correlations(sweep(tmp_path)[:2])


def test_runs_without_metrics_of_heatmaps_are_refused(tmp_path: Path):
    for run in (runs := sweep(tmp_path)):
        content = json.loads((run.folder / "metrics.json").read_text())
        content["metrics"] = {"miou": content["metrics"]["miou"]}
        (run.folder / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="no metric of heatmaps in common"):
        correlations(runs)


def test_the_command_writes_tables_and_a_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for sam in ("compact", "vit_b"):
        sweep(tmp_path / "runs" / sam, sam=sam)
    assert main([str(tmp_path / "runs"), "--to", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "## compact: 3 methods" in printed
    assert printed.count("| energy in mask | higher | +1.00 [+1.00, +1.00], n = 4 | 0.12 |") == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "correlations.md", "correlations.csv", "correlations.png", "correlations.pdf",
    }  # fmt: skip
    assert main([str(tmp_path / "runs" / "compact" / "0")]) == 1
    assert "1 runs with different heatmaps are too few" in capsys.readouterr().err
