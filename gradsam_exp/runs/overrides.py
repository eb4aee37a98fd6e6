"""This module writes and reads single overrides, as they stand on the command line."""

import re
from typing import Any

_BARE = re.compile(r"[A-Za-z_][\w.+-]*(?::[\w.+-]+)?|\d+(?:\.\d+)?%", re.ASCII)
"""Texts that need no quotes on the command line; Hydra's grammar knows no other letters."""


def written(value: Any) -> str:
    """Write a plain value, or a list of them, as Hydra's grammar reads it on the command line."""
    if value is None:
        return "null"
    if isinstance(value, int):  # a bool is one
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, str):
        if _BARE.fullmatch(value) and value.lower() not in {"true", "false", "null", "nan", "inf"}:
            return value
        escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), value)
        return f'"{escaped}"'
    return f"[{','.join(map(written, value))}]"


def key_of(override: str) -> str:
    """Return the key that an override sets: ``pipeline`` of ``+pipeline=fg``."""
    return override.lstrip("+~").partition("=")[0]


def unescaped(override: str) -> str:
    """Say an override as a person does: ``quantile:0.9`` for a sweep's ``quantile\\:0.9``."""
    return re.sub(r"\\(.)", r"\1", override)
