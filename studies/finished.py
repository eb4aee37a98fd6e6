"""This module finds finished runs that differ in what a study compares, and in nothing else."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pandas as pd

from gradsam_exp.reports.tables import varied_columns
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.finding import find_runs, in_short
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.sweep import about, collect_runs


@dataclass(frozen=True)
class Alike:
    """Holds finished runs on the same images that differ in what is compared alone.

    Attributes:
        name: what these runs have in common and others do not, such as ``compact · mixed``; empty if nothing.
        runs: in their order.
    """

    name: str
    runs: Sequence[Run]


def finished_runs(given: Sequence[str], compared: Collection[str]) -> tuple[list[Alike], str]:
    """Find evaluation runs, and group them by all that was varied but what is to be compared.

    Args:
        given: folders or globs, see `gradsam_exp.runs.finding.find_runs`.
        compared: overrides such as ``pipeline``, with all keys below them.

    Returns:
        The groups, and what all runs have in common, in one line.

    Raises:
        InputError: there are no runs.
    """
    runs = Runs.from_anywhere(find_runs(given))
    table = collect_runs(runs)
    held = [key for key in varied_columns(table) if not is_below(key, compared)]
    groups: dict[tuple[str, ...], list[Run]] = {}
    names: dict[tuple[str, ...], str] = {}
    for row in table[table["status"] == "finished"].to_dict("records"):
        run = runs[str(row["job"])]
        if not run.has_images:
            continue
        values = {key: "" if pd.isna(row[key]) else str(row[key]) for key in held}
        same = (run.data_digest, *values.values())
        groups.setdefault(same, []).append(run)
        names[same] = " · ".join(in_short(key, value) for key, value in values.items() if value)
    return [Alike(names[same], own) for same, own in groups.items()], about(runs, table)


def is_below(key: str, places: Collection[str]) -> bool:
    """Say whether a key is one of some places in the configuration, or lies below one: ``pipeline.n``."""
    return any(key == place or key.startswith(f"{place}.") for place in places)
