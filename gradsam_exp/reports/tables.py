"""This module writes tables for people: a sweep's in Markdown, LaTeX and the terminal, and a run's own there."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table

from gradsam_exp.console import console
from gradsam_exp.reports.knobs import in_words, knob_rows, notes_on_knobs
from gradsam_exp.runs.comparison import CLASS_MIOU
from gradsam_exp.runs.effects import Effects
from gradsam_exp.runs.finding import in_brief
from gradsam_exp.runs.summary import MetricFacts, Summary

BETWEEN = 2  # spaces after a column, as `box.SIMPLE_HEAD` has them; one more stands before the first
FOLDED = 24  # letters of a word, such as a path, that a narrow terminal shows in one line
_NUMBER = re.compile(r"^[\[+−-]?[\d.]+\b")
Row = list[tuple[str, str]]
"""A table's row: of each cell the column's heading and the text."""
BOUND = "*"
BOUND_NOTE = f"{BOUND} upper bound: looks at the truth"
SAME_NOTE = "×n: n jobs that are the same run, made once: it does not depend on what was varied"
P_NOTE = (
    "p: how often the mean difference would be as far from 0 if the sign of each image's difference were tossed "
    "(sign-flip permutation test), corrected by Holm"
)
PAIRS = ["within", "baseline", "delta_miou", "delta_low", "delta_high", "p", "wins", "ties", "losses"]
Metrics = Mapping[str, MetricFacts]
"""What the metrics in a table are, by name; see `gradsam_exp.runs.comparison.metric_facts`."""


def metric_columns(table: pd.DataFrame) -> list[str]:
    """Name the columns that hold means of metrics: those with an interval and a number of images beside them."""
    return [str(c) for c in table if {f"{c}_low", f"{c}_high", f"{c}_n"} <= set(table)]


def varied_columns(table: pd.DataFrame) -> list[str]:
    """Name the columns that hold what was varied between finished runs, or, if there are not two, between all."""
    own = {f"{name}{end}" for name in metric_columns(table) for end in ("", "_low", "_high", "_n")}
    own |= {"job", "status", "error", "upper_bound", "same_as", *PAIRS}
    given = [str(c) for c in table if c not in own and not str(c).startswith(CLASS_MIOU)]
    finished = table[table["status"] == "finished"] if "status" in table else table
    among = finished if len(finished) > 1 else table
    return [c for c in given if among[c].nunique(dropna=False) > 1]


def merged_rows(table: pd.DataFrame) -> list[dict[Any, Any]]:
    """Join the rows of jobs that are the same run: the first's, with all values of what it does not depend on.

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


def known_metrics(table: pd.DataFrame, metrics: Metrics) -> Metrics:
    """Keep the metrics of which a run in the table has a value."""
    return {name: facts for name, facts in metrics.items() if name in table and table[name].notna().any()}


def tables_for_people(
    table: pd.DataFrame, pooled: pd.DataFrame, metrics: Metrics, *, brief: bool = False
) -> dict[str, list[Row]]:
    """Make the tables that are shown of a sweep, by title; those without rows are left out.

    What was varied has a column each, and so has each metric, as ``mean [low, high]``. Metrics of the heatmaps
    have a table of their own, if runs differ in them. A run that looks at the truth has a star, and ``×3`` stands
    for three jobs that are the same run.

    Args:
        brief: for a terminal's width: no classes, and intervals of mIoU and differences only.
    """
    if "within" in table and table["within"].nunique() > 1:
        found = {
            f"{within}: {title}": rows
            for within, own in table.groupby("within", sort=False)
            for title, rows in tables_for_people(own, pooled.iloc[:0], metrics, brief=brief).items()
        }
        return found | tables_for_people(table.iloc[:0], pooled, metrics, brief=brief)
    varied, known = varied_columns(table), known_metrics(table, metrics)
    known = {name: known[name] for name in ("miou", *known) if name in known}  # looked for first, it comes first
    differing = [name for name, facts in known.items() if facts.about_heatmaps and table[name].nunique() > 1]
    classes = [] if brief else _classes(table)
    incomplete = (table["status"] != "finished").any()
    sweep: list[Row] = []
    pairs: list[Row] = []
    heatmaps: list[Row] = []
    for run in merged_rows(table):
        job = f"{run['job']}{BOUND}" if run.get("upper_bound") is True else str(run["job"])
        job += f" ×{run['jobs']}" if run.get("jobs", 1) > 1 else ""
        lead = [("job", job), *((c, "" if is_unknown(run[c]) else in_brief(str(run[c]))) for c in varied)]
        means = {
            name: (facts.heading, _mean(run, name, brief=brief and name != "miou"))
            for name, facts in known.items()
        }
        own = [cell for name, cell in means.items() if not known[name].about_heatmaps]
        sweep.append([*lead, *own, *([("status", str(run["status"]))] if incomplete else [])])
        if run["status"] == "finished" and "delta_miou" in table:
            pairs.append([*lead, *_difference(run), *_by_class(run, classes)])
        if run["status"] == "finished" and differing:
            heatmaps.append([*lead, *(means[name] for name in differing)])
    pools: list[Row] = []
    before = list(pooled.columns).index("runs") if len(pooled) else 0
    for pool in pooled.to_dict("records"):
        row = [(str(c), str(pool[c])) for c in pooled.columns[: before + 1]]
        row += [("mIoU", _mean(pool, "miou")), ("sd between runs", shown(pool["miou_sd"]))]
        pools.append([*row, *_difference(pool), *_by_class(pool, [] if brief else _classes(pooled))])
    found = {
        "sweep": sweep,
        "mIoU image by image, against the first run on the same images": pairs,
        "pooled over seeds or checkpoints, image by image": pools,
        "heatmaps": heatmaps,
    }
    return {title: rows for title, rows in found.items() if rows}


def _mean(run: Mapping[Any, Any], name: str, *, brief: bool = False) -> str:
    """A metric's mean and, unless brief, its interval; empty if the run has none."""
    if is_unknown(run.get(name)):
        return ""
    interval = "" if brief else f" [{run[f'{name}_low']:.3f}, {run[f'{name}_high']:.3f}]"
    return f"{run[name]:.3f}{interval}"


def _difference(run: Mapping[Any, Any]) -> Row:
    """How a run differs from its baseline, and on how many images it is better, as good, and worse."""
    counts = "" if is_unknown(run.get("wins")) else "/".join(str(int(run[n])) for n in ("wins", "ties", "losses"))
    headings = ("against", "Δ mIoU", "p (Holm)", "wins / ties / losses")
    return list(zip(headings, (*difference_cells(run), counts), strict=True))


def _classes(table: pd.DataFrame) -> list[str]:
    """The columns with the mIoU of each class."""
    return [str(c) for c in table if str(c).startswith(CLASS_MIOU)]


def _by_class(run: Mapping[Any, Any], classes: Sequence[str]) -> Row:
    return [(f"mIoU {c.removeprefix(CLASS_MIOU)}", shown(run[c])) for c in classes]


def difference_cells(run: Mapping[Any, Any], *, digits: int = 3) -> list[str]:
    """Write the baseline's name, the paired difference with its interval, and p."""
    if is_unknown(run.get("delta_miou")):
        return ["", "baseline", ""]
    delta, low, high = (f"{run[name]:+.{digits}f}" for name in ("delta_miou", "delta_low", "delta_high"))
    return [str(run["baseline"]), f"{delta} [{low}, {high}]", "" if is_unknown(run["p"]) else f"{run['p']:.2g}"]


def _notes(
    table: pd.DataFrame, pooled: pd.DataFrame, more: Sequence[str], effects: Sequence[Effects]
) -> list[str]:
    """What the star and p mean, if there are any, ``more``, and ``job 3: what went wrong`` of jobs that failed."""
    failed = table[table["status"].isin(["failed", "damaged"])].to_dict("records")
    bounds = "upper_bound" in table and table["upper_bound"].eq(True).any()
    notes = [*([BOUND_NOTE] if bounds else []), *([SAME_NOTE] if "same_as" in table else [])]
    notes += [P_NOTE] if "p" in table or "p" in pooled else []
    notes += notes_on_knobs(effects)
    return notes + [*more] + [f"job {run['job']}: {run['error']}" for run in failed]


def as_markdown(
    table: pd.DataFrame,
    pooled: pd.DataFrame,
    metrics: Metrics,
    about: str = "",
    notes: Sequence[str] = (),
    effects: Sequence[Effects] = (),
) -> str:
    """Write the sweep's tables in Markdown, and what went wrong below them.

    Args:
        metrics: what the table's metrics are; others are not shown.
        about: what all runs have in common; stands above.
        notes: what else has to be known; stand below.
        effects: which knobs matter; stand first.
    """
    parts = [markdown_text(about)] if about else []
    parts += [markdown_effects(effects)] if effects else []
    for title, rows in tables_for_people(table, pooled, metrics).items():
        parts += [*([f"**{markdown_text(title)}**"] if "within" in table else []), markdown_table(*_columns(rows))]
    return (
        "\n\n".join(parts)
        + "\n"
        + "".join(f"\n- {markdown_text(line)}\n" for line in _notes(table, pooled, notes, effects))
    )


def markdown_effects(effects: Sequence[Effects]) -> str:
    """Write in Markdown which knobs matter: a sentence, and a table for each set of images."""
    parts = []
    for said, found in zip(in_words(effects), effects, strict=True):
        rows = knob_rows(found)
        parts += [f"**{markdown_text(said)}**", *([markdown_table(*_columns(rows))] if found.knobs else [])]
    return "\n\n".join(parts)


def _columns(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """A table's headings, and its rows' texts."""
    return [heading for heading, _ in rows[0]], [[text for _, text in row] for row in rows]


_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}",
    ">": "\\textgreater{}", "|": "\\textbar{}", "Δ": "$\\Delta$", "×": "$\\times$", "−": "$-$", "·": "$\\cdot$",
}  # fmt: skip


def as_latex(
    table: pd.DataFrame,
    pooled: pd.DataFrame,
    metrics: Metrics,
    about: str = "",
    notes: Sequence[str] = (),
    effects: Sequence[Effects] = (),
) -> str:
    """Write the sweep's tables for LaTeX; they need ``\\usepackage{booktabs}`` and an input encoding of UTF-8.

    ``about``, ``notes`` and the sentences on ``effects`` are comments; see `as_markdown`.
    """
    above, below = (
        [f"% {' '.join(line.split())}" for line in lines if line]
        for lines in ([about, *in_words(effects)], _notes(table, pooled, notes, effects))
    )
    tables = [latex_table(*_columns(knob_rows(found))) for found in effects if found.knobs]
    for title, rows in tables_for_people(table, pooled, metrics).items():
        tables += [*([f"% {title}"] if "within" in table else []), latex_table(*_columns(rows))]
    parts = ["% \\usepackage{booktabs}", *above, *tables, *below]
    return "\n\n".join(parts) + "\n"


def latex_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a ``tabular`` with booktabs' rules."""
    lines = [" & ".join(map(latex_text, line)) + r" \\" for line in (headings, *rows)]
    columns = "l" * len(headings)
    top = [f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule", lines[0], r"\midrule"]
    return "\n".join([*top, *lines[1:], r"\bottomrule", r"\end{tabular}"])


def latex_text(text: str) -> str:
    """Escape text so that LaTeX prints it; numbers keep their minus signs."""
    escaped = "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))
    escaped = re.sub(r"(?<![\w.-])-(?=\d)", "$-$", escaped)
    escaped = re.sub(r"\b([\d.]+)e([+-]\d+)\b", lambda m: rf"${m[1]}\times10^{{{int(m[2])}}}$", escaped)
    return f"{{{escaped}}}" if escaped.startswith("[") else escaped  # \\\\ would take it as its argument


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown, without a line's end."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(
        "| " + " | ".join(markdown_text(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def markdown_text(text: str) -> str:
    """Escape text so that Markdown shows it, in one line and without HTML."""
    return html.escape(" ".join(text.split()), quote=False)


def print_tables(
    table: pd.DataFrame,
    pooled: pd.DataFrame,
    metrics: Metrics,
    about: str = "",
    notes: Sequence[str] = (),
    effects: Sequence[Effects] = (),
) -> None:
    """Print the same tables as wide as the terminal is, and last which knobs matter; see `as_markdown`."""
    _say(about)
    varied = varied_columns(table)
    for title, rows in tables_for_people(table, pooled, metrics, brief=True).items():
        lead = sum(heading in ("job", *varied) for heading, _ in rows[0])
        print_table(title, *_columns(rows), lead=lead)
    for line in _notes(table, pooled, notes, effects):
        _say(line)
    for said, found in zip(in_words(effects), effects, strict=True):
        if found.knobs:
            print_table("which knob matters?", *_columns(knob_rows(found)))
        _say(said)


def _say(line: str) -> None:
    """Print a line; in a terminal, it is broken between words."""
    if line:
        console.print(line, soft_wrap=not console.is_terminal)


def print_table(title: str, headings: Sequence[str], texts: Sequence[Sequence[str]], *, lead: int = 1) -> None:
    """Print a table that fits the terminal, in which no number and no interval is broken.

    Where it is too narrow, intervals get a line of their own; where that is not enough, the columns are printed
    in several tables below one another, each of which begins with the first ``lead`` ones, or, if these leave no
    room, with the first.
    """
    columns = [list(column) for column in zip(*texts, strict=True)]
    widths = [_widest(heading, column) for heading, column in zip(headings, columns, strict=True)]
    if sum(widths) + BETWEEN * len(widths) >= console.width:
        columns = [[cell.replace(" [", "\n[") for cell in column] for column in columns]
        widths = [_narrowest(heading, column) for heading, column in zip(headings, columns, strict=True)]
    for part in _parts(widths, lead, console.width - 1):
        rich = Table(
            title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        for k in part:
            rich.add_column(headings[k], min_width=min(widths[k], console.width - 2), overflow="fold")
        for row in zip(*(columns[k] for k in part), strict=True):
            rich.add_row(*row)
        console.print(rich)
        title = ""


def _parts(widths: Sequence[int], lead: int, width: int) -> list[list[int]]:
    """Share out a table's columns, by their widths, among tables of at most this width."""
    if lead < len(widths) and sum(w + BETWEEN for w in [*widths[:lead], max(widths[lead:])]) > width:
        lead = 1
    parts = [list(range(lead))]
    for k in range(lead, len(widths)):
        if len(parts[-1]) > lead and sum(widths[j] + BETWEEN for j in [*parts[-1], k]) > width:
            parts.append(list(range(lead)))
        parts[-1].append(k)
    return parts


def _widest(heading: str, column: Sequence[str]) -> int:
    """The width of a column whose cells are not broken; its heading is, between words."""
    return max(map(len, [*heading.split(), *column]))


def _narrowest(heading: str, column: Sequence[str]) -> int:
    """The width of a column whose cells are broken between words; long words that are no numbers may be folded."""
    lines = [line for cell in column for line in cell.split("\n")]
    words = [word for line in lines for word in ([line] if line.startswith("[") else line.split())]
    return max(
        (len(word) if _NUMBER.search(word) else min(len(word), FOLDED) for word in [*heading.split(), *words]),
        default=1,
    )


def results_table(metrics: Mapping[str, Summary]) -> Table:
    """Show a run's metric, mean, 95 % interval and number of images; metrics without a value are left out.

    A figure of the whole data set has its parts, such as classes, below it.
    """
    table = Table("metric")
    for column in ("mean", "95 % interval", "n"):
        table.add_column(column, justify="right")
    about_heatmaps = False
    for name, summary in metrics.items():
        facts = summary.facts
        if facts and facts.about_heatmaps and not about_heatmaps:
            table.add_section()
            about_heatmaps = True
        if summary.n:
            heading, (low, high) = facts.heading if facts else name, summary.ci95
            table.add_row(heading, f"{summary.mean:.3f}", f"{low:.3f} – {high:.3f}", str(summary.n))
        for part, own in summary.parts.items():
            low, high = own.ci95
            table.add_row(f"  {part}", f"{own.mean:.3f}", f"{low:.3f} – {high:.3f}", str(own.n))
    return table


def is_unknown(value: Any) -> bool:
    """Say whether a cell has no value."""
    return value is None or value != value  # noqa: PLR0124  (NaN is not itself)


def shown(value: Any) -> str:
    """Write a value as a table shows it: three digits; nothing for none."""
    if is_unknown(value):
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
