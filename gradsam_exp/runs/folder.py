"""What a run leaves on disk. The local files are the truth; everything else is a view of them.

Files appear whole or not at all; ``metrics.json`` comes last, so its presence means that the run is whole.
"""

from __future__ import annotations

import json
import logging
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock
from pyarrow.parquet import read_metadata

from gradsam_exp.digest import digest, library_versions
from gradsam_exp.runs.summary import Summary

log = logging.getLogger(__name__)
_PACKAGES = ("pytorch-lightning", "torchmetrics", "hydra-core", "wandb")


def write_run(
    folder: Path,
    *,
    identity: str,
    metrics: Mapping[str, Summary],
    per_image: pd.DataFrame,
    predictions: pd.DataFrame,
    provenance: Mapping[str, Any],
    upper_bound: bool,
) -> None:
    """Write the tables, then provenance, then ``metrics.json``."""
    write_parquet(folder / "per_image.parquet", per_image)
    write_parquet(folder / "predictions.parquet", predictions)
    write_json(folder / "provenance.json", provenance)
    write_json(
        folder / "metrics.json",
        {
            "identity": identity,
            "status": "finished",
            "upper_bound": upper_bound,
            "metrics": {name: summary.as_json() for name, summary in metrics.items()},
        },
    )


TABLES = ("per_image.parquet", "predictions.parquet")


@contextmanager
def one_at_a_time(folder: Path, identity: str) -> Iterator[None]:
    """Let only one process at a time make the run of this identity; the others wait, and then find it finished.

    Args:
        folder: which all of them see. Where it cannot hold locks, nobody waits.
    """
    lock = FileLock(folder / f"{identity}.lock", mode=0o666)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        log.warning("%s cannot hold locks (%s): the same run may be made more than once", folder, error)
    try:
        yield
    finally:
        lock.release()


def find_finished(identity: str, folders: Iterable[Path]) -> Path | None:
    """The first of the folders that holds a whole run of this identity."""
    for folder in folders:
        if identity_of(folder) == identity and _is_whole(folder):
            return folder
    return None


def _is_whole(folder: Path) -> bool:
    """Whether a finished run has its files, and these are not damaged as far as a glance can tell."""
    try:
        json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        images = {read_metadata(folder / name).num_rows for name in TABLES}
    except (OSError, ValueError) as error:
        log.warning("%s is not taken from there, as it is damaged (%s): made again", folder, error)
        return False
    return len(images) == 1


def identity_of(folder: Path) -> str | None:
    """Of the run that is recorded there as finished; None if there is none."""
    try:
        found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found.get("identity") if found.get("status") == "finished" else None


def reuse_run(earlier: Path, folder: Path) -> dict[str, Summary]:
    """Copy a whole run with its figures; its provenance says from where. Returns the metrics."""
    if (earlier / "figures").is_dir():
        shutil.copytree(earlier / "figures", folder / "figures", dirs_exist_ok=True)
    for name in TABLES:
        shutil.copyfile(earlier / name, folder / f"{name}.partial")
        (folder / f"{name}.partial").rename(folder / name)
    provenance = json.loads((earlier / "provenance.json").read_text(encoding="utf-8"))
    write_json(folder / "provenance.json", {**provenance, "reused_from": str(earlier)})
    content = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
    write_json(folder / "metrics.json", content)
    return {name: Summary.from_json(name, value) for name, value in content["metrics"].items()}


def write_finished(folder: Path) -> None:
    """Record that a task without metrics of its own did finish."""
    write_json(folder / "metrics.json", {"identity": None, "status": "finished", "metrics": {}})


def write_failure(folder: Path, error: BaseException) -> None:
    """Record that a run did not finish, and why, where its metrics would be."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    message = " ".join(str(error).split()) or type(error).__name__
    write_json(folder / "metrics.json", {"identity": None, "status": kind, "error": message, "metrics": {}})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write readable JSON; the file appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.rename(path)


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table; the file appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    table.to_parquet(partial, index=False)
    partial.rename(path)


def provenance(
    *, config: Mapping[str, Any], digests: Mapping[str, str], seeds: Mapping[str, int], device: str
) -> dict[str, Any]:
    """Where a result comes from: code, versions, machine, seeds, digests, command."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "git": _git_state(),
        "versions": _versions(),
        "platform": platform.platform(),
        "device": device,
        "seeds": dict(seeds),
        "digests": {**digests, "config": digest(config)},
    }


@cache
def _versions() -> dict[str, str]:
    others = {name: version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **library_versions(), **others}


@cache
def _git_state() -> dict[str, Any] | None:
    """Commit and dirty flag of the code that runs, as the process started; None outside of a git checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
