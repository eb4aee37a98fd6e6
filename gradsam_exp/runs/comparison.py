"""This module holds `Runs`, the collection of runs that a report compares, each read from disk only once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradsam_exp.errors import harmless
from gradsam_exp.runs.finding import natural
from gradsam_exp.runs.folder import OVERRIDES, Run

if TYPE_CHECKING:
    import pandas as pd

    from gradsam_exp.runs.summary import MetricFacts

CLASS_MIOU = "class_miou:"
"""Before a class's name in the columns with the mIoU of each class."""


class Runs:
    """Holds the runs of a comparison by job, and what was read of them.

    A job is a run's path below the common folder; those of a sweep are numbers.

    Args:
        folder: holds all of them.
        runs: None for those of a sweep, whose jobs lie directly in its folder.
    """

    def __init__(self, folder: Path, runs: Iterable[Run] | None = None) -> None:
        self.folder, self.of_sweep = folder, runs is None
        if runs is None:
            found = [path.parent.parent for path in folder.glob(f"*/{OVERRIDES}")]
            runs = map(Run, sorted(found, key=lambda run: natural(run.name)))
        root = folder.resolve()
        self._runs = {harmless(run.folder.resolve().relative_to(root).as_posix()): run for run in runs}

    @classmethod
    def from_anywhere(cls, runs: Iterable[Run]) -> Runs:
        """Compare runs that lie in different folders."""
        runs = list(runs)
        return cls(Path(os.path.commonpath([run.folder.resolve().parent for run in runs])), runs)

    @property
    def jobs(self) -> list[str]:
        """Names the runs, in order."""
        return list(self._runs)

    def __getitem__(self, job: str) -> Run:
        """Return the run of this job."""
        return self._runs.setdefault(str(job), Run(self.folder / str(job)))

    def evaluated(self, table: pd.DataFrame) -> pd.DataFrame:
        """Keep the rows of finished runs that have numbers of images (not those of ``task=train``), each once."""
        rows = table[table["same_as"].isna()] if "same_as" in table else table
        with_images = [job for job in rows["job"] if self[job].has_images]
        return rows[(rows["status"] == "finished") & rows["job"].isin(with_images)]

    def metric_facts(self, table: pd.DataFrame) -> dict[str, MetricFacts]:
        """Say what the metrics of a table's finished runs are, by name, in the order of a run's own table.

        Newer runs say it in their ``metrics.json``; see `MetricFacts.read` for older ones.
        """
        from gradsam_exp.runs.summary import MetricFacts  # noqa: PLC0415  (a sweep's parent starts without scipy)

        said: dict[str, MetricFacts] = {}
        for job in table.loc[table["status"] == "finished", "job"]:
            for name, plain in self[job].outcome.metrics.items():
                if name not in said or not said[name].group:
                    said[name] = MetricFacts.read(name, plain)
        return said


def against(table: pd.DataFrame, name: str, baseline: pd.Series) -> dict[str, Any]:
    """Compare a run's IoUs with a baseline's, both by ``example_id``; gives the table's columns for it."""
    from gradsam_exp.runs.paired import paired_difference  # noqa: PLC0415  (a sweep's parent starts without scipy)
    from gradsam_exp.runs.units import Units  # noqa: PLC0415

    others = baseline.reindex(table.index).to_numpy()
    found = paired_difference(table["iou"].to_numpy(), others, units=Units.of(table).names)
    low, high = found.difference.ci95
    return {
        "baseline": name, "delta_miou": found.difference.mean, "delta_low": low, "delta_high": high,
        "p": found.p, "wins": found.wins, "ties": found.ties, "losses": found.losses,
    }  # fmt: skip
