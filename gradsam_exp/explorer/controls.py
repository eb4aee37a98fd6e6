"""This module describes the fields of a plug-in as controls of a page: kind, range, choices and explanation.

Ranges are found by trying values on the field's own validation, so that any pydantic type, also one with
validators of its own, gets a fitting control.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal

from pydantic import PydanticUserError, ValidationError

from gradsam_exp.registry import validator_of

WORDS = ("otsu", "quantile:0.9", "2%")
"""Texts that a number's field may take as well, tried on each."""
STEPS = 100  # of a slider over decimal fractions
_NO_WORD = "no such word"


def controls_of(
    factory: Callable[..., Any], values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Describe the parameters of a plug-in that a page can change.

    Args:
        factory: the class or function.
        values: of its config node, by name; a parameter that is not there is left out.
        defaults: the values where none is given, from which follows how far a slider reaches.

    Returns:
        For each: ``name``, ``kind`` (``check``, ``choice``, ``range``, ``text`` or ``fixed``), ``value``,
        ``about``; of choices ``choices``; of ranges ``low``, ``high``, ``step`` and ``words``.
    """
    explained, hints = attributes_of(factory), _hints(factory)
    return [
        {
            "name": name,
            "value": values[name],
            "about": explained.get(name, ""),
            **_control(hints[name], defaults.get(name, values[name])),
        }
        for name in _parameters(factory)
        if name in values and name in hints
    ]


def summary_of(factory: Callable[..., Any]) -> str:
    """Return the first sentence of a plug-in's docstring."""
    text = inspect.getdoc(factory) or ""
    return " ".join(re.split(r"\n\n|(?<=[.!?])\s+(?=[A-Z`])", text, maxsplit=1)[0].split())


def attributes_of(factory: Callable[..., Any]) -> dict[str, str]:
    """Read what the docstrings of a plug-in and its bases say of each field, under ``Attributes`` or ``Args``."""
    found: dict[str, str] = {}
    for owner in reversed(inspect.getmro(factory) if inspect.isclass(factory) else [factory]):
        section = re.search(r"^(?:Attributes|Args):\n((?:    .*\n?|\n)*)", _own_doc(owner), re.MULTILINE)
        for entry in re.split(r"^ {4}(?! )", section[1] if section else "", flags=re.MULTILINE):
            names, _, text = entry.partition(":")
            for name in names.split(","):
                if text and name.strip().isidentifier():
                    found[name.strip()] = " ".join(text.split())
    return found


def _own_doc(owner: Any) -> str:
    return inspect.cleandoc(vars(owner).get("__doc__") or "") if hasattr(owner, "__dict__") else ""


def _parameters(factory: Callable[..., Any]) -> list[str]:
    if dataclasses.is_dataclass(factory):
        return [field.name for field in dataclasses.fields(factory) if field.init]
    return list(inspect.signature(factory).parameters)


@cache
def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    annotated = factory.__init__ if inspect.isclass(factory) and not dataclasses.is_dataclass(factory) else factory
    return typing.get_type_hints(annotated, include_extras=True)


def _control(annotation: Any, value: Any) -> dict[str, Any]:
    """Find the control that fits a field."""
    choices = _choices(annotation)
    if annotation is bool:
        return {"kind": "check"}
    if choices is not None:
        return {"kind": "choice", "choices": choices}
    try:
        fits = _checker(annotation)
    except PydanticUserError:  # of a type that only its package understands
        return {"kind": "fixed"}
    if isinstance(value, list | dict):
        return {"kind": "fixed"}
    found = _range(fits, value)
    return {"kind": "text"} if found is None else {"kind": "range", **found}


def _choices(annotation: Any) -> list[Any] | None:
    """Return the values of a ``Literal``, also of one in a union or with metadata."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _choices(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is Literal:
        return [value for one in typing.get_args(annotation) for value in (_choices(one) or [one])]
    parts = [_choices(one) for one in typing.get_args(annotation)]
    if parts and all(part is not None for part in parts) and typing.get_origin(annotation) is not list:
        return [value for part in parts for value in part or []]
    return None


def _checker(annotation: Any) -> Callable[[Any], bool]:
    """Return a function that tells whether a value fits a field."""
    validate = validator_of(annotation)

    def fits(value: Any) -> bool:
        try:
            validate(value)
        except ValidationError:
            return False
        return True

    return fits


def _range(fits: Callable[[Any], bool], value: Any) -> dict[str, Any] | None:
    """Find where a number may lie, and how far a slider should reach; None if the field takes no numbers."""
    if fits(_NO_WORD) or not any(fits(number) for number in (0, 1, 2, 0.5)):
        return None
    whole = not any(fits(number) for number in (0.5, 1.5, 2.5))
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 1.0
    step: float
    if fits(1) and not fits(1.001) and not whole:  # a share
        low, high, step = (-1.0 if fits(-1) else 0.0), 1.0, 0.01
    elif whole:
        low = next(float(start) for start in (0, 1, 2, 3) if fits(start))
        step = 1.0 if fits(low + 1) else 2.0
        high = _reach(fits, low, max(4 * number, low + 8 * step), step)
    else:
        low = 0.0 if number >= 0 else 4 * number
        high = max(4 * abs(number), 1e-6)
        step = float(f"{(high - low) / STEPS:.0e}")
        high = _reach(fits, step, high, step)
    low = low if fits(low) else low + step
    return {
        "low": _plain(low, whole), "high": _plain(high, whole), "step": _plain(step, whole),
        "words": [word for word in WORDS if fits(word)],
    }  # fmt: skip


def _reach(fits: Callable[[Any], bool], low: float, high: float, step: float) -> float:
    """Return the largest number of steps from ``low`` to ``high`` that fits, found by halving."""
    whole, fitting, failing = step % 1 == 0, 0, round((high - low) / step)
    if fits(_plain(low + failing * step, whole)):
        return low + failing * step
    while failing - fitting > 1:
        middle = (fitting + failing) // 2
        if fits(_plain(low + middle * step, whole)):
            fitting = middle
        else:
            failing = middle
    return low + fitting * step


def _plain(number: float, whole: bool) -> float | int:
    return round(number) if whole else round(number, 9)
