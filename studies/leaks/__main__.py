"""``python -m studies.leaks RUNS`` tells how many leaks ``adaptive`` finds, and what it gains by that."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from gradsam_exp.console import console
from studies.command import ended
from studies.leaks.repairs import write_repairs


def main(arguments: Sequence[str] | None = None) -> int:
    """Write and print the tables of finished runs; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m studies.leaks", description="How many leaks does pipeline=adaptive find, and what does it gain?"
    )
    parser.add_argument(
        "runs", nargs="+", help="folders of finished sweeps of pipeline=fg,adaptive with metrics=full, or globs"
    )
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    parser.add_argument("--to", type=Path, default=Path("outputs/leaks") / now, help="a folder for the results")
    given = parser.parse_args(arguments)

    def study() -> None:
        text = write_repairs(given.runs, given.to)
        console.print(f"{text}\n{given.to}", soft_wrap=True, markup=False)

    return ended(study)


if __name__ == "__main__":
    sys.exit(main())
