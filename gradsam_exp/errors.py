"""The one error that a person's input can cause, and the search for what they may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Something the user gave is wrong; the message names the file or config key, and the mend.

    ``run.py`` prints it as one line without a traceback and exits with 1.
    """


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """``"; did you mean 'fgbg'? Known: center, fg, fgbg"``: the end of an unknown-name message."""
    names = sorted(known)
    nearest = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    guess = f"; did you mean {nearest[0]!r}?" if nearest else "."
    return f"{guess} Known: {', '.join(names)}" if names else guess
