"""This module makes the page's charts of a sweep: mIoU against what was varied, for Plotly.

A figure of Plotly is plain data (``{"data": …, "layout": …}``); the page draws it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import pandas as pd

from gradsam_exp.reports.colours import AMOUNT, SERIES
from gradsam_exp.reports.curves import (
    AVERAGED,
    Curve,
    band_opacity,
    curves_of,
    images_name,
    in_order,
    is_number,
    known_runs,
    names_side_by_side,
    starred,
    with_intervals,
)
from gradsam_exp.reports.tables import BOUND, BOUND_NOTE, Metrics, known_metrics
from gradsam_exp.runs.comparison import Runs

MOST_HEATMAPS = 3
LINES = [[0, "#0072B2"], [0.5, "#8C8C8C"], [1, "#E69F00"]]  # seen on white and on black
_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")  # as in print


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
                "fillcolor": colour, "opacity": band_opacity(curves), "line": {"width": 0}, "hoverinfo": "skip",
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
    rows = math.ceil(len(curves) / names_side_by_side(curves))
    if rows > 2:
        layout["height"] = 260 + 20 * rows  # names take their room from the curves
    note = "Mean, with comparison intervals: where two overlap by much, the runs do not differ clearly."
    if curves[0].name.startswith(AVERAGED):
        note += " Averaged over the other knobs, image by image."
    elif named:
        note += " One curve for each combination of the others."
    note += _bound_note(done, [*(curve.name for curve in curves), *starred(done, knob).values()])
    return {"id": f"knob-{number}", "title": knob, "note": note, "figure": {"data": data, "layout": layout}}


def _errors(curve: Curve, colour: str) -> dict[str, Any]:
    """The interval of each point of a curve, for Plotly."""
    up, down = ([abs(a - b) for a, b in zip(ends, curve.mean, strict=True)] for ends in (curve.high, curve.low))
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": colour}


def _ticks(runs: pd.DataFrame, knob: str) -> dict[str, Any]:
    """An axis of words, for Plotly: with stars."""
    names = starred(runs, knob)
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
            parts = {f"{title} · {images_name(own, done, others)}": own for own in sets[:MOST_HEATMAPS]}
            which = " Of one set of images; others are left out." if len(parts) < done["images"].nunique() else ""
        elif done["images"].nunique() > 1:
            which = " Not all cells are of the same images."
        for name, own in parts.items():
            single = own.groupby([down, across]).size().max() == 1
            note = "One run in each cell." if single else "Mean over the runs with these two values."
            note += which + _bound_note(own, [*starred(own, down).values(), *starred(own, across).values()])
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
        names = starred(done, knob)
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
    note += _bound_note(done, [name for knob in varied for name in starred(done, knob).values()])
    return {"id": "parallel", "title": "All at once", "note": note, "figure": {"data": data, "layout": {}}}
