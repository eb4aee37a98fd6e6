"""These functions compare the leaks that ``adaptive`` finds with all leaks, and its gain with what is possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from gradsam_exp.errors import InputError
from gradsam_exp.reports.tables import is_unknown, markdown_table
from gradsam_exp.runs.finding import chosen
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.paired import paired_difference
from gradsam_exp.runs.summary import Summary, summarize
from gradsam_exp.runs.units import COLUMNS, Units
from studies.finished import finished_runs

FG, RULE, TRUTH, BOX = "fg", "adaptive", "adaptive, decided by the truth", "oracle_box"
"""The runs that are compared; the last two are upper bounds and may be missing."""
COMPARED = ("pipeline", "metrics")
"""What the runs differ in; only those of fg need to know which masks leak."""
FOUND = {"leaks": "leaks", "asked": "asked again", "precision": "precision", "recall": "recall"}
NOTE = (
    "a mask of fg leaks if it covers more than half of the object and, beside it, more than half of the object's "
    "area; it is found if adaptive asks again. Precision is the share of the leaks among the masks asked again, "
    "recall the share of these among the leaks. Gains are in mIoU over all images, against fg"
)


def repairs(tables: Mapping[str, pd.DataFrame]) -> dict[str, Summary]:
    """Summarise how many leaks are found, and what asking again gains.

    Args:
        tables: per-example tables by `FG`, `RULE` and those of `TRUTH` and `BOX` that there are, by
            ``example_id``; ``iou`` is read of all, ``leak_rate`` of the first and ``rounds`` of the second.

    Returns:
        ``leaks`` (share of the masks of fg that leak), ``asked`` (share of the masks asked again), ``precision``,
        ``recall``, and the mean gain in IoU of every table but the first by its name; each with its 95 % interval
        over independent units. Examples without an IoU in all tables, or of which nobody can say whether they
        leak, are left out.

    Raises:
        InputError: the first table has no ``leak_rate``, or no example is in all.
    """
    if "leak_rate" not in tables[FG]:
        raise InputError("the runs of pipeline=fg do not say which masks leak: make them with metrics=full")
    columns = {name: table["iou"] for name, table in tables.items()}
    known = pd.DataFrame({**columns, "leaks": tables[FG]["leak_rate"], "rounds": tables[RULE]["rounds"]}).dropna()
    if not len(known):
        raise InputError("the runs have no example in common of which it is known whether its mask leaks")
    first = tables[FG].loc[known.index]
    units = Units.of(first[[column for column in COLUMNS if column in first]]).names
    leaks, asked = known["leaks"].to_numpy() > 0, known["rounds"].to_numpy() > 1

    def share(of: np.ndarray, among: np.ndarray) -> Summary:
        return summarize(np.where(among, of, np.nan), units=units)

    every = np.ones(len(known), dtype=bool)
    found = {
        "leaks": share(leaks, every), "asked": share(asked, every),
        "precision": share(leaks, asked), "recall": share(asked, leaks),
    }  # fmt: skip
    base = known[FG].to_numpy()
    for name in tables:
        if name != FG:
            found[name] = paired_difference(known[name].to_numpy(), base, units=units).difference
    return found


def runs_of(runs: Sequence[Run]) -> dict[str, Run]:
    """Find the runs that `repairs` compares, by its names; of others the first of each counts."""
    found: dict[str, Run] = {}
    for run in runs:
        name = chosen(run.config, "pipeline")
        if name == RULE and run.config["pipeline"].get("decide") == "truth":
            name = TRUTH
        if name in (FG, RULE, TRUTH, BOX):
            found.setdefault(name, run)
    return {name: found[name] for name in (FG, RULE, TRUTH, BOX) if name in found}


def write_repairs(given: Sequence[str], to: Path) -> str:
    """Write ``leaks.md`` and ``leaks.csv``; returns the text.

    Args:
        given: folders of finished runs, or globs; each data set, segmenter and other setting has a row.
        to: a folder, which is made.

    Raises:
        InputError: there is no pair of runs of ``pipeline=fg`` and ``adaptive`` that differ in nothing else.
    """
    groups, common = finished_runs(given, COMPARED)
    found: dict[str, dict[str, Summary]] = {}
    for alike in groups:
        own = runs_of(alike.runs)
        if {FG, RULE} <= set(own):
            found[alike.name] = repairs({name: run.images for name, run in own.items()})
    if not found:
        raise InputError(
            f"{' '.join(given)}: no runs of pipeline=fg and pipeline=adaptive that differ in nothing else"
        )
    parts = ["# Which leaks are found, and what that gains", *([common] if common else [])]
    text = "\n\n".join([*parts, markdown_table(*repair_cells(found)), f"- {NOTE}"])
    to.mkdir(parents=True, exist_ok=True)
    (to / "leaks.md").write_text(text + "\n", encoding="utf-8")
    rows = [
        {"runs": name, "what": what, "mean": own.mean, "low": own.ci95[0], "high": own.ci95[1], "n": own.n}
        for name, summaries in found.items()
        for what, own in summaries.items()
    ]
    pd.DataFrame(rows).to_csv(to / "leaks.csv", index=False)
    return text


def repair_cells(found: Mapping[str, Mapping[str, Summary]]) -> tuple[list[str], list[list[str]]]:
    """Format `repairs` of several groups of runs: headings and texts, a row for each group."""
    gains = [name for name in (RULE, TRUTH, BOX) if any(name in own for own in found.values())]
    headings = ["runs", "n", *FOUND.values(), *(f"Δ {name}" for name in gains)]
    rows = []
    for name, own in found.items():
        shares = [_text(own[what], ".2f") for what in FOUND]
        rows.append([name, str(own["leaks"].n), *shares, *(_text(own.get(gain), "+.3f") for gain in gains)])
    return headings, rows


def _text(summary: Summary | None, form: str) -> str:
    if summary is None or is_unknown(summary.mean):
        return ""
    (low, high) = summary.ci95
    return f"{summary.mean:{form}} [{low:{form}}, {high:{form}}]"
