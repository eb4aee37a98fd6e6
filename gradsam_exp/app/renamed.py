"""This table knows overrides that earlier versions had; using one is refused with the one to use now."""

import re
from collections.abc import Sequence

from gradsam_exp.config import GROUPS
from gradsam_exp.errors import InputError

RENAMED = {
    "pipeline=ensemble": "use pipeline=fg explainer=ensemble",
    "experiment=views": "use experiment=tta",
    "sam.views": "use sam.tta",
    "task=background_points": "use make answer, or python -m studies.background_points",
    "task.explain": "leave it out: a report computes nothing and shows what its runs have kept",
}
"""Keys, or choices in the form ``group=option``, and the hint what to use in their place."""


def refuse_renamed(arguments: Sequence[str]) -> None:
    """Looks for old names among the arguments of a command, also where several options of a group are swept.

    Raises:
        InputError: naming the first old name, and the new one; or a group that is given a list, of which Hydra
            would silently take the last.
    """
    for argument in arguments:
        if argument.startswith("-"):
            continue
        key, _, value = argument.lstrip("+~").partition("=")
        if key in GROUPS and value.startswith("["):
            each = value.strip("[]")
            raise InputError(
                f"{key}={value}: a run has one {key}; to run with each of them: python run.py -m {key}={each}"
            )
        options = re.findall(r"[\w.+-]+", value)
        for old in (key, *(f"{key}={option}" for option in options)):
            if old in RENAMED:
                raise InputError(f"{old} is no longer known: {RENAMED[old]}")
