"""This module draws a sweep for print: mIoU against each knob, and each run's difference to its baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from gradsam_exp.reports.colours import SERIES
from gradsam_exp.reports.curves import (
    Curve,
    band_opacity,
    curves_of,
    in_order,
    is_number,
    known_runs,
    names_side_by_side,
    starred,
)
from gradsam_exp.reports.tables import BOUND, BOUND_NOTE, is_unknown, merged_rows
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.finding import in_brief, in_short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOTS = "Δ mIoU to the baseline (◇), image by image, 95 % interval"
LONGEST = 48  # letters of a run's name in print
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True)
class Dot:
    """Holds a run's paired difference in mIoU to its baseline, with its 95 % interval."""

    name: str
    mean: float
    low: float
    high: float
    is_baseline: bool = False


def draw_curves(runs: Runs, table: pd.DataFrame, path: Path) -> Path | None:
    """Draw runs' paired differences, and mIoU against every knob, as PNG and PDF; None if nothing was varied."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (a second)

    from gradsam_exp.reports.figures import save_figure, styled  # noqa: PLC0415

    done, varied = known_runs(table)
    if not len(done):
        return None
    with styled():
        across = min(len(varied), 3)
        down = -(-len(varied) // across)
        dots = dots_of(table, varied)
        above = 0.6 + 0.16 * len(dots) if dots else 0.0
        figure = Figure(figsize=(max(3.2 * across, 5.5), above + 2.9 * down), layout="constrained")
        below: Any = figure
        if dots:
            top, below = cast(Any, figure.subfigures(2, 1, height_ratios=[above, 2.9 * down]))
            _draw_dots(top.subplots(), dots)
        panels = below.subplots(down, across, squeeze=False, sharey=True).ravel()
        for axes, knob in zip(panels, varied, strict=False):
            _draw_panel(axes, curves_of(runs, table, knob), knob, starred(done, knob))
        for axes in panels[len(varied) :]:
            axes.set_visible(False)
        for axes in panels[::across]:
            axes.set_ylabel("mIoU")
        if done["upper_bound"].any():
            figure.supxlabel(BOUND_NOTE, fontsize=6)
        return save_figure(figure, path)


def dots_of(table: pd.DataFrame, varied: Sequence[str]) -> list[Dot]:
    """List the runs' paired differences, the largest first; nothing where no two runs are of the same images."""
    if "delta_miou" not in table:
        return []
    rows = [row for row in merged_rows(table) if row["status"] == "finished"]
    groups: dict[str, list[Dot]] = {}
    for row in rows:
        own = row["baseline"] if isinstance(row["baseline"], str) else str(row["job"])
        values = [(knob, "" if is_unknown(row[knob]) else in_brief(str(row[knob]))) for knob in varied]
        star = BOUND if row.get("upper_bound") is True else ""
        name = " ".join([str(row["job"]), *(in_short(knob, value) for knob, value in values if value)]) + star
        if is_unknown(row["delta_miou"]):
            dot = Dot(name, 0.0, 0.0, 0.0, is_baseline=True)
        else:
            dot = Dot(name, float(row["delta_miou"]), float(row["delta_low"]), float(row["delta_high"]))
        groups.setdefault(own, []).append(dot)
    compared = [own for own in groups.values() if len(own) > 1]
    return [dot for own in compared for dot in sorted(own, key=lambda dot: dot.mean, reverse=True)]


def limits_of(dots: Sequence[Dot]) -> tuple[float, float]:
    """Find the ends of an axis that shows the differences; those far outside the middle half are left out.

    Far is more than three times the width of the middle half from it (Tukey's outer fences, 1977), or, where
    that is narrower, of a usual interval.
    """
    means = [dot.mean for dot in dots]
    low, high = np.percentile(means, [25, 75])
    reach = 3 * max(high - low, float(np.median([dot.high - dot.low for dot in dots])))
    kept = [dot for dot in dots if low - reach <= dot.mean <= high + reach]
    ends = min(0.0, *(dot.low for dot in kept)), max(0.0, *(dot.high for dot in kept))
    margin = 0.06 * (ends[1] - ends[0]) or 0.01
    return ends[0] - margin, ends[1] + margin


def _draw_dots(axes: Axes, dots: Sequence[Dot]) -> None:
    low, high = limits_of(dots)
    inset = 0.012 * (high - low)  # so that arrows stay clear of the names
    for k, dot in enumerate(dots):
        if not low <= dot.mean <= high:  # an arrow, and its number
            left = dot.mean < low
            place = low + inset if left else high - inset
            axes.plot(place, k, "<" if left else ">", color=SERIES[5], ms=4, clip_on=False)
            text: Any = {
                "xytext": (6 if left else -6, 0),
                "textcoords": "offset points",
                "va": "center",
                "fontsize": 6,
            }
            side = "left" if left else "right"
            axes.annotate(f"{dot.mean:+.3f}", (place, k), ha=side, **text)
            continue
        axes.plot([max(dot.low, low), min(dot.high, high)], [k, k], color=SERIES[0], lw=1)
        axes.plot(
            dot.mean,
            k,
            "D" if dot.is_baseline else "o",
            color=SERIES[0],
            ms=3.5,
            mfc="white" if dot.is_baseline else None,
        )
    axes.axvline(0, color="0.4", lw=0.8, zorder=0)
    axes.set_yticks(
        range(len(dots)), [dot.name if len(dot.name) <= LONGEST else dot.name[: LONGEST - 1] + "…" for dot in dots]
    )
    axes.tick_params(axis="y", labelsize=6)
    axes.set(
        xlim=(low, high),
        ylim=(len(dots) - 0.4, -0.6),
        xlabel=DOTS,
    )


def _draw_panel(axes: Axes, curves: Sequence[Curve], knob: str, names: Mapping[str, str]) -> None:
    values = in_order([value for curve in curves for value in curve.x])
    number = is_number(values)
    for k, (curve, colour, marker) in enumerate(zip(curves, SERIES, _MARKERS, strict=False)):
        # Words stand side by side, a little apart, so that their intervals can be seen.
        apart = 0.08 * (k - (len(curves) - 1) / 2)
        x = [float(value) if number else values.index(value) + apart for value in curve.x]
        if number and len(x) > 1:
            axes.fill_between(x, curve.low, curve.high, color=colour, alpha=band_opacity(curves), lw=0)
        else:
            axes.vlines(x, curve.low, curve.high, color=colour, lw=1)
        line = ("-" if k % 2 == 0 else "--") if number else ""
        axes.plot(x, curve.mean, marker=marker, ls=line, ms=3.5, lw=1.2, color=colour, label=curve.name)
    axes.set_xlabel(knob)
    if not number:
        turned = sum(map(len, values)) > 36
        look: Any = {"rotation": 35, "ha": "right"} if turned else {}
        axes.set_xticks(range(len(values)), [names[value] for value in values], **look)
        axes.margins(x=0.15)
    elif len(values) <= 6:
        axes.set_xticks([float(value) for value in values], [names[value] for value in values])
    if any(curve.name for curve in curves):
        place: Any = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": names_side_by_side(curves)}
        axes.legend(fontsize=6, frameon=False, **place)
