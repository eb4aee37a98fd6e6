"""This module describes where a result comes from, so that it can be made again."""

import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gradsam_exp.digest import digest, library_versions
from gradsam_exp.runs.writing import write_json

PROVENANCE = "provenance.json"
_PACKAGES = ("pytorch-lightning", "torchmetrics", "hydra-core", "wandb")


def write_provenance(folder: Path, **facts: Any) -> None:
    """Write ``provenance.json`` into the folder of a run; see `provenance`."""
    write_json(folder / PROVENANCE, provenance(**facts))


def provenance(
    *, config: Mapping[str, Any], digests: Mapping[str, str], seeds: Mapping[str, int], device: str
) -> dict[str, Any]:
    """Describe where a result comes from: code, versions, machine, seeds, digests, command."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.argv]),
        "git": git_state(),
        "versions": {
            "python": platform.python_version(),
            **library_versions(),
            **{name: version(name) for name in _PACKAGES},
        },
        "platform": platform.platform(),
        "device": device,
        "seeds": dict(seeds),
        "digests": {**digests, "config": digest(config)},
    }


@cache
def git_state() -> dict[str, Any] | None:
    """Commit and dirty flag of the code that runs, as the process started; None outside of a git checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
