"""These functions read finished runs of several explainers or layers, and write which metric goes with the IoU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gradsam_exp.errors import InputError, warn
from gradsam_exp.reports.colours import SERIES
from gradsam_exp.reports.figures import save_figure, styled
from gradsam_exp.reports.tables import is_unknown, markdown_table
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.paired import holm
from gradsam_exp.runs.summary import MetricFacts
from gradsam_exp.runs.units import COLUMNS, Units
from studies.finished import Alike, finished_runs
from studies.heatmap_metrics.correlation import (
    FEWEST_METHODS,
    Correlation,
    of_means,
    over_examples,
    over_methods,
)

COMPARED = ("explainer", "refine")
"""What heatmaps of one image differ in."""
KINDS = {
    "methods": "over methods, same image",
    "examples": "over images, size held fixed",
    "means": "of the methods' means",
}
NOTES = (
    "ρ: Spearman's, with a 95 % bootstrap interval; a method is an explainer at a layer",
    "over methods, same image: in each image over the methods, then the mean of the images; "
    "p: sign-flip test that this mean is 0, corrected by Holm over the metrics",
    "over images, size held fixed: partial, given the object's size in pixels, in each method over the images, "
    "then the mean of the methods",
    "of the methods' means: mean metric and mIoU, over the methods; whether the metric orders them as mIoU does",
)


def correlations(runs: Sequence[Run]) -> pd.DataFrame:
    """Correlate every heatmap metric that all runs have with their IoUs.

    Args:
        runs: on the same images, which differ in their heatmaps alone.

    Returns:
        One row per metric, the one that goes best with IoU over methods first: ``metric``, ``title``,
        ``higher_is_better``; for each of `KINDS` its ρ under that name, ``_low``, ``_high`` and ``_n``; and ``p``.
        Without ``truth_px`` in the runs' tables, which older ones lack, there is no ρ over images.

    Raises:
        InputError: too few runs, or no metric that all of them have.
    """
    if len(runs) < FEWEST_METHODS:
        raise InputError(f"{len(runs)} runs with different heatmaps are too few: give at least {FEWEST_METHODS}")
    tables = [run.images for run in runs]
    facts = _metrics_of(runs)
    first = tables[0]
    iou = np.stack([_column(table, "iou", first.index) for table in tables])
    size = _column(first, "truth_px", first.index) if "truth_px" in first else None
    units = Units.of(first[[column for column in COLUMNS if column in first]]).names
    rows = []
    for name, metric in facts.items():
        values = np.stack([_column(table, metric.column, first.index) for table in tables])
        found = {"methods": over_methods(values, iou, units=units), "means": of_means(values, iou, units=units)}
        if size is not None:
            found["examples"] = over_examples(values, iou, size, units=units)
        row: dict[str, Any] = {
            "metric": name, "title": metric.title, "higher_is_better": metric.higher_is_better
        }  # fmt: skip
        for kind in KINDS:
            row |= _columns(kind, found.get(kind))
        rows.append({**row, "p": found["methods"].p})
    table = pd.DataFrame(rows)
    table["p"] = holm(table["p"].tolist())
    return table.sort_values("methods", key=lambda rho: -rho.abs(), kind="stable", ignore_index=True)


def _metrics_of(runs: Sequence[Run]) -> dict[str, MetricFacts]:
    """The metrics of heatmaps that have a value of each example in all runs."""
    facts = {name: MetricFacts.read(name, plain) for name, plain in runs[0].outcome.metrics.items()}
    found = {
        name: metric
        for name, metric in facts.items()
        if metric.about_heatmaps and metric.column and all(metric.column in run.images for run in runs)
    }
    if not found:
        raise InputError("the runs have no metric of heatmaps in common")
    return found


def _column(table: pd.DataFrame, name: str, examples: pd.Index) -> np.ndarray:
    """A column's values of these examples; NaN where there is none."""
    return table[name].reindex(examples).to_numpy(dtype="float64", na_value=np.nan)


def _columns(kind: str, found: Correlation | None) -> dict[str, Any]:
    if found is None:
        return dict.fromkeys((kind, f"{kind}_low", f"{kind}_high"), float("nan")) | {f"{kind}_n": 0}
    return {kind: found.rho, f"{kind}_low": found.ci95[0], f"{kind}_high": found.ci95[1], f"{kind}_n": found.n}


def correlation_cells(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Format `correlations`' rows: headings and texts."""
    better = {True: "higher", False: "lower"}

    def rho(row: Mapping[Any, Any], kind: str) -> str:
        if is_unknown(row[kind]):
            return ""
        return f"{row[kind]:+.2f} [{row[f'{kind}_low']:+.2f}, {row[f'{kind}_high']:+.2f}], n = {row[f'{kind}_n']}"

    rows = [
        [
            row["title"],
            better.get(row["higher_is_better"], ""),
            rho(row, "methods"),
            "" if is_unknown(row["p"]) else f"{row['p']:.2g}",
            rho(row, "examples"),
            rho(row, "means"),
        ]
        for row in table.to_dict("records")
    ]
    headings = ["metric", "better", KINDS["methods"], "p (Holm)", KINDS["examples"], KINDS["means"]]
    return headings, rows


def write_correlations(given: Sequence[str], to: Path) -> str:
    """Write ``correlations.md``, ``correlations.csv`` and ``correlations.png|pdf``; returns the text.

    Args:
        given: folders of finished runs, or globs; data, segmenters and other settings have a table and panel each.
        to: a folder, which is made.

    Raises:
        InputError: no runs, or nowhere enough of them; else that is a warning.
    """
    groups, common = finished_runs(given, COMPARED)
    tables: dict[str, pd.DataFrame] = {}
    parts = ["# Which heatmap metric predicts the IoU", *([common] if common else [])]
    problems: list[tuple[Alike, InputError]] = []
    for alike in groups:
        try:
            table = correlations(alike.runs)
        except InputError as error:
            problems.append((alike, error))
            continue
        tables[alike.name] = table
        note = Units.of(alike.runs[0].images).note
        title = f"## {alike.name or 'All runs'}: {len(alike.runs)} methods"
        parts += [title, markdown_table(*correlation_cells(table)), *([f"- {note}"] if note else [])]
    if not tables:
        raise problems[0][1]
    for alike, problem in problems:
        warn(f"{alike.name or 'some runs'}: left out: {problem}")
    parts.append("\n".join(f"- {note}" for note in NOTES))
    text = "\n\n".join(parts)
    to.mkdir(parents=True, exist_ok=True)
    (to / "correlations.md").write_text(text + "\n", encoding="utf-8")
    every = pd.concat([table.assign(runs=name) for name, table in tables.items()])
    every.to_csv(to / "correlations.csv", index=False)
    draw_correlations(tables, to / "correlations.png")
    return text


def draw_correlations(tables: Mapping[str, pd.DataFrame], path: Path) -> Path:
    """Draw the correlations over methods and over images with their intervals, a panel for each table."""
    most = max(map(len, tables.values()))
    with styled():
        figure = Figure(figsize=(1.6 + 2.6 * len(tables), 0.9 + 0.28 * most), layout="constrained")
        panels = figure.subplots(1, len(tables), squeeze=False)[0]
        for axes, (name, table) in zip(panels, tables.items(), strict=True):
            place = np.arange(len(table))[::-1]
            for k, (kind, marker) in enumerate((("methods", "o"), ("examples", "s"))):
                own, colour, apart = table[kind], SERIES[k], 0.12 - 0.24 * k
                spread = [own - table[f"{kind}_low"], table[f"{kind}_high"] - own]
                look: dict[str, Any] = {"color": colour, "marker": marker, "ms": 3.5, "capsize": 2, "ls": ""}
                axes.errorbar(own, place + apart, xerr=spread, label=KINDS[kind], **look)
            axes.axvline(0, color="black", lw=0.6)
            axes.set(xlim=(-1, 1), xlabel="rank correlation with IoU", yticks=place, title=name)
            axes.set_yticklabels(table["title"])
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
        return save_figure(figure, path)
