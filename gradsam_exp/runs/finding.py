"""Runs on disk: where they lie, what each of them varied, and the command that makes one again."""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gradsam_exp.errors import InputError, first_line

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
    "metrics",
    "store",
    "task",
    "trainer",
)
"""Groups and keys that no result depends on."""


def find_runs(given: str | Sequence[str], *, key: str = "runs") -> list[Path]:
    """Folders of evaluation runs, whole or failed, in natural order; one that is damaged costs a warning.

    Args:
        given: a folder or glob, or several; each is a run, or holds runs at any depth.

    Raises:
        InputError: if there is none.
    """
    from gradsam_exp.console import warn  # noqa: PLC0415  (rich takes its time)

    patterns = [given] if isinstance(given, str) else list(given)
    places = [Path(p) for pattern in patterns for p in glob.glob(os.path.expanduser(str(pattern)))]
    found = {path.parent for place in places for path in place.rglob(Path(OVERRIDES).parent.name)}
    runs = []
    for run in sorted(found, key=lambda run: natural(run.as_posix())):
        problem = problem_in(run)
        if problem is not None:
            warn(f"{run} is left out: {problem}")
        elif _task_of(run) == "evaluate":
            runs.append(run)
    if not runs:
        raise InputError(
            f"{key}={','.join(map(str, patterns))}: no finished runs there; "
            "give the folder of a run or of a sweep, or a glob of such folders"
        )
    return runs


def problem_in(run: Path) -> str | None:
    """What keeps a run out of a comparison: its file and what is wrong with it; None if nothing does.

    Of other tasks' runs only what says what they are is looked at.
    """
    try:
        overrides_of(run)
        evaluated = _task_of(run) == "evaluate"
        if not evaluated and not (run / "metrics.json").is_file():
            return None
        outcome = _read_json(run / "metrics.json", "status", "identity", "metrics")
        if evaluated and outcome["status"] == "finished":
            _check_finished(run, outcome)
    except InputError as error:
        return str(error).replace(f"{run}/", "")
    return None


def _task_of(run: Path) -> str:
    return chosen(config_of(run), "task") or "evaluate"


def _check_finished(run: Path, outcome: Mapping[str, Any]) -> None:
    """The files of an evaluation that a comparison needs.

    Raises:
        InputError: naming the file.
    """
    from pyarrow import ArrowException  # noqa: PLC0415  (a sweep's parent starts without pandas)

    from gradsam_exp.runs.comparison import images_of  # noqa: PLC0415

    metrics, digests = outcome["metrics"], _read_json(run / "provenance.json", "digests")["digests"]
    if not isinstance(metrics, Mapping):
        raise InputError("metrics.json names no metrics")
    for name, metric in metrics.items():
        if not isinstance(metric, Mapping) or not {"mean", "ci95", "n"} <= set(metric):
            raise InputError(f"metrics.json says no mean, ci95 and n of {name}")
    if not isinstance(digests, Mapping) or not isinstance(digests.get("data"), str):
        raise InputError("provenance.json has no digest of the data")
    try:
        missing = {"class_name", "predicted_class", "iou", "predicted_iou"} - set(images_of(run))
    except FileNotFoundError as error:
        raise InputError("per_image.parquet is missing") from error
    except (OSError, ValueError, KeyError, ArrowException) as error:
        raise InputError(f"per_image.parquet cannot be read ({first_line(error)})") from error
    if missing:
        raise InputError(f"per_image.parquet has no {', '.join(sorted(missing))}")


def _read_json(path: Path, *keys: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path.name} is missing") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name} cannot be read ({first_line(error)})") from error
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise InputError(f"{path.name} has no {', '.join(missing)}")
    return content


def natural(path: str) -> list[tuple[int, str]]:
    """Sorts ``2`` before ``10``."""
    return [(int(part), "") if part.isdigit() else (sys.maxsize, part) for part in path.split("/")]


def common_folder(runs: Sequence[Path]) -> Path:
    """The folder that holds them all; its own name for each is the path below it."""
    return Path(os.path.commonpath([run.resolve().parent for run in runs]))


def overrides_of(run: Path) -> list[str]:
    """The job's part of the command line, as given.

    Raises:
        InputError: if it is not there or cannot be read.
    """
    try:
        return [str(override) for override in OmegaConf.load(run / OVERRIDES)]
    except FileNotFoundError as error:
        raise InputError(f"{OVERRIDES} is missing") from error
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"{OVERRIDES} cannot be read ({first_line(error)})") from error


def varied_in(run: Path) -> dict[str, str]:
    """The overrides by key."""
    pairs = [override.lstrip("+~").partition("=") for override in overrides_of(run)]
    return {key: value for key, _, value in pairs}


def config_of(run: Path) -> dict[str, Any]:
    """The composed configuration, resolved; not to be changed, as others get the same.

    Raises:
        InputError: if it is not there or cannot be read.
    """
    path = run / ".hydra" / "config.yaml"
    try:
        return _read_config(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, TypeError, YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)})") from error


@lru_cache(maxsize=512)  # a report asks for each several times
def _read_config(path: Path, written: int) -> dict[str, Any]:
    del written
    plain = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    if not isinstance(plain, dict):
        raise TypeError("it is a list")
    return {str(key): value for key, value in plain.items()}


def chosen(config: Mapping[str, Any], key: str) -> str | None:
    """What a configuration says about a key, as it would be written on the command line; None if nothing."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return as_override(value.get("name", value.get("backbone")) if isinstance(value, Mapping) else value)


def as_override(value: Any) -> str:
    """``true``, ``null``, ``[a,b]``, ``0.1``; equal numbers are written alike."""
    if isinstance(value, list):
        return "[" + ",".join(as_override(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)


def in_canon(text: str) -> str:
    """``0.10`` and ``.1`` are ``0.1``, ``1.0`` is ``1``; what is no number stays."""
    if re.fullmatch(r"[+-]?\d+", text):
        return str(int(text))
    return as_override(float(text)) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.I) else text


def in_short(key: str, value: str) -> str:
    """``fgbg``, ``bg_threshold=0.1``: words speak for themselves, numbers do not."""
    first = value.split(", ", maxsplit=1)[0].lstrip("-")
    unclear = first[:1].isdigit() or first in ("", "true", "false", "null")
    return f"{key.rsplit('.', 1)[-1]}={value}" if unclear else value


def command_of(run: Path) -> str:
    """The command that makes this run alone again, quoted for a shell."""
    overrides = [o for o in overrides_of(run) if o.lstrip("+~").partition("=")[0] != "resume"]
    if any(override.startswith("experiment=") for override in overrides):
        overrides.append("hydra.mode=RUN")  # an experiment is a sweep otherwise
    return shlex.join(["python", "run.py", *overrides])


def in_common(configs: Sequence[Mapping[str, Any]], images: Sequence[int]) -> str:
    """``val · 40 images · shapes, mixed · gradcam · resnet18 · compact``: what all of some runs are made with.

    Args:
        configs: the runs', resolved.
        images: how many images each run has.
    """
    number = f"{images[0]} images" if len(set(images)) == 1 else ""
    split, data, background, *rest = (
        _shared([chosen(config, key) for config in configs])
        for key in ("split", "data", "data.background", "pipeline", "explainer", "model", "sam")
    )
    if background == "blend":  # of what
        parts = [
            [as_override(part.get("name")) for part in c["data"]["background"].get("of", [])] for c in configs
        ]
        background = _shared(["+".join(names) for names in parts])
    given = ", ".join(filter(None, (data, background)))
    return " · ".join(filter(None, (split, number, given, *rest)))


def _shared(values: Sequence[str | None]) -> str:
    """What all say; empty if they differ or say nothing."""
    first = values[0] or ""
    return first if len(set(values)) == 1 and first != "null" else ""


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
