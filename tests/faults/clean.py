"""Commands in children of a process that has imported everything and done nothing else: they begin at once.

A child of the process that runs the tests would inherit the threads and the memory of all tests before it.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import runpy
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from tests.e2e.conftest import ROOT

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOADED = [__name__, "gradsam_exp.tasks.evaluate", "gradsam_exp.reports.page", "gradsam_exp.reports.sweep"]


def start(overrides: list[str], said: Path, megabytes: int | None = None) -> BaseProcess:
    """Start ``python run.py …``.

    Args:
        said: the file that gets what it prints.
        megabytes: it may use besides what there is when everything is imported, as by ``ulimit -v``.
    """
    process = _CONTEXT.Process(target=_command, args=(overrides, said, megabytes))
    process.start()
    return process


def warm() -> None:
    """Start the process that all commands are children of."""
    _CONTEXT.set_forkserver_preload(_PRELOADED)
    process = _CONTEXT.Process(target=int)  # does nothing
    process.start()
    process.join()


def _command(overrides: list[str], said: Path, megabytes: int | None) -> None:
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(ROOT)
    sys.argv = ["run.py", *overrides]
    if megabytes is not None:
        most = psutil.Process().memory_info().vms + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    runpy.run_path("run.py", run_name="__main__")
