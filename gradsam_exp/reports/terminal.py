"""Makes what a run prints at its end: a table of its metrics, and how long each stage took."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from gradsam_exp.runs.summary import Summary


def results_table(metrics: Mapping[str, Summary]) -> Table:
    """Metric, mean, 95 % interval and number of images; metrics without a value are left out."""
    table = Table()
    for column, justify in (("metric", "left"), ("mean", "right"), ("95 % interval", "right"), ("n", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    about_heatmaps = False
    for name, summary in metrics.items():
        facts = summary.facts
        if facts and facts.about_heatmaps and not about_heatmaps:
            table.add_section()
            about_heatmaps = True
        if summary.n:
            low, high = summary.ci95
            table.add_row(
                facts.heading if facts else name,
                f"{summary.mean:.3f}",
                f"{low:.3f} – {high:.3f}",
                str(summary.n),
            )
    return table


def stages_line(seconds: Mapping[str, float]) -> str:
    """``explain 2.3 s · encode 4.0 s · …``."""
    return " · ".join(f"{stage} {value:.1f} s" for stage, value in seconds.items())
