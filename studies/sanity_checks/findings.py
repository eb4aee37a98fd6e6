"""These functions compare heatmaps before and after the classifier was randomised, and write what was found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy.stats import rankdata
from skimage.metrics import structural_similarity

from gradsam_exp.reports.colours import SERIES
from gradsam_exp.reports.figures import save_figure, styled
from gradsam_exp.reports.tables import is_unknown
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.paired import holm, paired_difference
from gradsam_exp.runs.summary import summarize
from gradsam_exp.runs.units import Units

TRAINED = "trained"
_WINDOW = 11  # px
SHOWN = {"spearman": "Spearman", "ssim": "SSIM", "miou": "mIoU"}


def similarity(
    one: Float[np.ndarray, "height width"], other: Float[np.ndarray, "height width"]
) -> tuple[float, float]:
    """Compare two heatmaps in [0, 1]: Spearman's ρ of their pixels, and SSIM, both in [-1, 1].

    SSIM is Wang et al.'s (2004), in Gaussian windows of 11 px with σ 1.5 px. ρ is NaN if a heatmap has one value
    everywhere, SSIM if the images are smaller than a window.
    """
    ranks = [rankdata(heatmap) for heatmap in (one, other)]
    rho = float("nan")
    if all(own.min() < own.max() for own in ranks):
        rho = float(np.corrcoef(*ranks)[0, 1])
    if min(one.shape) < _WINDOW:
        return rho, float("nan")
    look = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    return rho, float(structural_similarity(one, other, **look))


def compared(runs: Mapping[str, Run], heatmaps: Mapping[str, Mapping[str, np.ndarray]]) -> pd.DataFrame:
    """Compare the runs of a cascade with that of the trained classifier.

    Args:
        runs: by step, `TRAINED` first, on the same examples.
        heatmaps: of each step, by ``example_id``.

    Returns:
        One row per step: ``step``; ``spearman`` and ``ssim`` to the trained classifier's heatmaps, and ``miou``,
        each with ``_low`` and ``_high``; ``delta_miou`` to the trained with ``delta_low``, ``delta_high`` and
        sign-flip ``p`` corrected by Holm; ``accuracy``; ``empty``, the share of heatmaps without any heat; ``n``
        examples.
    """
    before = runs[TRAINED].images
    units = Units.of(before).names
    rows = []
    for step, run in runs.items():
        images = run.images.reindex(before.index)
        pairs = [similarity(heatmaps[TRAINED][name], heatmaps[step][name]) for name in before.index]
        values = dict(zip(("spearman", "ssim"), np.array(pairs, dtype=np.float64).T, strict=True))
        values["miou"] = images["iou"].to_numpy()
        row: dict[str, object] = {"step": step, "n": len(images)}
        for name, own in values.items():
            found = summarize(own, units=units)
            row |= {name: found.mean, f"{name}_low": found.ci95[0], f"{name}_high": found.ci95[1]}
        if step != TRAINED:
            pair = paired_difference(images["iou"].to_numpy(), before["iou"].to_numpy(), units=units)
            low, high = pair.difference.ci95
            row |= {"delta_miou": pair.difference.mean, "delta_low": low, "delta_high": high, "p": pair.p}
        row["accuracy"] = float((images["predicted_class"] == images["class_name"]).mean())
        row["empty"] = float(images["empty_heatmap"].mean())
        rows.append(row)
    table = pd.DataFrame(rows)
    table["p"] = holm(table["p"].tolist())
    return table


def sanity_cells(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Format `compared`'s rows: headings and texts."""
    rows = []
    for row in table.to_dict("records"):
        means = [
            ""
            if is_unknown(row[name])
            else f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
            for name in SHOWN
        ]
        delta = p = ""
        if not is_unknown(row["delta_miou"]):
            delta = f"{row['delta_miou']:+.3f} [{row['delta_low']:+.3f}, {row['delta_high']:+.3f}]"
            p = "" if is_unknown(row["p"]) else f"{row['p']:.2g}"
        rows.append([row["step"], *means, delta, p, f"{row['accuracy']:.3f}", f"{row['empty']:.1%}"])
    return ["random", *SHOWN.values(), "Δ mIoU", "p (Holm)", "accuracy", "empty heatmaps"], rows


def draw_cascade(table: pd.DataFrame, path: Path) -> Path:
    """Draw the heatmaps' similarity to the trained classifier's and the mIoU against the steps; PNG and PDF."""
    place = np.arange(len(table))
    with styled():
        figure = Figure(figsize=(1.8 + 0.42 * len(table), 2.6), layout="constrained")
        axes = figure.subplots()
        for (name, label), colour, marker in zip(SHOWN.items(), SERIES, ("o", "s", "^"), strict=False):
            axes.fill_between(place, table[f"{name}_low"], table[f"{name}_high"], color=colour, alpha=0.2, lw=0)
            axes.plot(place, table[name], color=colour, marker=marker, ms=3.5, lw=1.2, label=label)
        axes.axhline(0, color="black", lw=0.6)
        axes.set(xticks=place, ylim=(min(-0.1, axes.get_ylim()[0]), 1.03), xlabel="random from the output down to")
        axes.set_xticklabels(table["step"], rotation=35, ha="right")
        figure.legend(loc="outside upper center", ncols=3, frameon=False)
        return save_figure(figure, path)
