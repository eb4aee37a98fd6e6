"""These functions turn sweeps into tables of Markdown, and put them between a page's marks.

A page marks a table with ``<!-- table: NAME -->`` and ``<!-- /table -->`` on lines of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gradsam_exp.errors import InputError
from gradsam_exp.reports.tables import is_unknown, markdown_table

_MARKED = re.compile(r"<!-- table: (?P<name>[\w-]+) -->\n(?P<table>.*?)\n?<!-- /table -->", re.DOTALL)


def marked(page: Path) -> list[str]:
    """Name the tables that a page marks, in order."""
    return [match["name"] for match in _MARKED.finditer(page.read_text(encoding="utf-8"))]


def put(page: Path, tables: Mapping[str, str]) -> list[str]:
    """Put tables in the place of those that a page has; returns the names of those that have changed.

    Raises:
        InputError: a page that marks a table twice.
    """
    text = page.read_text(encoding="utf-8")
    names = marked(page)
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise InputError(f"{page} marks the table {twice[0]} twice")

    def new(match: re.Match[str]) -> str:
        table = tables.get(match["name"], match["table"])
        return f"<!-- table: {match['name']} -->\n{table}\n<!-- /table -->"

    changed = _MARKED.sub(new, text)
    if changed != text:
        page.write_text(changed, encoding="utf-8")
    return [m["name"] for m in _MARKED.finditer(text) if tables.get(m["name"], m["table"]) != m["table"]]


def runs_of(sweep: Path, within: str | None = None) -> list[dict[Any, Any]]:
    """Read the finished runs of a sweep's ``sweep.csv``, each once; of one value of ``within`` only, if given.

    Raises:
        InputError: no such sweep, a job that failed, or nothing of this value.
    """
    path = sweep / "sweep.csv"
    if not path.is_file():
        raise InputError(f"{path} does not exist: the sweep did not end")
    table = pd.read_csv(path, dtype={"job": str, "baseline": str, "same_as": str})
    if (table["status"] != "finished").any():
        raise InputError(f"{path}: a job did not finish; see there")
    table = table[table["same_as"].isna()] if "same_as" in table else table
    if within is not None:
        table = table[table["within"] == within]
        if table.empty:
            raise InputError(f"{path} has no run within {within!r}")
    return table.to_dict("records")


def number(run: Mapping[Any, Any], metric: str, *, interval: bool = True, digits: int = 3) -> str:
    """Write a metric's mean, and its 95 % interval if it has a width; nothing where the run has none."""
    if is_unknown(run.get(metric)):
        return ""
    mean = f"{run[metric]:.{digits}f}"
    low, high = (f"{run[f'{metric}_{end}']:.{digits}f}" if interval else mean for end in ("low", "high"))
    return mean if low == high else f"{mean} [{low}, {high}]"


def difference(run: Mapping[Any, Any], *, digits: int = 3) -> str:
    """Write the paired difference to the baseline with its interval, in bold where the interval is beside 0."""
    if is_unknown(run.get("delta_miou")):
        return ""
    delta, low, high = (f"{run[name]:+.{digits}f}" for name in ("delta_miou", "delta_low", "delta_high"))
    text = f"{delta} [{low}, {high}]".replace("-", "−")
    return f"**{text}**" if run["delta_low"] > 0 or run["delta_high"] < 0 else text


def side_by_side(
    columns: Mapping[str, Sequence[Mapping[Any, Any]]], rows: Mapping[str, Mapping[str, str]], *, title: str = ""
) -> str:
    """Make a table with a row for each setting and a column for each condition.

    A cell has the mIoU and, where there is one, the paired difference to the condition's baseline.

    Args:
        columns: the runs of each condition.
        rows: what a row's runs have in the columns of ``sweep.csv``, as texts.
        title: of the first column.

    Raises:
        InputError: a condition with no run, or several, for a row.
    """
    body = []
    for name, asked in rows.items():
        cells = [name]
        for condition, runs in columns.items():
            found = [run for run in runs if all(str(run.get(key)) == value for key, value in asked.items())]
            if len(found) != 1:
                raise InputError(f"{len(found)} runs of {condition} are {dict(asked)}")
            cells.append(" ".join(filter(None, (f"{found[0]['miou']:.3f}", difference(found[0])))))
        body.append(cells)
    return markdown_table([title, *columns], body)
