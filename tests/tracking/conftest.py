"""Runs as a person makes them, a server, and what is found in an offline run."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gradsam_exp.tracking import live
from tests.e2e.conftest import random_weights, run  # noqa: F401  (fixtures)
from tests.tracking.server import Server

WANDB = Path(sys.executable).with_name("wandb")


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every chunk is a point of the live curve, however short the run."""
    monkeypatch.setattr(live, "AFTER_S", 0.0)
    monkeypatch.setattr(live, "EVERY_S", 0.0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that works, and a key for it."""
    server = Server()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    yield server
    server.close()


def offline_runs(folder: Path) -> list[Path]:
    """In the runs' own folders; in a sweep's are links to them."""
    return sorted((p for p in folder.rglob("offline-run-*") if not p.is_symlink()), key=Path.as_posix)


@functools.cache
def inspect(offline: Path) -> dict[str, Any]:
    """Read by W&B's own tool."""
    return json.loads(_leet("--summary", "--json", str(offline)))


@functools.cache
def records(offline: Path, kind: str) -> list[dict[str, Any]]:
    """All of one kind in the run's log."""
    lines = map(json.loads, _leet("--json", str(offline)).splitlines())
    return [line[kind] for line in lines if line["type"] == kind]


def table(folder: Path, name: str) -> dict[str, Any]:
    """A table of the only offline run below a folder."""
    (path,) = folder.rglob(f"files/media/table/{name}_*.table.json")
    return json.loads(path.read_text())


def artifact(offline: Path, name: str) -> dict[str, Path]:
    """The files of an offline run's artifact whose name ends so, by their path in it."""
    (found,) = (made for made in records(offline, "artifact") if made["name"].endswith(name))
    return {entry["path"]: Path(entry["local_path"]) for entry in found["manifest"]["contents"]}


def _leet(*arguments: str) -> str:
    return subprocess.run(
        [str(WANDB), "leet", "inspect", *arguments], capture_output=True, text=True, check=True
    ).stdout
