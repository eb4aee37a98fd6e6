"""This module reads overrides as they are meant, where Hydra's grammar would take them for something else."""

import re
from collections.abc import Sequence
from dataclasses import fields
from decimal import Decimal

from gradsam_exp.config import Config

_KEYS = {f.name for f in fields(Config)} | {"experiment", "background"}
_TEXTS = {f.name for f in fields(Config) if f.type in (str, str | None)}
_DASHED = re.compile(r"--(?P<key>\w+)[\w./@-]*=", re.DOTALL)
_ASSIGNED = re.compile(r"(?P<key>\+{0,2}[\w./@-]+)=(?P<value>.*)", re.DOTALL)
_NUMBER = r"[+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_PARTS = r"\s*,\s*".join(rf"(?:{name}\s*=\s*)?({_NUMBER})" for name in ("start", "stop", "step"))
_RANGE = re.compile(rf"range\(\s*{_PARTS}\s*\)")
MOST_STEPS = 100_000


def as_meant(arguments: Sequence[str]) -> list[str]:
    """Rewrite overrides so that Hydra reads what was meant; all others stay.

    A number for a key that is text is quoted: ``name=1e5`` would make the folder ``100000.0``. A range of decimal
    fractions becomes the list of its values, in decimal arithmetic: ``range(0.5,0.9,0.2)`` has 0.7, and not
    0.7000000000000001. ``--key=value``, as an agent of ``wandb sweep`` says it, is ``key=value``.
    """
    return [_as_meant(argument) for argument in arguments]


def _as_meant(argument: str) -> str:
    dashed = _DASHED.match(argument)
    if dashed is not None and dashed["key"] in _KEYS:
        argument = argument.removeprefix("--")
    assigned = _ASSIGNED.fullmatch(argument)
    if assigned is None:
        return argument
    key, value = assigned["key"], assigned["value"]
    if key.lstrip("+") in _TEXTS and re.fullmatch(_NUMBER, value):
        return f"{key}='{value}'"
    given = _RANGE.fullmatch(value)
    if given is None or not re.search("[.eE]", "".join(given.groups())):
        return argument
    start, stop, step = (Decimal(number.replace("_", "")) for number in given.groups())
    count = 0 if step == 0 else -((start - stop) // step)
    if not 0 < count <= MOST_STEPS:  # said by Hydra
        return argument
    values = [start + k * step for k in range(int(count) + 1)]
    kept = [value for value in values if (value < stop if step > 0 else value > stop)]
    return f"{key}={','.join(format(value.normalize(), 'f') for value in kept)}"
