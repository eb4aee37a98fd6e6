"""Holds the terminal that everything is printed on, and prints warnings, which the run's log keeps as well."""

from __future__ import annotations

import logging
import sys

from rich.console import Console

log = logging.getLogger(__name__)
console = Console(highlight=False, markup=False, emoji=False)  # brackets and colons of names are text


def warn(message: str) -> None:
    """Tell the user, and the run's log, what the work goes on without."""
    log.warning("%s", message)
    if logging.getLogger().handlers:  # without a log, a warning is printed as it is
        print(f"gradsam_exp: {message}", file=sys.stderr)
