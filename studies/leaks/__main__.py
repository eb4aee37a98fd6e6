"""``python -m studies.leaks RUNS`` tells how many leaks ``adaptive`` finds, and what it gains by that."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from studies.command import tables_of_runs
from studies.leaks.repairs import write_repairs


def main(arguments: Sequence[str] | None = None) -> int:
    """Write and print the tables of finished runs; returns the exit code."""
    return tables_of_runs(
        "leaks",
        "How many leaks does pipeline=adaptive find, and what does it gain?",
        "pipeline=fg,adaptive with metrics=full",
        write_repairs,
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
