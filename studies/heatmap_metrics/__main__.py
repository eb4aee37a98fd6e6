"""``python -m studies.heatmap_metrics RUNS`` correlates heatmap metrics with IoU over finished runs' heatmaps."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from studies.command import tables_of_runs
from studies.heatmap_metrics.report import write_correlations


def main(arguments: Sequence[str] | None = None) -> int:
    """Write and print the tables of finished runs; returns the exit code."""
    return tables_of_runs(
        "heatmap_metrics",
        "Which heatmap metric predicts the final IoU?",
        "experiment=explainers or layers",
        write_correlations,
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
