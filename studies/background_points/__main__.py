"""``python -m studies.background_points background=mixed`` makes the study's runs and compares them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gradsam_exp.errors import InputError
from studies.background_points.study import run_study


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study with these command-line arguments; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m studies.background_points", description="Why do background points hurt?"
    )
    parser.add_argument("overrides", nargs="*", help="as for run.py, such as background=cifar10 or sam=vit_b")
    try:
        run_study(parser.parse_args(arguments).overrides)
    except InputError as error:
        print(f"gradsam_exp: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("gradsam_exp: interrupted; finished runs are kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
