"""What a person sees in the terminal: progress while a run works, one tidy table at its end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from gradsam_exp.runs.summary import Summary

log = logging.getLogger(__name__)
console = Console(highlight=False, markup=False, emoji=False)  # brackets and colons of names are text


def warn(message: str) -> None:
    """Tell the user, and the run's log, of what the work goes on without."""
    log.warning("%s", message)
    if logging.getLogger().handlers:  # without a log, a warning is printed as it is
        print(f"gradsam_exp: {message}", file=sys.stderr)


class _Speed(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        """The speed so far."""
        return Text(f"{task.speed:.0f} images/s" if task.speed else "", style="progress.data.speed")


def progress_bar(description: str, total: int) -> tuple[Progress, TaskID]:
    """A bar of ``total`` images with speed and time left; start it with ``with``."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    return bar, bar.add_task(description, total=total)


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
