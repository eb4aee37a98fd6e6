"""``task=explore`` opens a local page on which one changes settings and sees what becomes of an image."""

from __future__ import annotations

import json
import os
import secrets
import sys
import webbrowser
from dataclasses import asdict
from typing import Annotated
from urllib.parse import quote

from pydantic import Field

from gradsam_exp.config import Config
from gradsam_exp.console import console
from gradsam_exp.data.pictures import MAX_PIXELS
from gradsam_exp.engine.session import Job
from gradsam_exp.errors import InputError
from gradsam_exp.explorer.server import LOOPBACK, application, listen, serve
from gradsam_exp.explorer.views import Explorer
from gradsam_exp.registry import build_checked
from gradsam_exp.runs.finding import find_runs
from gradsam_exp.runs.folder import Run


def run(config: Config, job: Job) -> None:
    """Serve the explorer until Ctrl-C.

    Raises:
        InputError: something given is wrong.
    """
    build_checked("task", explore, config.task, job=job)


def explore(
    job: Job,
    *,
    run: str | None = None,
    image: str | int | None = None,
    port: Annotated[int, Field(ge=0, le=65535)] = 0,
    open_browser: bool = True,
    max_side: Annotated[int, Field(ge=16)] = 512,
    max_pixels: Annotated[int, Field(ge=1)] = MAX_PIXELS,
    max_upload_mb: Annotated[float, Field(gt=0, le=1000)] = 32,
) -> None:
    """See ``conf/task/explore.yaml``."""
    if job.sweep is not None:
        raise InputError("task=explore is no sweep: leave out -m")
    opened = listen(port)
    with opened:
        explorer = Explorer(
            job.overrides,
            job,
            run=None if run is None else _finished(run),
            max_side=max_side,
            max_pixels=max_pixels,
        )
        token, port = secrets.token_urlsafe(24), opened.getsockname()[1]
        address = f"http://{LOOPBACK}:{port}/?token={token}"
        if image is not None:
            address += f"#{quote(json.dumps({'s': asdict(explorer.find(str(image)))}, separators=(',', ':')))}"
        console.print(f"{address}\nCtrl-C ends it", soft_wrap=True, markup=False, highlight=False)
        if open_browser and _has_display():
            webbrowser.open(address)
        try:
            serve(application(explorer, token, port, most_upload=int(max_upload_mb * 1e6)), opened)
        finally:
            explorer.close()


def _finished(folder: str) -> Run:
    """Find the run whose worst images are asked for."""
    run, *more = find_runs(folder, key="task.run")
    if more:
        raise InputError(f"task.run={folder} is {1 + len(more)} runs: give the folder of one")
    if run.outcome.status != "finished":
        raise InputError(f"task.run={folder} is no finished run ({run.outcome.error})")
    return run


def _has_display() -> bool:
    """Whether a browser can show itself; one in the terminal would cover it."""
    return sys.platform in ("win32", "darwin") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
