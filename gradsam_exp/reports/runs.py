"""Runs on disk: where they lie, what each of them varied, and the command that makes one again."""

from __future__ import annotations

import glob
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gradsam_exp.errors import InputError

OVERRIDES = ".hydra/overrides.yaml"
ELSEWHERE = (
    "output_root",
    "name",
    "resume",
    "runs",
    "image",
    "sweep",
    "experiment",
    "logger",
    "store",
    "task",
    "trainer",
)
"""Groups and keys that no result depends on."""


def find_runs(given: str | Sequence[str], *, key: str = "runs") -> list[Path]:
    """Folders of evaluation runs, whole or failed, in natural order.

    Args:
        given: a folder or glob, or several; each is a run, or holds runs at any depth.

    Raises:
        InputError: if there is none.
    """
    patterns = [given] if isinstance(given, str) else list(given)
    places = [Path(p) for pattern in patterns for p in glob.glob(os.path.expanduser(str(pattern)))]
    found = {path.parent.parent for place in places for path in place.rglob(OVERRIDES)}
    runs = [run for run in found if _was_evaluated(run)]
    if not runs:
        raise InputError(
            f"{key}={','.join(map(str, patterns))}: no finished runs there; "
            "give the folder of a run or of a sweep, or a glob of such folders"
        )
    return sorted(runs, key=lambda run: natural(run.as_posix()))


def _was_evaluated(run: Path) -> bool:
    try:
        status = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["status"]
    except (OSError, ValueError, KeyError):
        return False
    if status == "finished":
        return (run / "per_image.parquet").is_file()
    return (chosen(config_of(run), "task") or "evaluate") == "evaluate"


def natural(path: str) -> list[tuple[int, str]]:
    """Sorts ``2`` before ``10``."""
    return [(int(part), "") if part.isdigit() else (sys.maxsize, part) for part in path.split("/")]


def common_folder(runs: Sequence[Path]) -> Path:
    """The folder that holds them all; its own name for each is the path below it."""
    return Path(os.path.commonpath([run.resolve().parent for run in runs]))


def overrides_of(run: Path) -> list[str]:
    """The job's part of the command line, as given."""
    return [str(override) for override in OmegaConf.load(run / OVERRIDES)]


def varied_in(run: Path) -> dict[str, str]:
    """The overrides by key."""
    pairs = [override.lstrip("+~").partition("=") for override in overrides_of(run)]
    return {key: value for key, _, value in pairs}


def config_of(run: Path) -> dict[str, Any]:
    """The composed configuration, resolved.

    Raises:
        InputError: if it is not there or cannot be read.
    """
    path = run / ".hydra" / "config.yaml"
    try:
        plain = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]}); leave this run out") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def chosen(config: Mapping[str, Any], key: str) -> str | None:
    """What a configuration says about a key, as it would be written on the command line; None if nothing."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return as_override(value.get("name") if isinstance(value, Mapping) else value)


def as_override(value: Any) -> str:
    """``true``, ``null``, ``[a,b]``, ``0.1``."""
    if isinstance(value, list):
        return "[" + ",".join(as_override(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def in_short(key: str, value: str) -> str:
    """``fgbg``, ``bg_threshold=0.1``: words speak for themselves, numbers do not."""
    first = value.split(", ", maxsplit=1)[0].lstrip("-")
    unclear = first[:1].isdigit() or first in ("", "true", "false", "null")
    return f"{key.rsplit('.', 1)[-1]}={value}" if unclear else value


def command_of(run: Path) -> str:
    """The command that makes this run alone again, quoted for a shell."""
    overrides = overrides_of(run)
    if any(override.startswith("experiment=") for override in overrides):
        overrides.append("hydra.mode=RUN")  # an experiment is a sweep otherwise
    return shlex.join(["python", "run.py", *overrides])


def differences(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Of each run, the keys in which the runs' configurations differ, as far as a result can depend on them."""
    flat = {run: dict(_flattened(config)) for run, config in configs.items()}
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    differing = [key for key in keys if len({values.get(key) for values in flat.values()}) > 1]
    return {run: {key: values[key] for key in differing if key in values} for run, values in flat.items()}


def _flattened(node: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    pairs = []
    for key, value in node.items():
        if not prefix and key in (*ELSEWHERE, "device", "devices", "batch_size"):
            continue
        if isinstance(value, Mapping):
            pairs += _flattened(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", as_override(value)))
    return pairs
