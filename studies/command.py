"""This module ends a study's command as ``run.py`` ends: an input error is one line, and its exit code is 1."""

import sys
from collections.abc import Callable
from typing import Any

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
