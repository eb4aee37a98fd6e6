"""This module makes the table of metrics that a run prints at its end."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from gradsam_exp.runs.summary import Summary


def results_table(metrics: Mapping[str, Summary]) -> Table:
    """Show metric, mean, 95 % interval and number of images; metrics without a value are left out.

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
