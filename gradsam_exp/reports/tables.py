"""A sweep's tables for people: in Markdown, for LaTeX and in the terminal."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table

from gradsam_exp.console import console
from gradsam_exp.runs.comparison import CLASS_MIOU
from gradsam_exp.runs.summary import MetricFacts

_COUNTS = "wins / ties / losses"
BOUND = "*"
BOUND_NOTE = f"{BOUND} upper bound: looks at the truth"
PAIRS = ["baseline", "delta_miou", "delta_low", "delta_high", "p", "wins", "ties", "losses"]


Metrics = Mapping[str, MetricFacts]
"""What the metrics in a table are, by name; see `gradsam_exp.runs.comparison.metric_facts`."""


def metric_columns(table: pd.DataFrame) -> list[str]:
    """Columns that hold the means of metrics: those with an interval and a number of images beside them."""
    return [str(c) for c in table if {f"{c}_low", f"{c}_high", f"{c}_n"} <= set(table)]


def varied_columns(table: pd.DataFrame) -> list[str]:
    """Columns that hold what was varied between the runs."""
    own = {f"{name}{end}" for name in metric_columns(table) for end in ("", "_low", "_high", "_n")}
    own |= {"job", "status", "error", "upper_bound", "same_as", *PAIRS}
    given = [str(c) for c in table if c not in own and not str(c).startswith(CLASS_MIOU)]
    return [c for c in given if table[c].nunique(dropna=False) > 1]


def merged_rows(table: pd.DataFrame) -> list[dict[Any, Any]]:
    """One row for all jobs that are the same run: the first's, with all values of what it does not depend on.

    ``jobs`` counts them and ``all_jobs`` names them, where there are any.
    """
    if "same_as" not in table:
        return table.to_dict("records")
    varied = varied_columns(table)
    rows = []
    for run in table[table["same_as"].isna()].to_dict("records"):
        same = table[(table["job"] == run["job"]) | (table["same_as"] == run["job"])]
        values: dict[Any, Any] = {c: ", ".join(dict.fromkeys(same[c].dropna().astype(str))) for c in varied}
        rows.append({**run, **values, "jobs": len(same), "all_jobs": same["job"].tolist()})
    return rows


def _lead(run: Mapping[Any, Any], varied: list[str]) -> list[str]:
    """The first cells of a run's row: its number, ``*`` for a bound, ``×3`` if three jobs are it; what varied."""
    job = f"{run['job']}{BOUND}" if run.get("upper_bound") is True else str(run["job"])
    job += f" ×{run['jobs']}" if run.get("jobs", 1) > 1 else ""
    return [job, *("" if _unknown(run[c]) else str(run[c]) for c in varied)]


def known_metrics(table: pd.DataFrame, metrics: Metrics) -> Metrics:
    """The metrics of which a run in the table has a value."""
    return {name: facts for name, facts in metrics.items() if name in table and table[name].notna().any()}


def _cells(table: pd.DataFrame, metrics: Metrics, *, brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """Headings and texts for people: one column for each thing varied, ``mean [low, high]`` for each metric.

    Metrics of the heatmaps are left out; see `_heatmap_cells`.

    Args:
        brief: for a terminal's width, only mIoU with its interval.
    """
    shown = {name: facts for name, facts in known_metrics(table, metrics).items() if not facts.about_heatmaps}
    varied = varied_columns(table)
    incomplete = bool((table["status"] != "finished").any())
    headings = ["job", *varied, *_headings(shown), *(["status"] if incomplete else [])]
    rows = []
    for run in merged_rows(table):
        row = [*_lead(run, varied), *(_mean(run, name, brief=brief and name != "miou") for name in shown)]
        rows.append([*row, str(run["status"])] if incomplete else row)
    return headings, rows


def _heatmap_cells(
    table: pd.DataFrame, metrics: Metrics, *, brief: bool = False
) -> tuple[list[str], list[list[str]]]:
    """The same for the metrics of the heatmaps in which runs differ; no rows if there are none."""
    known = {name: facts for name, facts in known_metrics(table, metrics).items() if facts.about_heatmaps}
    shown = {name: facts for name, facts in known.items() if table[name].nunique() > 1}
    varied = varied_columns(table)
    rows = [
        [*_lead(run, varied), *(_mean(run, name, brief=brief) for name in shown)]
        for run in merged_rows(table)
        if shown and run["status"] == "finished"
    ]
    return ["job", *varied, *_headings(shown)], rows


def _headings(metrics: Metrics) -> list[str]:
    return [facts.heading for facts in metrics.values()]


def _mean(run: Mapping[Any, Any], name: str, *, brief: bool) -> str:
    """A metric's mean and, unless brief, its interval; empty if the run has none."""
    if _unknown(run.get(name)):
        return ""
    interval = "" if brief else f" [{run[f'{name}_low']:.3f}, {run[f'{name}_high']:.3f}]"
    return f"{run[name]:.3f}{interval}"


def _pair_cells(table: pd.DataFrame, *, brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """The same for the comparison with the baseline and, unless brief, the classes; no rows without comparison."""
    if "delta_miou" not in table:
        return [], []
    varied = varied_columns(table)
    classes = [] if brief else _classes(table)
    headings = ["job", *varied, "against", "Δ mIoU", "p (Holm)", _COUNTS]
    rows = []
    for run in merged_rows(table):
        if run["status"] != "finished":
            continue
        rows.append([*_lead(run, varied), *difference_cells(run), _counts(run), *_class_cells(run, classes)])
    return headings + _class_headings(classes), rows


def _classes(table: pd.DataFrame) -> list[str]:
    """The columns with the mIoU of each class."""
    return [str(c) for c in table if str(c).startswith(CLASS_MIOU)]


def _class_headings(classes: Sequence[str]) -> list[str]:
    return [f"mIoU {c.removeprefix(CLASS_MIOU)}" for c in classes]


def _class_cells(run: Mapping[Any, Any], classes: Sequence[str]) -> list[str]:
    return ["" if _unknown(run[c]) else f"{run[c]:.3f}" for c in classes]


def _pool_cells(pooled: pd.DataFrame, *, brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """Headings and texts of runs that differ in a seed only."""
    if not len(pooled):
        return [], []
    varied = list(pooled.columns[: list(pooled.columns).index("runs")])
    headings = [*varied, "runs", "mIoU", "sd between runs", "against", "Δ mIoU", "p (Holm)", _COUNTS]
    classes = [] if brief else _classes(pooled)
    rows = []
    for pool in pooled.to_dict("records"):
        row = [*(str(pool[c]) for c in varied), str(pool["runs"])]
        row += [f"{pool['miou']:.3f} [{pool['miou_low']:.3f}, {pool['miou_high']:.3f}]"]
        row += ["" if _unknown(pool["miou_sd"]) else f"{pool['miou_sd']:.3f}", *difference_cells(pool)]
        rows.append([*row, _counts(pool), *_class_cells(pool, classes)])
    return headings + _class_headings(classes), rows


def _counts(run: Mapping[Any, Any]) -> str:
    """On how many images a run is better, as good, and worse than the baseline."""
    return "" if _unknown(run.get("wins")) else "/".join(str(int(run[n])) for n in ("wins", "ties", "losses"))


def difference_cells(run: Mapping[Any, Any], *, digits: int = 3) -> list[str]:
    """The baseline's name, the paired difference with its interval, and p."""
    if _unknown(run.get("delta_miou")):
        return ["", "baseline", ""]
    delta, low, high = (f"{run[name]:+.{digits}f}" for name in ("delta_miou", "delta_low", "delta_high"))
    interval = f"{delta} [{low}, {high}]"
    return [str(run["baseline"]), interval, "" if _unknown(run["p"]) else f"{run['p']:.2g}"]


def _notes(table: pd.DataFrame) -> list[str]:
    """What the star means, if there is one, and ``job 3: what went wrong`` for every job without results."""
    failed = table[table["status"].isin(["failed", "damaged"])].to_dict("records")
    bounds = "upper_bound" in table and table["upper_bound"].eq(True).any()
    notes = [BOUND_NOTE] if bounds else []
    if "same_as" in table:
        notes.append("×n: n jobs that are the same run, made once: it does not depend on what was varied")
    return notes + [f"job {run['job']}: {run['error']}" for run in failed]


def as_markdown(table: pd.DataFrame, pooled: pd.DataFrame, metrics: Metrics, about: str = "") -> str:
    """The sweep's tables in Markdown, and what went wrong below them.

    Args:
        metrics: what the table's metrics are; others are not shown.
        about: what all runs have in common; stands above.
    """
    all_cells = (_cells(table, metrics), _pair_cells(table), _pool_cells(pooled), _heatmap_cells(table, metrics))
    parts = [markdown_text(about)] if about else []
    text = "\n\n".join([*parts, *(markdown_table(headings, rows) for headings, rows in all_cells if rows)])
    return text + "\n" + "".join(f"\n- {markdown_text(line)}\n" for line in _notes(table))


_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}",
    ">": "\\textgreater{}", "|": "\\textbar{}", "Δ": "$\\Delta$", "×": "$\\times$", "−": "$-$", "·": "$\\cdot$",
}  # fmt: skip


def as_latex(table: pd.DataFrame, pooled: pd.DataFrame, metrics: Metrics, about: str = "") -> str:
    """The sweep's tables for LaTeX; they need ``\\usepackage{booktabs}`` and an input encoding of UTF-8.

    Args:
        metrics: what the table's metrics are; others are not shown.
        about: what all runs have in common; a comment above.
    """
    parts = ["% \\usepackage{booktabs}", *([f"% {' '.join(about.split())}"] if about else [])]
    all_cells = (_cells(table, metrics), _pair_cells(table), _pool_cells(pooled), _heatmap_cells(table, metrics))
    for headings, rows in all_cells:
        if rows:
            parts.append(latex_table(headings, rows))
    return "\n\n".join([*parts, *(f"% {' '.join(line.split())}" for line in _notes(table))]) + "\n"


def latex_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A ``tabular`` with booktabs' rules."""
    lines = [" & ".join(map(latex_text, line)) + r" \\" for line in (headings, *rows)]
    columns = "l" * len(headings)
    top = [f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule", lines[0], r"\midrule"]
    return "\n".join([*top, *lines[1:], r"\bottomrule", r"\end{tabular}"])


def latex_text(text: str) -> str:
    """Text as LaTeX prints it; numbers keep their minus signs."""
    escaped = "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))
    escaped = re.sub(r"(?<![\w.-])-(?=\d)", "$-$", escaped)
    escaped = re.sub(r"\b([\d.]+)e([+-]\d+)\b", lambda m: rf"${m[1]}\times10^{{{int(m[2])}}}$", escaped)
    return f"{{{escaped}}}" if escaped.startswith("[") else escaped  # \\\\ would take it as its argument


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, without a line's end."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(
        "| " + " | ".join(markdown_text(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def markdown_text(text: str) -> str:
    """Text as Markdown shows it: one line, no HTML."""
    return html.escape(" ".join(text.split()), quote=False)


def print_tables(table: pd.DataFrame, pooled: pd.DataFrame, metrics: Metrics, about: str = "") -> None:
    """Print the same tables, without what would make them too wide; see `as_markdown`."""
    if about:
        console.print(about, soft_wrap=True)
    for title, (headings, rows) in (
        ("sweep", _cells(table, metrics, brief=True)),
        ("mIoU image by image, against the first run on the same images", _pair_cells(table, brief=True)),
        ("pooled over seeds or checkpoints, image by image", _pool_cells(pooled, brief=True)),
        ("heatmaps", _heatmap_cells(table, metrics, brief=True)),
    ):
        if not rows:
            continue
        rich = Table(
            title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        for column, heading in enumerate(headings):
            words = heading.split()
            rich.add_column(heading, min_width=max(map(len, [*words, *(row[column] for row in rows)])))
        for row in rows:
            rich.add_row(*row)
        needed = console.measure(rich, options=console.options.update(max_width=1000)).minimum
        console.print(rich, width=max(needed, console.width), crop=False)
    for line in _notes(table):
        console.print(line, soft_wrap=True)


def _unknown(value: Any) -> bool:
    return value is None or value != value  # noqa: PLR0124  (NaN is not itself)
