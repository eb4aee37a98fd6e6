"""This module ends a study's command as ``run.py`` ends: an input error is one line, and its exit code is 1."""

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from gradsam_exp.console import console
from gradsam_exp.errors import InputError


def ended(study: Callable[[], Any], *, kept: str = "") -> int:
    """Call a study, and return its exit code: 0, 1 after an `InputError`, 130 after Ctrl-C.

    Args:
        study: takes no arguments.
        kept: what is not lost by Ctrl-C, for its message.
    """
    try:
        study()
    except InputError as error:
        print(f"gradsam_exp: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("; ".join(filter(None, ("gradsam_exp: interrupted", kept))), file=sys.stderr)
        return 130
    return 0


def tables_of_runs(
    name: str,
    question: str,
    runs: str,
    write: Callable[[Sequence[str], Path], str],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run ``python -m studies.NAME RUNS [--to FOLDER]``, which writes tables of runs; returns the exit code.

    Args:
        question: what the tables answer.
        runs: which finished sweeps it reads, for its help.
        write: takes the runs and the folder for the results; returns the tables, which are printed.
        arguments: the command line; None takes the process's own.
    """
    parser = argparse.ArgumentParser(f"python -m studies.{name}", description=question)
    parser.add_argument("runs", nargs="+", help=f"folders of finished sweeps of {runs}, or globs")
    place = Path("outputs", name, datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    parser.add_argument("--to", type=Path, default=place, help="a folder for the results")
    given = parser.parse_args(arguments)

    def study() -> None:
        text = write(given.runs, given.to)
        console.print(f"{text}\n{given.to}", soft_wrap=True, markup=False)

    return ended(study)
