"""``python -m studies.stage_losses RUNS`` splits what runs of ``experiment=oracles`` lack to an mIoU of 1."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from studies.command import tables_of_runs
from studies.stage_losses.losses import write_losses


def main(arguments: Sequence[str] | None = None) -> int:
    """Write and print the tables of finished runs; returns the exit code."""
    return tables_of_runs(
        "stage_losses",
        "Which stage of the chain loses how much of mIoU?",
        "experiment=oracles",
        write_losses,
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
