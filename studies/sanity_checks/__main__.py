"""``python -m studies.sanity_checks limit=64`` randomises the classifier from its output down, block by block."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from studies.command import ended
from studies.sanity_checks.study import run_study


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study with these command-line arguments; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m studies.sanity_checks", description="Do heatmaps depend on what the classifier has learned?"
    )
    parser.add_argument("overrides", nargs="*", help="as for run.py, such as limit=64 or explainer=layercam")
    overrides = parser.parse_args(arguments).overrides
    return ended(lambda: run_study(overrides), kept="finished runs are kept")


if __name__ == "__main__":
    sys.exit(main())
