"""This module draws how far strategies are from a baseline on different data, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from gradsam_exp.reports.colours import BACKGROUND_POINT, FOREGROUND_POINT
from gradsam_exp.reports.figures import styled


def draw_differences(conditions: Mapping[str, Mapping[str, Mapping[Any, Any]]], path: Path) -> Path:
    """Draw the paired difference to the baseline, with its 95 % interval, of each strategy in each condition.

    Args:
        conditions: of each condition the runs (rows of ``sweep.csv``) by the strategy's name; the first condition
            decides the order, best first.
        path: a PNG.
    """
    first = next(iter(conditions.values()))
    names = sorted(first, key=lambda name: first[name]["delta_miou"])
    with styled():
        figure = Figure(figsize=(5.2, 0.26 * len(names) + 0.9), layout="constrained")
        axes = figure.subplots()
        looks: Sequence[tuple[str, str]] = ((FOREGROUND_POINT, "o"), (BACKGROUND_POINT, "s"), ("black", "^"))
        for row, ((title, runs), (colour, marker)) in enumerate(zip(conditions.items(), looks, strict=False)):
            places = [names.index(name) + 0.22 * (1 - row) for name in runs]
            delta = [run["delta_miou"] for run in runs.values()]
            spread = [
                [run["delta_miou"] - run["delta_low"] for run in runs.values()],
                [run["delta_high"] - run["delta_miou"] for run in runs.values()],
            ]
            axes.errorbar(delta, places, xerr=spread, color=colour, marker=marker, ms=3.5, ls="", label=title)
        axes.axvline(0, color="black", lw=0.6)
        axes.set(yticks=range(len(names)), yticklabels=names, xlabel="change in mIoU against fg, same images")
        axes.legend(frameon=False, loc="lower right")
        figure.savefig(path, facecolor="white")
        return path
