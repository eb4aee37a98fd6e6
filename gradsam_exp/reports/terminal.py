"""What a person sees in the terminal: progress while a run works, one tidy table at its end."""

from __future__ import annotations

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

TITLES = {
    "fg_hit_rate": "fg hit rate",
    "bg_hit_rate": "bg hit rate",
    "distance_px": "distance px",
    "miou": "mIoU",
    "accuracy": "accuracy",
}
HEATMAP_TITLES = {
    "pointing_game": "pointing game",
    "energy_in_mask": "heat in mask",
    "best_threshold_iou": "best-threshold IoU",
    "sparsity": "heatmap sparsity",
    "deletion_auc": "deletion AUC",
    "insertion_auc": "insertion AUC",
    "road": "ROAD",
}
console = Console(highlight=False, markup=False, emoji=False)  # brackets and colons of names are text


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
    for name, summary in metrics.items():
        if name == next(iter(HEATMAP_TITLES)):
            table.add_section()
        if summary.n:
            low, high = summary.ci95
            table.add_row(
                (TITLES | HEATMAP_TITLES).get(name, name),
                f"{summary.mean:.3f}",
                f"{low:.3f} – {high:.3f}",
                str(summary.n),
            )
    return table


def stages_line(seconds: Mapping[str, float]) -> str:
    """``explain 2.3 s · encode 4.0 s · …``."""
    return " · ".join(f"{stage} {value:.1f} s" for stage, value in seconds.items())
