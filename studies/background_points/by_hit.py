"""``python -m studies.background_points.by_hit RUNS`` splits what background points change by whether they hit.

That background points hurt on average mixes images on which they say something true with others on which a point
lies on the object, and images that nine foreground points solve with others that were lost before.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gradsam_exp.console import console
from gradsam_exp.errors import InputError
from gradsam_exp.reports.tables import P_NOTE, is_unknown, markdown_table
from gradsam_exp.runs.finding import chosen
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.paired import holm, paired_difference
from gradsam_exp.runs.units import COLUMNS, Units
from studies.command import ended
from studies.finished import finished_runs

SUCCESS = 0.5
"""IoU from which on foreground points alone succeed, as a detection does in PASCAL VOC."""
ALL = "all"
_POINTS = ("all on the background", "some on the object", "none placed")
_SUCCEEDS = (f"succeeds (IoU ≥ {SUCCESS})", "fails")


def by_hit(fg: pd.DataFrame, fgbg: pd.DataFrame) -> pd.DataFrame:
    """Split the paired change in IoU by whether all background points hit the background and whether fg succeeds.

    Args:
        fg, fgbg: per-example tables of the runs without and with background points, by ``example_id``; of the
            second ``bg_hit_rate`` is read, the share of an example's background points that lie off the object.

    Returns:
        One row per cell that has examples, after one for all: ``points``, ``fg``, ``n`` examples, ``delta`` (mean
        of fgbg − fg) with ``delta_low`` and ``delta_high`` (95 % interval over independent units), ``part`` (what
        the cell adds to the mean change of all: its delta × its share of the examples), sign-flip ``p`` corrected
        by Holm over the cells, ``wins``, ``ties``, ``losses``. Examples without an IoU in both are left out.

    Raises:
        InputError: the tables have no example in common, or ``fgbg`` no hit rates.
    """
    if "bg_hit_rate" not in fgbg:
        raise InputError("a run with background points has no bg_hit_rate: make it with metrics.bg_hit_rate=true")
    known = [column for column in ("iou", *COLUMNS) if column in fg]
    changed = fgbg[["iou", "bg_hit_rate"]].rename(columns={"iou": "iou_fgbg"})
    pairs = fg[known].join(changed, how="inner").dropna(subset=["iou", "iou_fgbg"])
    if not len(pairs):
        raise InputError("the runs have no example with an IoU in common")
    hit_rate = pairs["bg_hit_rate"]
    points = np.select([hit_rate == 1, hit_rate < 1], _POINTS[:2], _POINTS[2])
    succeeds = np.where(pairs["iou"] >= SUCCESS, *_SUCCEEDS)
    units = Units.of(pairs).names
    rows = [_cell(pairs, np.ones(len(pairs), dtype=bool), units, ALL, ALL)]
    for hit in _POINTS:
        for success in _SUCCEEDS:
            own = (points == hit) & (succeeds == success)
            if own.any():
                rows.append(_cell(pairs, own, units, hit, success))
    table = pd.DataFrame(rows)
    table.loc[1:, "p"] = holm(table["p"].tolist()[1:])
    return table


def _cell(
    pairs: pd.DataFrame, own: np.ndarray, units: np.ndarray | None, points: str, success: str
) -> dict[str, Any]:
    """One row of `by_hit`, its p not yet corrected."""
    some = pairs[own]
    found = paired_difference(
        some["iou_fgbg"].to_numpy(), some["iou"].to_numpy(), units=None if units is None else units[own]
    )
    low, high = found.difference.ci95
    return {
        "points": points, "fg": success, "n": len(some),
        "delta": found.difference.mean, "delta_low": low, "delta_high": high,
        "part": found.difference.mean * len(some) / len(pairs),
        "p": found.p, "wins": found.wins, "ties": found.ties, "losses": found.losses,
    }  # fmt: skip


def hit_cells(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Format `by_hit`'s rows, to four digits: headings and texts."""
    rows = [
        [
            row["points"],
            row["fg"],
            str(row["n"]),
            f"{row['delta']:+.4f} [{row['delta_low']:+.4f}, {row['delta_high']:+.4f}]",
            f"{row['part']:+.4f}",
            "" if is_unknown(row["p"]) else f"{row['p']:.2g}",
            f"{row['wins']}/{row['ties']}/{row['losses']}",
        ]
        for row in table.to_dict("records")
    ]
    headings = ["background points", "fg", "n", "Δ IoU", "of the mean Δ", "p (Holm)", "wins / ties / losses"]
    return headings, rows


def hits_of_runs(given: Sequence[str]) -> str:
    """Write `by_hit`'s tables in Markdown, one for each pair of finished runs of ``fg`` and ``fgbg``.

    Args:
        given: folders of runs or sweeps, or globs; segmenters, backgrounds and other settings have a table each.

    Raises:
        InputError: there are no such runs.
    """
    groups, common = finished_runs(given, ["pipeline"])
    parts = [common] if common else []
    for alike in groups:
        pair = _pair(alike.runs)
        if pair is not None:
            fg, fgbg = (pair[name].images for name in ("fg", "fgbg"))
            note = Units.of(fg).note
            title = [f"## {alike.name}"] if alike.name else []
            parts += [*title, markdown_table(*hit_cells(by_hit(fg, fgbg))), *([f"- {note}"] if note else [])]
    if len(parts) == bool(common):
        raise InputError(
            f"{' '.join(given)}: no runs of pipeline=fg and pipeline=fgbg that differ in nothing else"
        )
    return "\n\n".join([*parts, f"- {P_NOTE}"])


def _pair(runs: Sequence[Run]) -> Mapping[str, Run] | None:
    """The first run of each of the two pipelines; None if one is missing."""
    found: dict[str | None, Run] = {}
    for run in runs:
        found.setdefault(chosen(run.config, "pipeline"), run)
    return {name: found[name] for name in ("fg", "fgbg")} if {"fg", "fgbg"} <= set(found) else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables of finished runs; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m studies.background_points.by_hit", description="Which background points hurt, on which images?"
    )
    parser.add_argument("runs", nargs="+", help="folders of finished runs or sweeps of pipeline=fg,fgbg, or globs")
    given = parser.parse_args(arguments).runs
    return ended(lambda: console.print(hits_of_runs(given), soft_wrap=True, markup=False))


if __name__ == "__main__":
    sys.exit(main())
