"""This module turns the table of a sweep into curves of mIoU against what was varied; others draw them.

`gradsam_exp.reports.plots` draws for print, `gradsam_exp.reports.charts` for the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gradsam_exp.reports.colours import SERIES
from gradsam_exp.reports.tables import BOUND, varied_columns
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.finding import in_short
from gradsam_exp.runs.paired import comparison_intervals
from gradsam_exp.runs.units import Units

AVERAGED = "mean over the rest"
MOST_BANDS = 3  # whose colours stay apart


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


def starred(runs: pd.DataFrame, knob: str) -> dict[str, str]:
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
        name = f"{AVERAGED} · {images_name(own, done, others)}" if images else AVERAGED
        shared = pd.concat(found, axis=1).dropna()
        lows = highs = pd.Series([one.mean() for one in found.values()])
        if len(shared):  # otherwise each value has images of its own
            units = Units.of(runs[own["job"].iloc[0]].images.reindex(shared.index)).names
            lows, highs = map(pd.Series, comparison_intervals(shared.to_numpy().T, units=units))
        means = [float(one.mean()) for one in found.values()]
        curves.append(Curve(name, list(found), means, lows.tolist(), highs.tolist(), jobs))
    return curves


def images_name(own: pd.DataFrame, runs: pd.DataFrame, knobs: Sequence[str]) -> str:
    """What the runs on one set of ``images`` share among ``knobs`` and others do not, or else the set's digest."""
    shared = [key for key in knobs if own[key].nunique() == 1 < runs[key].nunique() and own[key].iloc[0]]
    return " · ".join(in_short(key, own[key].iloc[0]) for key in shared) or f"images {own['images'].iloc[0][:6]}"


def band_opacity(curves: Sequence[Curve]) -> float:
    """Of their bands: many would cover one another."""
    return 0.16 if len(curves) <= MOST_BANDS else 0.07


def names_side_by_side(curves: Sequence[Curve]) -> int:
    """How many names fit beside each other above a panel."""
    return 2 if max(len(curve.name) for curve in curves) <= 22 else 1
