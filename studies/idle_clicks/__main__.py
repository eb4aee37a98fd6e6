"""``python -m studies.idle_clicks`` trains the study's segmenters, evaluates and compares them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from studies.command import ended
from studies.idle_clicks.study import run_study


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study with these command-line arguments; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m studies.idle_clicks", description="Do background points hurt because of a segmenter's training?"
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each arm (3)")
    parser.add_argument(
        "overrides",
        nargs="*",
        help="as for run.py, such as limit=200; task.* are of the trainings",
    )
    given = parser.parse_args(arguments)
    kept = "trained arms and finished runs are kept, and the same command goes on"
    return ended(lambda: run_study(given.overrides, seeds=given.seeds), kept=kept)


if __name__ == "__main__":
    sys.exit(main())
