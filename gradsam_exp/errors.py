"""This module holds the error that a person's input can cause, and helps to word messages."""

import difflib
import logging
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)
MOST_NAMES = 200  # that a message lists


class InputError(Exception):
    """Something the user gave is wrong; the message names the file or config key, and the hint what to do.

    ``run.py`` prints it as one line without a traceback and exits with 1.

    Attributes:
        is_list: the message has a line for each of several things that are wrong.
    """

    is_list = False


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Word the end of an unknown-name message: ``"; did you mean 'fgbg'? Known: center, fg, fgbg"``.

    Of hundreds of known names, only those that are most alike are given.
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    guess = f"; did you mean {nearest[0]!r}?" if nearest else "."
    if len(names) > MOST_NAMES:
        alike = difflib.get_close_matches(given, names, n=8, cutoff=0.3)
        return f"{guess} There are {len(names)}" + (f", such as {', '.join(alike)}" if alike else "")
    return f"{guess} Known: {', '.join(names)}" if names else guess


def some(names: Sequence[str], most: int = 3) -> str:
    """Word the first of many names: ``"a, b, c, …"``."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; its kind if it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def keep_traceback(folder: Path, error: BaseException) -> Path:
    """Write an error's traceback to ``error.txt``; returns that file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "error.txt"
    path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return path


def say(line: str) -> None:
    """Print a line to the user, where it cannot be taken for a result."""
    print(f"gradsam_exp: {line}", file=sys.stderr)


def warn(message: str) -> None:
    """Print a warning and write it to the log: something failed, and the run goes on without it."""
    log.warning("%s", message)
    if logging.getLogger().handlers:  # without a log, a warning is printed as it is
        say(message)
