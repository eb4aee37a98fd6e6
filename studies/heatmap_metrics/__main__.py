"""``python -m studies.heatmap_metrics RUNS`` correlates heatmap metrics with IoU over finished runs' heatmaps."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from gradsam_exp.console import console
from studies.command import ended
from studies.heatmap_metrics.report import write_correlations


def main(arguments: Sequence[str] | None = None) -> int:
    """Write and print the tables of finished runs; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m studies.heatmap_metrics", description="Which heatmap metric predicts the final IoU?"
    )
    parser.add_argument(
        "runs", nargs="+", help="folders of finished sweeps of experiment=explainers or layers, or globs"
    )
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    place = Path("outputs/heatmap_metrics") / now
    parser.add_argument("--to", type=Path, default=place, help="a folder for the results")
    given = parser.parse_args(arguments)

    def study() -> None:
        text = write_correlations(given.runs, given.to)
        console.print(f"{text}\n{given.to}", soft_wrap=True, markup=False)

    return ended(study)


if __name__ == "__main__":
    sys.exit(main())
