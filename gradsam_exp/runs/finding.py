"""This module finds runs on disk, and says what each of them varied and what they have in common."""

import glob
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradsam_exp.errors import InputError, warn
from gradsam_exp.runs.folder import OVERRIDES, Run

ELSEWHERE = (
    "output_root", "name", "resume", "dry_run", "compare_within", "runs", "image", "sweep", "experiment", "logger",
    "metrics", "store", "download", "task", "trainer",
)  # fmt: skip
"""Groups and keys that no result depends on."""
WHERE_IT_RAN = ("device", "devices", "batch_size")
"""Keys that say how a run is computed; results depend on them by rounding at most."""


def find_runs(given: str | Sequence[str], *, key: str = "runs") -> list[Run]:
    """Find evaluation runs, finished or failed, in natural order; one that is damaged costs a warning.

    Args:
        given: a folder or glob, or several; each is a run, or holds runs at any depth.

    Raises:
        InputError: if there is none.
    """
    patterns = [given] if isinstance(given, str) else list(given)
    places = [Path(p) for pattern in patterns for p in glob.glob(os.path.expanduser(str(pattern)))]
    found = {path.parent for place in places for path in place.rglob(Path(OVERRIDES).parent.name)}
    runs = []
    for run in map(Run, sorted(found, key=lambda run: natural(run.as_posix()))):
        if run.problem is not None:
            warn(f"{run.folder} is left out: {run.problem}")
        elif run.task == "evaluate":
            runs.append(run)
    if not runs:
        raise InputError(
            f"{key}={','.join(map(str, patterns))}: no finished runs there; "
            "give the folder of a run or of a sweep, or a glob of such folders"
        )
    return runs


def natural(path: str) -> list[tuple[int, str]]:
    """Make a key that sorts ``2`` before ``10``."""
    return [(int(part), "") if part.isdecimal() else (sys.maxsize, part) for part in path.split("/")]


def chosen(config: Mapping[str, Any], key: str) -> str | None:
    """Read what a configuration says about a key, as on the command line; None if nothing."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    if isinstance(value, Mapping):  # known by its network, its id on a hub, or its name
        value = value.get("backbone") or value.get("id") or value.get("name")
    return as_override(value)


def as_override(value: Any) -> str:
    """Write a value as on the command line: ``true``, ``null``, ``[a,b]``, ``0.1``; equal numbers alike."""
    if isinstance(value, list):
        return "[" + ",".join(as_override(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)


def in_canon(text: str) -> str:
    """Write equal numbers alike: ``0.10`` and ``.1`` as ``0.1``, ``1.0`` as ``1``; what is no number stays."""
    if re.fullmatch(r"[+-]?\d+", text):
        return str(int(text))
    return as_override(float(text)) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.I) else text


def in_brief(text: str) -> str:
    """Shorten the long numbers of an optimiser: ``0.07224`` for ``0.07224313894740646``."""
    return re.sub(r"(?<![\w.])-?\d+\.\d{7,}(e-?\d+)?(?![\w.])", lambda found: f"{float(found[0]):.4g}", text)


def in_short(key: str, value: str) -> str:
    """Shorten an override to its value where that is a word (``fgbg``); numbers keep their key."""
    first = value.split(", ", maxsplit=1)[0].lstrip("-")
    unclear = first[:1].isdigit() or first in ("", "true", "false", "null")
    return f"{key.rsplit('.', 1)[-1]}={value}" if unclear else value


def in_common(configs: Sequence[Mapping[str, Any]], images: Sequence[int]) -> str:
    """Say what all of some runs are made with: ``val · 40 images · shapes, mixed · gradcam · resnet18 · compact``.

    ``images`` says how many each run has.
    """
    number = f"{images[0]} images" if len(set(images)) == 1 else ""
    split, data, background, *rest = (
        _shared([chosen(config, key) for config in configs])
        for key in ("split", "data", "data.background", "pipeline", "explainer", "model", "sam")
    )
    if background == "blend":  # of what
        parts = [config["data"]["background"].get("of", []) for config in configs]
        background = _shared(["+".join(as_override(part.get("name")) for part in own) for own in parts])
    given = ", ".join(filter(None, (data, background)))
    return " · ".join(filter(None, (split, number, given, *rest)))


def _shared(values: Sequence[str | None]) -> str:
    """What all say; empty if they differ or say nothing."""
    first = values[0] or ""
    return first if len(set(values)) == 1 and first != "null" else ""


def differences(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Find the values of the keys in which runs' configurations differ, as far as results can depend on them."""
    own = {*ELSEWHERE, *WHERE_IT_RAN}
    flat = {
        run: dict(_flattened({key: value for key, value in config.items() if key not in own}))
        for run, config in configs.items()
    }
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    differing = [key for key in keys if len({values.get(key) for values in flat.values()}) > 1]
    return {run: {key: values[key] for key in differing if key in values} for run, values in flat.items()}


def _flattened(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if key == "download":  # which groups repeat
            continue
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", as_override(value)
