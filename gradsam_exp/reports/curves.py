"""This module shows mIoU against what a sweep varied: as numbers, drawn for print, and by Plotly on the page.

A figure of Plotly is plain data (``{"data": …, "layout": …}``); the page draws it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from gradsam_exp.reports.colours import AMOUNT, SERIES
from gradsam_exp.reports.tables import (
    BOUND,
    BOUND_NOTE,
    Metrics,
    is_unknown,
    known_metrics,
    merged_rows,
    varied_columns,
)
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.finding import in_brief, in_short
from gradsam_exp.runs.paired import comparison_intervals
from gradsam_exp.runs.units import Units

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_HEATMAPS = 3
MOST_BANDS = 3
DOTS = "Δ mIoU to the baseline (◇), image by image, 95 % interval"
LONGEST = 48  # letters of a run's name in print
AVERAGED = "mean over the rest"
LINES = [[0, "#0072B2"], [0.5, "#8C8C8C"], [1, "#E69F00"]]  # seen on white and on black
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")  # the same


@dataclass(frozen=True)
class Curve:
    """Holds mIoU against one knob, all others held.

    Attributes:
        name: the others' values, with a star if all its runs are upper bounds; empty if there are none.
        x: the knob's values, as they were given.
        mean, low, high: mIoU with its comparison interval, see `gradsam_exp.runs.paired.comparison_intervals`.
        jobs: behind each point.
    """

    name: str
    x: list[str]
    mean: list[float]
    low: list[float]
    high: list[float]
    jobs: list[list[str]]


@dataclass(frozen=True)
class Dot:
    """Holds a run's paired difference in mIoU to its baseline, with its 95 % interval."""

    name: str
    mean: float
    low: float
    high: float
    is_baseline: bool = False


def is_number(values: Sequence[str]) -> bool:
    """Say whether all of a knob's values are numbers."""
    try:
        return bool([float(value) for value in values])
    except ValueError:
        return False


def in_order(values: Sequence[str]) -> list[str]:
    """List a knob's different values: numbers by size, words as they came."""
    different = list(dict.fromkeys(values))
    return sorted(different, key=float) if is_number(different) else different


def known_runs(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the finished jobs with a value for every varied key (as text), and the names of these keys.

    ``upper_bound`` says of each whether it is one.
    """
    varied = varied_columns(table)
    if "miou" not in table or not varied:
        return table.iloc[:0], varied
    done = table[(table["status"] == "finished") & table["miou"].notna()]
    done = done.dropna(subset=varied)
    bounds = done["upper_bound"].eq(True) if "upper_bound" in done else False
    return done.assign(upper_bound=bounds, **{column: done[column].astype(str) for column in varied}), varied


def _starred(runs: pd.DataFrame, knob: str) -> dict[str, str]:
    """What a knob's values are called: with a star if all runs that have it are upper bounds."""
    return {
        str(value): str(value) + (BOUND if own["upper_bound"].all() else "") for value, own in runs.groupby(knob)
    }


def curves_of(runs: Runs, table: pd.DataFrame, knob: str) -> list[Curve]:
    """Make the curves of mIoU against ``knob``, one for each combination of the other knobs.

    If there are more combinations than can be told apart, they are averaged image by image, and there is one
    curve for each set of images. ``table`` is that of `gradsam_exp.runs.sweep.collect_runs`.
    """
    done, varied = known_runs(table)
    done = with_intervals(runs, done)
    others = [column for column in varied if column != knob]
    order = {value: k for k, value in enumerate(in_order(done[knob].tolist()))}
    done = done.sort_values(knob, key=lambda column: column.map(order), kind="stable")
    if not others:
        return [_curve("", knob, done)]
    groups = {
        " · ".join(map(in_short, others, map(str, values))) + (BOUND if own["upper_bound"].all() else ""): own
        for values, own in done.groupby(others, sort=False)
    }
    if len(groups) <= len(SERIES):
        return [_curve(name, knob, own) for name, own in groups.items()]
    return _averaged(runs, done, knob, others)


def _curve(name: str, knob: str, runs: pd.DataFrame) -> Curve:
    runs = runs.drop_duplicates(knob)
    mean, low, high = (runs[column].tolist() for column in ("miou", "low", "high"))
    return Curve(name, runs[knob].tolist(), mean, low, high, [[str(job)] for job in runs["job"]])


def with_intervals(runs: Runs, done: pd.DataFrame) -> pd.DataFrame:
    """Add ``low`` and ``high``, each run's comparison interval among the runs on its images."""
    done = done.assign(low=done["miou"], high=done["miou"])
    for _, own in done.groupby([runs[job].data_digest for job in done["job"]], sort=False):
        first = runs[own["job"].iloc[0]].images
        ious = np.stack([runs[job].images["iou"].reindex(first.index).to_numpy("float64") for job in own["job"]])
        low, high = comparison_intervals(ious, units=Units.of(first).names)
        done.loc[own.index, "low"], done.loc[own.index, "high"] = low, high
    return done


def _averaged(runs: Runs, done: pd.DataFrame, knob: str, others: list[str]) -> list[Curve]:
    """One curve if all runs with one value of the knob are of the same images; else one for each set of images."""
    done = done.assign(images=[runs[job].data_digest for job in done["job"]])
    if (done.groupby(knob)["images"].nunique() == 1).all():
        done = done.assign(images="")
    curves = []
    for images in done["images"].unique():
        own = done[done["images"] == images]
        found: dict[str, pd.Series] = {}
        jobs: list[list[str]] = []
        for value, some in own.groupby(knob, sort=False):
            tables = [runs[job].images for job in some["job"]]
            scores = pd.concat([table["iou"] for table in tables], axis=1).mean(axis=1)
            found[str(value)] = scores
            jobs.append(some["job"].astype(str).tolist())
        name = f"{AVERAGED} · {_images_name(own, done, others)}" if images else AVERAGED
        shared = pd.concat(found, axis=1).dropna()
        lows = highs = pd.Series([one.mean() for one in found.values()])
        if len(shared):  # otherwise each value has images of its own
            units = Units.of(runs[own["job"].iloc[0]].images.reindex(shared.index)).names
            lows, highs = map(pd.Series, comparison_intervals(shared.to_numpy().T, units=units))
        means = [float(one.mean()) for one in found.values()]
        curves.append(Curve(name, list(found), means, lows.tolist(), highs.tolist(), jobs))
    return curves


def _images_name(own: pd.DataFrame, runs: pd.DataFrame, knobs: Sequence[str]) -> str:
    """What the runs on one set of ``images`` share among ``knobs`` and others do not, or else the set's digest."""
    shared = [key for key in knobs if own[key].nunique() == 1 < runs[key].nunique() and own[key].iloc[0]]
    return " · ".join(in_short(key, own[key].iloc[0]) for key in shared) or f"images {own['images'].iloc[0][:6]}"


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
            _draw_panel(axes, curves_of(runs, table, knob), knob, _starred(done, knob))
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
        xlabel="Δ mIoU to the baseline (◇), image by image, 95 % interval",
    )


def _draw_panel(axes: Axes, curves: Sequence[Curve], knob: str, names: Mapping[str, str]) -> None:
    values = in_order([value for curve in curves for value in curve.x])
    number = is_number(values)
    for k, (curve, colour, marker) in enumerate(zip(curves, SERIES, _MARKERS, strict=False)):
        # Words stand side by side, a little apart, so that their intervals can be seen.
        apart = 0.08 * (k - (len(curves) - 1) / 2)
        x = [float(value) if number else values.index(value) + apart for value in curve.x]
        if number and len(x) > 1:
            axes.fill_between(x, curve.low, curve.high, color=colour, alpha=_opacity(curves), lw=0)
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
        place: Any = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": _side_by_side(curves)}
        axes.legend(fontsize=6, frameon=False, **place)


def _opacity(curves: Sequence[Curve]) -> float:
    """Of their bands: many would cover one another."""
    return 0.16 if len(curves) <= MOST_BANDS else 0.07


def _side_by_side(curves: Sequence[Curve]) -> int:
    """How many names fit beside each other above a panel."""
    return 2 if max(len(curve.name) for curve in curves) <= 22 else 1


def charts(runs: Runs, table: pd.DataFrame) -> list[dict[str, Any]]:
    """Make the page's figures of mIoU against what was varied: ``id``, ``title``, ``note``, ``figure``."""
    done, varied = known_runs(table)
    if not len(done):
        return []
    done = with_intervals(runs, done)
    found = [_knob_chart(runs, table, done, knob, k) for k, knob in enumerate(varied)]
    return [*found, *_heatmaps(runs, done, varied), _parallel(done, varied, runs.metric_facts(done))]


def _knob_chart(runs: Runs, table: pd.DataFrame, done: pd.DataFrame, knob: str, number: int) -> dict[str, Any]:
    numbers = is_number(done[knob].tolist())
    curves = curves_of(runs, table, knob)
    data: list[dict[str, Any]] = []
    for k, (curve, colour) in enumerate(zip(curves, SERIES, strict=False)):
        x: list[Any] = [float(value) for value in curve.x] if numbers else curve.x
        line: dict[str, Any] = {
            "x": x, "y": curve.mean, "name": curve.name or "mIoU", "legendgroup": curve.name,
            "mode": "lines+markers" if numbers else "markers",
            "customdata": list(zip(curve.low, curve.high, strict=True)),
            "hovertemplate": "%{x}: %{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]",
            "marker": {"color": colour, "size": 7, "symbol": _SYMBOLS[k]},
            "meta": curve.jobs,
            "line": {"color": colour, "dash": "dash" if numbers and k % 2 else "solid"},
        }  # fmt: skip
        if numbers and len(x) > 1:
            data.append({
                "x": [*x, *x[::-1]], "y": [*curve.high, *curve.low[::-1]], "mode": "lines", "fill": "toself",
                "fillcolor": colour, "opacity": _opacity(curves), "line": {"width": 0}, "hoverinfo": "skip",
                "showlegend": False, "legendgroup": curve.name, "meta": [*curve.jobs, *curve.jobs[::-1]],
            })  # fmt: skip
        else:
            line["error_y"] = _errors(curve, colour) | ({"thickness": 1, "width": 3} if numbers else {})
        data.append(line)
    named = bool(len(curves) > 1 or curves[0].name)
    ends = done[["low", "high"]].to_numpy(dtype="float64")  # all charts share one scale
    margin = 0.05 * (ends.max() - ends.min()) or 0.05
    scale = [float(ends.min() - margin), float(ends.max() + margin)]
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": knob}} | ({} if numbers else {"type": "category", **_ticks(done, knob)}),
        "yaxis": {"title": {"text": "mIoU"}, "range": scale},
        "showlegend": named,
    }
    if not numbers:
        layout["scattermode"] = "group"
    rows = math.ceil(len(curves) / _side_by_side(curves))
    if rows > 2:
        layout["height"] = 260 + 20 * rows  # names take their room from the curves
    note = "Mean, with comparison intervals: where two overlap by much, the runs do not differ clearly."
    if curves[0].name.startswith(AVERAGED):
        note += " Averaged over the other knobs, image by image."
    elif named:
        note += " One curve for each combination of the others."
    note += _bound_note(done, [*(curve.name for curve in curves), *_starred(done, knob).values()])
    return {"id": f"knob-{number}", "title": knob, "note": note, "figure": {"data": data, "layout": layout}}


def _errors(curve: Curve, colour: str) -> dict[str, Any]:
    """The interval of each point of a curve, for Plotly."""
    up, down = ([abs(a - b) for a, b in zip(ends, curve.mean, strict=True)] for ends in (curve.high, curve.low))
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": colour}


def _ticks(runs: pd.DataFrame, knob: str) -> dict[str, Any]:
    """An axis of words, for Plotly: with stars."""
    names = _starred(runs, knob)
    return {"tickvals": list(names), "ticktext": list(names.values())}


def _bound_note(runs: pd.DataFrame, names: Sequence[str]) -> str:
    """What the stars in a chart's names mean, or that there are upper bounds in it."""
    if not runs["upper_bound"].any():
        return ""
    return f" {BOUND_NOTE}." if any(name.endswith(BOUND) for name in names) else " Upper bounds are among them."


def _heatmaps(runs: Runs, done: pd.DataFrame, varied: Sequence[str]) -> list[dict[str, Any]]:
    """One for each of the first pairs of knobs; if a cell would be of several sets of images, one for each set."""
    done = done.assign(images=[runs[job].data_digest for job in done["job"]])
    scale = {"zmin": float(done["miou"].min()), "zmax": float(done["miou"].max())}  # one for all of them
    found: list[dict[str, Any]] = []
    for down, across in list(combinations(varied, 2))[:MOST_HEATMAPS]:
        title, which = f"{down} × {across}", ""
        parts = {title: done}
        if (done.groupby([down, across])["images"].nunique() > 1).any():
            others = [key for key in varied if key not in (down, across)]
            sets = [own for _, own in done.groupby("images", sort=False)]
            sets = [own for own in sets if own[[down, across]].nunique().min() > 1]  # else a curve says it all
            parts = {f"{title} · {_images_name(own, done, others)}": own for own in sets[:MOST_HEATMAPS]}
            which = " Of one set of images; others are left out." if len(parts) < done["images"].nunique() else ""
        elif done["images"].nunique() > 1:
            which = " Not all cells are of the same images."
        for name, own in parts.items():
            single = own.groupby([down, across]).size().max() == 1
            note = "One run in each cell." if single else "Mean over the runs with these two values."
            note += which + _bound_note(own, [*_starred(own, down).values(), *_starred(own, across).values()])
            chart = _heatmap(own, down, across, scale)
            found.append({"id": f"heatmap-{len(found)}", "title": name, "note": note, **chart})
    return found


def _heatmap(done: pd.DataFrame, down: str, across: str, scale: Mapping[str, float]) -> dict[str, Any]:
    rows, columns = in_order(done[down].tolist()), in_order(done[across].tolist())
    means = done.groupby([down, across])["miou"].mean()
    values = [[float(means[r, c]) if (r, c) in means.index else None for c in columns] for r in rows]
    own = {cell: jobs.astype(str).tolist() for cell, jobs in done.groupby([down, across])["job"]}
    cells: dict[str, Any] = {
        "type": "heatmap", "x": columns, "y": rows, "z": values, **scale,
        "colorscale": AMOUNT.capitalize(), "colorbar": {"title": {"text": "mIoU"}, "thickness": 12},
        "texttemplate": "%{z:.3f}", "xgap": 2, "ygap": 2,
        "meta": [[own.get((r, c), []) for c in columns] for r in rows],
        "hovertemplate": f"{down} %{{y}}, {across} %{{x}}: %{{z:.4f}}<extra></extra>",
    }  # fmt: skip
    layout: dict[str, Any] = {
        axis: {"type": "category", "title": {"text": name}, "showgrid": False, **_ticks(done, name)}
        for axis, name in (("xaxis", across), ("yaxis", down))
    }
    if len(rows) > 8:  # numbers need their height, and names below may be turned
        layout["height"] = 130 + 20 * len(rows) + 6 * max(len(str(column)) for column in columns)
    return {"figure": {"data": [cells], "layout": layout}}


def _parallel(done: pd.DataFrame, varied: Sequence[str], metrics: Metrics) -> dict[str, Any]:
    dimensions: list[dict[str, Any]] = []
    for knob in varied:
        values = in_order(done[knob].tolist())
        if is_number(values) and len(values) > 6:
            dimensions.append({"label": knob, "values": done[knob].astype(float).tolist()})
            continue
        names = _starred(done, knob)
        ticks = {"tickvals": list(range(len(values))), "ticktext": [names[value] for value in values]}
        dimensions.append({"label": knob, "values": [values.index(v) for v in done[knob]], **ticks})
    for metric, facts in known_metrics(done, metrics).items():
        if not facts.about_heatmaps and done[metric].notna().all() and done[metric].nunique() > 1:
            values = done[metric].tolist()
            upside_down = {"range": [max(values), min(values)]} if facts.higher_is_better is False else {}
            dimensions.append({"label": facts.heading, "values": values, **upside_down})
    bar = {"title": {"text": "mIoU"}, "thickness": 12}
    line = {"color": done["miou"].tolist(), "colorscale": LINES, "showscale": True, "colorbar": bar}
    jobs = [[str(job)] for job in done["job"]]
    data: list[Any] = [{"type": "parcoords", "dimensions": dimensions, "line": line, "meta": jobs}]
    note = "One line for each job. Drag along an axis to choose, drag a title to move the axis."
    note += _bound_note(done, [name for knob in varied for name in _starred(done, knob).values()])
    return {"id": "parallel", "title": "All at once", "note": note, "figure": {"data": data, "layout": {}}}
