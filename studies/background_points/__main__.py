"""``python -m studies.background_points background=mixed`` makes the study's runs and compares them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from studies.background_points.study import run_study
from studies.command import ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study with these command-line arguments; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m studies.background_points", description="Why do background points hurt?"
    )
    parser.add_argument("overrides", nargs="*", help="as for run.py, such as background=cifar10 or sam=vit_b")
    overrides = parser.parse_args(arguments).overrides
    return ended(lambda: run_study(overrides), kept="finished runs are kept")


if __name__ == "__main__":
    sys.exit(main())
