"""These functions turn runs on the same images into the study's tables and figures.

The runs differ in their prompts and selectors only; ``fg`` is the one without background points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, UInt8
from matplotlib.figure import Figure
from scipy import ndimage

from gradsam_exp.engine.predictions import decode_prediction
from gradsam_exp.reports.colours import BACKGROUND_POINT as BG_COLOUR
from gradsam_exp.reports.colours import FOREGROUND_POINT as FG_COLOUR
from gradsam_exp.reports.figures import save_figure, styled
from gradsam_exp.reports.tables import BOUND, difference_cells
from gradsam_exp.runs.summary import summarize
from gradsam_exp.types import BACKGROUND

FACTS = {"area": "area (px)", "to_side": "centre to nearest side (px)"}
NEAR = 1  # px from a side of the image that still count as at it


def background_places(predictions: pd.DataFrame) -> pd.DataFrame:
    """List every background point of a run.

    Args:
        predictions: the run's ``predictions.parquet``.

    Returns:
        A row per point: ``example_id``; ``x``, ``y`` px; ``across``, ``down``: the same as shares of the image's
        sides; ``edge``: whether it is at a side, that is, within `NEAR` px of the outermost row or column;
        ``corner``: whether it is at two that meet. ``exact``: whether it is the corner's own pixel.
    """
    rows = []
    for image in predictions.to_dict("records"):
        right, bottom = image["width"] - 1 - NEAR, image["height"] - 1 - NEAR
        found = decode_prediction(image)
        for x, y in found.points[found.labels == BACKGROUND].tolist():
            sides = (x <= NEAR or x >= right) + (y <= NEAR or y >= bottom)
            across, down = (x + 0.5) / image["width"], (y + 0.5) / image["height"]
            exact = x in (0, image["width"] - 1) and y in (0, image["height"] - 1)
            rows.append((image["example_id"], x, y, across, down, sides > 0, sides == 2, exact))
    columns = ["example_id", "x", "y", "across", "down", "edge", "corner", "exact"]
    return pd.DataFrame(rows, columns=columns)


def unmoved(one: pd.DataFrame, other: pd.DataFrame) -> float:
    """Returns the share of the images whose background points are the same in both runs."""
    first, second = (
        {str(name): set(zip(own["x"], own["y"], strict=True)) for name, own in places.groupby("example_id")}
        for places in (one, other)
    )
    return float(np.mean([points == second.get(name) for name, points in first.items()]))


def object_facts(
    image: UInt8[np.ndarray, "3 height width"], mask: Bool[np.ndarray, "height width"]
) -> dict[str, float | int]:
    """Measure an object's area (px), its centre's distance to the nearest side (px), and its contrast in [0, 1].

    The contrast is the distance in RGB between the object's mean colour and that of a ring of 3 px around it,
    as a share of the distance from black to white.
    """
    y, x = ndimage.center_of_mass(mask)
    height, width = mask.shape
    around = ndimage.binary_dilation(mask, iterations=3) & ~mask
    colours = image[:, mask].mean(1) - image[:, around].mean(1)
    return {
        "area": int(mask.sum()),
        "to_side": min(x, y, width - 1 - x, height - 1 - y),
        "contrast": float(np.linalg.norm(colours)) / (255 * 3**0.5),
    }


def errors(predictions: pd.DataFrame, truth: Mapping[str, Bool[np.ndarray, "height width"]]) -> pd.DataFrame:
    """Count each mask's pixels outside the object (``extra``) and the object's outside the mask (``missed``)."""
    rows = []
    for image in predictions.to_dict("records"):
        mask, true = decode_prediction(image).mask, truth[image["example_id"]]
        rows.append((image["example_id"], int((mask & ~true).sum()), int((true & ~mask).sum())))
    return pd.DataFrame(rows, columns=["example_id", "extra", "missed"]).set_index("example_id")


def by_quartile(delta: pd.Series, facts: pd.DataFrame, units: pd.Series) -> pd.DataFrame:
    """Compute the mean change in each quarter of the images by each fact.

    Args:
        units: the independent unit of each image, see `gradsam_exp.runs.units.Units`.

    Returns:
        A row per quarter: ``fact``, the quarter's bounds ``low`` and ``high``, ``delta`` with its interval, ``n``.
    """
    rows = []
    for fact in facts:
        quarters = pd.qcut(facts[fact], 4, duplicates="drop")
        for interval, some in delta.groupby(quarters, observed=True):
            found = summarize(some.to_numpy(), units=units[some.index].to_numpy())
            rows.append((fact, interval.left, interval.right, found.mean, *found.ci95, found.n))
    return pd.DataFrame(rows, columns=["fact", "low", "high", "delta", "delta_low", "delta_high", "n"])


def comparison_cells(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Format the runs' comparison with ``fg``, to four digits: headings and texts.

    Args:
        table: `gradsam_exp.reports.sweep.with_comparison`'s.
    """
    rows = []
    for run in table.to_dict("records"):
        miou = f"{run['miou']:.4f} [{run['miou_low']:.4f}, {run['miou_high']:.4f}]"
        _, *difference = difference_cells(run, digits=4)
        counts = (
            [] if difference[0] == "baseline" else [str(int(run[name])) for name in ("wins", "ties", "losses")]
        )
        name = f"{run['job']}{BOUND}" if run.get("upper_bound") is True else str(run["job"])
        rows.append([name, miou, *difference, "/".join(counts)])
    return ["run", "mIoU", "Δ mIoU", "p (Holm)", "wins / ties / losses"], rows


def quartile_cells(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Format `by_quartile`'s rows: headings and texts."""
    rows = [
        [
            FACTS.get(row["fact"], str(row["fact"])),
            f"{row['low']:.3g} to {row['high']:.3g}",
            f"{row['delta']:+.4f} [{row['delta_low']:+.4f}, {row['delta_high']:+.4f}]",
            str(row["n"]),
        ]
        for row in table.to_dict("records")
    ]
    return ["fact", "quarter", "Δ mIoU", "images"], rows


def draw_places(places: Mapping[str, pd.DataFrame], path: Path) -> Path:
    """Draw how often each place of the image is a background point, one panel per run."""
    with styled():
        figure = Figure(figsize=(2.3 * len(places), 2.0), layout="constrained")
        panels = figure.subplots(1, len(places), squeeze=False)[0]
        for axes, (name, table) in zip(panels, places.items(), strict=True):
            counts, *_ = np.histogram2d(table["down"], table["across"], bins=(24, 32), range=[[0, 1], [0, 1]])
            axes.imshow(np.sqrt(counts / max(counts.sum(), 1)), cmap="cividis", extent=(0, 4, 3, 0))
            axes.set(title=f"{name}: {table['corner'].mean():.0%} in corners", xticks=[], yticks=[])
        return save_figure(figure, path)


def draw_change(delta: pd.Series, path: Path) -> Path:
    """Draw the change in IoU of every image, sorted, and its distribution."""
    with styled():
        figure = Figure(figsize=(5.4, 2.1), layout="constrained")
        left, right = figure.subplots(1, 2)
        ordered = np.sort(delta.to_numpy())
        left.fill_between(range(len(ordered)), ordered, color=BG_COLOUR, lw=0)
        left.axhline(0, color="black", lw=0.6)
        left.set(xlabel="images, sorted", ylabel="change in IoU")
        right.hist(ordered.clip(-0.1, 0.1), bins=np.linspace(-0.1, 0.1, 41), color=BG_COLOUR)
        right.axvline(delta.mean(), color=FG_COLOUR, lw=1.4)
        title = f"mean {delta.mean():+.4f} (line), median {delta.median():+.4f}"
        right.set(xlabel="change in IoU, clipped at ±0.1", ylabel="images", title=title)
        return save_figure(figure, path)


def draw_counts(curves: Mapping[str, Sequence[tuple[int, Mapping[Any, Any]]]], path: Path) -> Path:
    """Draw the change in mIoU against the number of background points; one curve per placement.

    Args:
        curves: the number of points and the run's row, by placement.
    """
    with styled():
        figure = Figure(figsize=(3.4, 2.4), layout="constrained")
        axes = figure.subplots()
        for (name, curve), colour, marker in zip(curves.items(), (BG_COLOUR, FG_COLOUR), ("o", "s"), strict=False):
            count = np.array([n for n, _ in curve])
            mean = np.array([row["delta_miou"] for _, row in curve])
            spread = [
                mean - [row["delta_low"] for _, row in curve],
                [row["delta_high"] for _, row in curve] - mean,
            ]
            axes.errorbar(count, mean, spread, color=colour, marker=marker, ms=4, capsize=2, label=name)
        axes.axhline(0, color="black", lw=0.6)
        axes.set(xlabel="background points", ylabel="change in mIoU against fg")
        axes.legend(frameon=False)
        return save_figure(figure, path)


def draw_quartiles(table: pd.DataFrame, path: Path) -> Path:
    """Draw the mean change in each quarter of the images by each fact; ``table`` is `by_quartile`'s."""
    facts = list(dict.fromkeys(table["fact"]))
    with styled():
        figure = Figure(figsize=(1.9 * len(facts), 2.2), layout="constrained")
        for axes, fact in zip(figure.subplots(1, len(facts), sharey=True, squeeze=False)[0], facts, strict=True):
            own = table[table["fact"] == fact]
            spread = [own["delta"] - own["delta_low"], own["delta_high"] - own["delta"]]
            axes.errorbar(
                range(len(own)), own["delta"], spread, color=BG_COLOUR, marker="o", ms=4, capsize=2, ls=""
            )
            axes.axhline(0, color="black", lw=0.6)
            labels = [
                f"{low:.2g}–\n{high:.2g}" if high < 10 else f"{low:.0f}–\n{high:.0f}"
                for low, high in zip(own["low"], own["high"], strict=True)
            ]
            axes.set(xticks=range(len(own)), xticklabels=labels, title=FACTS.get(fact, fact))
        figure.supylabel("change in IoU", fontsize=8)
        return save_figure(figure, path)
