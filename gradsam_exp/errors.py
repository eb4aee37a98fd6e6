"""This module holds the error that a person's input can cause, and helps to word messages."""

import difflib
import logging
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)
MOST_NAMES = 200  # that a message lists
_ACTING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_ACTING_IN_A_LINE = re.compile(rf"(?![\n\t]){_ACTING.pattern}")


class InputError(Exception):
    """Something the user gave is wrong; the message names the file or config key, and the hint what to do.

    ``run.py`` prints it as one line without a traceback and exits with 1.

    Attributes:
        is_list: the message has a line for each of several things that are wrong.
    """

    is_list = False


class OutOfMemory(InputError):
    """Memory is used up, and what helps is said."""


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
    path.write_text(harmless("".join(traceback.format_exception(error)), lines=True), encoding="utf-8")
    return path


def harmless(text: str, *, lines: bool = False) -> str:
    """Write as an escape, such as ``\\x1b``, what would act on a terminal or a log instead of being shown.

    These are control characters, line breaks, marks that turn the direction of text around, and what Python makes
    of the bytes of a file's name that is not UTF-8 (``\\xff``), which no file in UTF-8 can hold. All names, paths
    and texts that come from outside go through here before they are shown or written; what is escaped already
    stays as it is.

    Args:
        lines: keep line breaks and tabs, for texts that are made of lines on purpose.
    """
    return (_ACTING_IN_A_LINE if lines else _ACTING).sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # an undecodable byte
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def tell(text: object) -> None:
    """Print lines to the user that are results."""
    print(harmless(str(text), lines=True), flush=True)


def say(line: str) -> None:
    """Print a line to the user, where it cannot be taken for a result."""
    print(f"gradsam_exp: {harmless(line, lines=True)}", file=sys.stderr)


def warn(message: str) -> None:
    """Print a warning and write it to the log: something failed, and the run goes on without it."""
    log.warning("%s", message)
    if logging.getLogger().handlers:  # without a log, a warning is printed as it is
        say(message)
