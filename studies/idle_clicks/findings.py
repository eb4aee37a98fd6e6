"""These functions turn the arms' runs into the study's table and figure, with intervals over seeds and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradsam_exp.errors import InputError
from gradsam_exp.reports.colours import SERIES
from gradsam_exp.reports.figures import save_figure, styled
from gradsam_exp.runs.summary import RESAMPLES, Summary
from gradsam_exp.runs.units import Units, numbered
from studies.idle_clicks.arms import ARMS, CONTROL, DOSES, NONE, Arm

MEASURES = {"fg": "mIoU of fg", "fgbg": "fgbg − fg", "ring-4": "ring-4 − fg"}
"""What is measured of each image, and its heading: the IoU of ``fg``, and what background points change in it."""
PAIRS = (*((arm, NONE) for arm in ARMS if arm != NONE), *((arm, CONTROL) for arm in DOSES[-1:]))
"""Arms that are compared, each with the one named second, seed by seed and image by image."""


def two_level(
    values: Float[np.ndarray, "seeds examples"], units: Sequence[str] | np.ndarray | None = None, *, seed: int = 0
) -> Summary:
    """Compute a mean over trainings and examples, and its 95 % interval over both.

    In each of 2000 resamples trainings are drawn with replacement, and independent units of examples, the same for
    all trainings, since all have seen the same images (the pigeonhole bootstrap of Owen, 2007). From few trainings
    the interval is too short.

    Args:
        values: one per training and example, without NaN.
        units: the name of each example's unit, see `gradsam_exp.runs.units.Units`; None: each is one of its own.
        seed: of the resampling.

    Returns:
        The mean, the 2.5th and 97.5th percentile, and the number of examples.
    """
    rng, seeds = np.random.default_rng(seed), len(values)
    place = numbered(units, values.shape[1])
    number = int(place.max()) + 1
    sums = np.stack([np.bincount(place, weights=row, minlength=number) for row in values])
    sizes = np.bincount(place, minlength=number)
    trainings = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    drawn = rng.multinomial(number, np.full(number, 1 / number), RESAMPLES)
    means = ((trainings @ sums) * drawn).sum(1) / (drawn @ sizes)
    low, high = np.percentile(means, [2.5, 97.5])
    return Summary(float(values.mean()), (float(low), float(high)), values.shape[1])


def measured(runs: Sequence[Mapping[str, pd.DataFrame]]) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Compute `MEASURES` of one arm.

    Args:
        runs: of each training the per-example tables of ``fg``, ``fgbg`` and ``ring-4``, by ``example_id``.

    Returns:
        Of each measure the values, one per training and example, in the order of the first table; and the
        examples' units.

    Raises:
        InputError: not all tables have the same examples, each with an IoU.
    """
    first = runs[0]["fg"]
    found: dict[str, list[np.ndarray]] = {name: [] for name in MEASURES}
    for tables in runs:
        ious = {name: tables[name]["iou"].reindex(first.index).to_numpy() for name in MEASURES}
        if any(np.isnan(own).any() or len(tables[name]) != len(first) for name, own in ious.items()):
            raise InputError("the arms' runs are not all on the same images with true masks; make them again")
        for name, own in ious.items():
            found[name].append(own if name == "fg" else own - ious["fg"])
    return {name: np.stack(own) for name, own in found.items()}, Units.of(first).names


def compared(arms: Mapping[Arm, Mapping[str, np.ndarray]], units: np.ndarray | None) -> pd.DataFrame:
    """Summarise each arm, and the differences of `PAIRS`.

    Args:
        arms: the values of each, see `measured`.
        units: of the examples.

    Returns:
        A row per arm or pair, and measure: ``arm``; ``against``, the other arm, or empty for an arm itself;
        ``measure``; ``mean``, ``low``, ``high``; ``seed0``, ``seed1`` and so on, the means of each training.
    """
    rows = []
    for arm, other in (*((arm, None) for arm in ARMS), *PAIRS):
        for measure in MEASURES:
            values = arms[arm][measure] - (0 if other is None else arms[other][measure])
            found = two_level(values, units)
            rows.append(
                {
                    "arm": arm.name, "against": "" if other is None else other.name, "measure": measure,
                    "mean": found.mean, "low": found.ci95[0], "high": found.ci95[1],
                    **{f"seed{k}": float(own) for k, own in enumerate(values.mean(1))},
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def dose_cells(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Format `compared`'s rows of one data set, to four digits: headings and texts, a row per arm or pair."""
    rows = []
    for (arm, against), own in table.groupby(["arm", "against"], sort=False):
        cells: list[str] = []
        for row in own.set_index("measure").loc[list(MEASURES)].to_dict("records"):
            sign = "" if not against and not cells else "+"
            text = f"{row['mean']:{sign}.4f} [{row['low']:{sign}.4f}, {row['high']:{sign}.4f}]"
            clear = sign and (row["low"] > 0 or row["high"] < 0)
            cells.append(f"**{text}**" if clear else text)
        rows.append([f"{arm} − {against}" if against else str(arm), *cells])
    return ["idle clicks", *MEASURES.values()], rows


def draw_doses(tables: Mapping[str, pd.DataFrame], path: Path) -> Path:
    """Draw what background points change, and `fg`'s mIoU, against the share of steps with idle clicks.

    Args:
        tables: `compared`'s, by data set.
        path: of the PNG; the same as PDF lies beside it.
    """
    shown = {"fgbg": ("fgbg − fg", SERIES[0], "o"), "ring-4": ("ring-4 − fg", SERIES[1], "s")}
    with styled():
        figure = Figure(figsize=(2.35 * len(tables), 3.6), layout="constrained")
        panels = figure.subplots(2, len(tables), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 2))
        for column, (name, table) in zip(panels.T, tables.items(), strict=True):
            alone = table[table["against"] == ""]
            own = {measure: alone[alone["measure"] == measure].set_index("arm") for measure in MEASURES}
            for measure, (_, colour, marker) in shown.items():
                _draw_curve(column[0], own[measure], colour, marker)
            _draw_curve(column[1], own["fg"], SERIES[2], "D")
            column[0].axhline(0, color="black", lw=0.6)
            column[0].set_title(name)
            column[1].set_xlabel("steps with idle clicks (%)")
        panels[0][0].set_ylabel("change in mIoU")
        panels[1][0].set_ylabel("mIoU of fg")
        lines = [panels[0][0].plot([], [], color=c, marker=m, ms=4, lw=1.2)[0] for _, c, m in shown.values()]
        open_ones = panels[0][0].plot([], [], color="black", marker="o", mfc="white", ms=4, ls="")[0]
        labels = [*(label for label, *_ in shown.values()), "as many idle foreground clicks"]
        figure.legend([*lines, open_ones], labels, loc="outside upper center", ncols=3, frameon=False)
        return save_figure(figure, path)


def _draw_curve(axes: Axes, own: pd.DataFrame, colour: str, marker: str) -> None:
    """One measure: the doses joined, with their interval and a dot for each training; the control beside them."""
    doses = own.loc[[arm.name for arm in DOSES]]
    place = np.array([100 * arm.share for arm in DOSES])
    axes.fill_between(place, doses["low"], doses["high"], color=colour, alpha=0.2, lw=0)
    axes.plot(place, doses["mean"], color=colour, marker=marker, ms=4, lw=1.2)
    for seed in (name for name in own.columns.astype(str) if name.startswith("seed")):
        axes.plot(place, doses[seed], color=colour, marker=".", ms=3, ls="")
    control, beside = own.loc[CONTROL.name], 100 * CONTROL.share + 2
    spread = [[control["mean"] - control["low"]], [control["high"] - control["mean"]]]
    look: dict[str, Any] = {"color": colour, "marker": marker, "mfc": "white", "ms": 4, "capsize": 2}
    axes.errorbar([beside], [control["mean"]], spread, **look)
