"""This module uploads offline runs: in processes of their own, for a limited time, until one fails.

A server that is closed, hangs, refuses the key or fails in the middle costs one warning; the runs stay where
they are and ``wandb sync`` uploads them at any later time.
"""

import atexit
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gradsam_exp.errors import InputError, say
from gradsam_exp.runs.folder import Run
from gradsam_exp.tracking.settings import WandbSettings, api_key, logger_settings, server

log = logging.getLogger(__name__)
PROBE_S = 5.0
AT_ONCE = 2  # uploads at a time
_VIEWER = "query Viewer { viewer { id } }"
T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T | None:
    """Call a function in a thread; return its result, or None if it takes longer than ``seconds``."""
    found: list[T] = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None


def why_not(address: str, key: str | None, *, seconds: float = PROBE_S) -> str | None:
    """Say what speaks against an upload: no key, no answer, a wrong key; None if nothing does.

    Returns within ``seconds``, whatever the server or the name service does.
    """
    if key is None:
        return "there is no API key (wandb login)"
    problem = within(seconds, lambda: _ask(address, key, seconds))
    if problem is None:
        problem = "does not answer"
    return f"{address} {problem}" if problem else None


def _ask(address: str, key: str, seconds: float) -> str:
    """What the server does wrong; empty for nothing."""
    import requests  # noqa: PLC0415

    problem = ""
    try:
        answer = requests.post(f"{address}/graphql", json={"query": _VIEWER}, auth=("api", key), timeout=seconds)
        if answer.status_code in (401, 403):
            problem = f"does not accept the API key ({answer.status_code})"
        elif not answer.ok:
            problem = f"is out of order ({answer.status_code})"
        elif (answer.json().get("data") or {}).get("viewer", True) is None:
            problem = "does not know the API key"
    except requests.exceptions.SSLError:
        pass  # W&B may have other certificates than we have
    except requests.exceptions.Timeout:
        problem = "does not answer"
    except requests.exceptions.ConnectionError:
        problem = "cannot be reached"
    except (requests.exceptions.RequestException, ValueError):
        problem = "does not answer as W&B does"
    return problem


@dataclass
class _Upload:
    run: Path
    process: subprocess.Popen[bytes]
    deadline: float
    later: str

    @property
    def log(self) -> Path:
        return self.run / "logs" / "upload.log"

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:  # Windows
                self.process.kill()
        self.process.wait()


class Uploads:
    """Uploads the offline runs of this process.

    Attributes:
        problem: why nothing more is uploaded, if so; known to the user.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        self._running: list[_Upload] = []
        self._asked = False

    def send(self, settings: WandbSettings, run: Path, later: str, *, wait: bool) -> str | None:
        """Upload an offline run, unless that has failed before.

        Args:
            later: the command that uploads it later.
            wait: until it is uploaded; otherwise the process waits at its end.

        Returns:
            The run's address, where it is known.
        """
        if self.problem is None and not self._asked:
            self._asked = True
            atexit.register(self.finish)
            self._give_up(why_not(server(), api_key()), later)
        while self.problem is None and len(self._running) >= AT_ONCE:
            self._end(self._running.pop(0))
        if self.problem is not None:
            return None
        upload = _start(run, settings.upload_seconds, later)
        if wait:
            return self._end(upload)
        self._running.append(upload)
        return None

    def finish(self) -> None:
        """Wait for what is under way; Ctrl-C leaves it for later."""
        try:
            while self._running:
                self._end(self._running[0])
                self._running.pop(0)
        except KeyboardInterrupt:
            self.stop()

    def stop(self) -> None:
        """Leave what is under way for later."""
        for upload in self._running:
            upload.kill()
        if self._running:
            self._give_up("the uploads were interrupted", self._running[0].later)
        self._running.clear()

    def _end(self, upload: _Upload) -> str | None:
        """Wait for an upload's end, or its time's; returns the run's address."""
        reason = "failed"
        try:
            upload.process.wait(timeout=max(upload.deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            upload.kill()
            reason = "took too long"
        said = upload.log.read_text(encoding="utf-8", errors="replace")
        marks = list(upload.run.glob("*.wandb.synced"))
        if not marks or " ERROR " in said:
            for mark in marks:  # W&B takes a run for uploaded even if the server has refused half of it
                mark.unlink()
            self._give_up(f"an upload to {server()} {reason} (see {upload.log})", upload.later)
            return None
        found = re.search(r"https?://\S+/runs/\w+", said)
        return found.group() if found else server()

    def _give_up(self, problem: str | None, later: str) -> None:
        """Say it once."""
        if problem is not None and self.problem is None:
            self.problem = problem
            warn(f"{problem}; the runs are whole on disk, upload them later with: {later}")


def warn(message: str, title: str = WandbSettings.title) -> None:
    """Tell the user, and the run's log."""
    log.warning("%s: %s", title, message)
    say(f"{title}: {message}")


def _start(run: Path, seconds: float, later: str) -> _Upload:
    # W&B's own mode would keep it from uploading; "silent" would hide the address.
    environment = {k: v for k, v in os.environ.items() if k not in ("WANDB_MODE", "WANDB_SILENT")}
    (run / "logs").mkdir(exist_ok=True)
    with (run / "logs" / "upload.log").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "wandb", "sync", str(run.resolve())],
            cwd=run.parent.parent,  # it leaves its own log below
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment,
            start_new_session=True,
        )  # fmt: skip
    return _Upload(run, process, time.monotonic() + seconds, later)


def see_sweep(folder: Path) -> str | None:
    """Say in a line how to see a sweep's runs in their logger, or how to upload them to W&B.

    None if there is no logger, or nothing to upload that is not on its way.
    """
    first = min(folder.glob("*/.hydra"), default=None)
    try:
        settings = None if first is None else logger_settings(Run(first.parent).config.get("logger") or {})
    except InputError:
        return None
    if settings is None:
        return None
    if not isinstance(settings, WandbSettings):
        return f"{settings.title}: {settings.seen_with(folder)}"
    if settings.uploads or not any(folder.glob("*/wandb/offline-run-*")):
        return None
    return f"{settings.title}: wandb sync {shlex.quote(str(folder))}/*/wandb/offline-run-*"
