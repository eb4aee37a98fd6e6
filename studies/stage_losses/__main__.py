"""``python -m studies.stage_losses RUNS`` splits what runs of ``experiment=oracles`` lack to an mIoU of 1."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from gradsam_exp.console import console
from studies.command import ended
from studies.stage_losses.losses import write_losses


def main(arguments: Sequence[str] | None = None) -> int:
    """Write and print the tables of finished runs; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m studies.stage_losses", description="Which stage of the chain loses how much of mIoU?"
    )
    parser.add_argument("runs", nargs="+", help="folders of finished sweeps of experiment=oracles, or globs")
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    parser.add_argument(
        "--to", type=Path, default=Path("outputs/stage_losses") / now, help="a folder for the results"
    )
    given = parser.parse_args(arguments)

    def study() -> None:
        text = write_losses(given.runs, given.to)
        console.print(f"{text}\n{given.to}", soft_wrap=True, markup=False)

    return ended(study)


if __name__ == "__main__":
    sys.exit(main())
