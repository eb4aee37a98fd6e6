"""Scripts in children of a process that has imported other packages and done nothing else: they begin sooner.

A child of the process that runs the tests would inherit the threads and the memory of all tests before it.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import resource
import runpy
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).parents[1]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["hydra", "matplotlib", "pandas", "psutil", "pyarrow.parquet", "pydantic", "pytorch_lightning", "rich"]
    + ["scipy", "skimage", "timm", "torch", "torchmetrics", "torchvision", "wandb"]
)


class Preloaded(NamedTuple):
    """A script that runs, or has ended.

    Attributes:
        process: its process.
        out, err: files that get what it prints.
    """

    process: BaseProcess
    out: Path
    err: Path


def start(
    script: str | Path,
    arguments: Sequence[str],
    said: Path,
    *,
    root: Path = ROOT,
    packages: Sequence[Path] = (),
    imports: Sequence[str] = (),
    megabytes: int | None = None,
) -> Preloaded:
    """Start ``python script arguments``.

    Args:
        said: an existing folder for what it prints.
        root: the checkout whose package it imports, and its working directory.
        packages: further folders with packages.
        imports: modules that it imports before it begins.
        megabytes: it may use besides what there is when it begins, as by ``ulimit -v``.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (root, *packages)))}
    given = (str(script), list(arguments), said, root, environment, list(imports), megabytes)
    process = _CONTEXT.Process(target=_run, args=given)
    process.start()
    return Preloaded(process, said / "out.txt", said / "err.txt")


def ended(program: Preloaded, within: float | None = None) -> tuple[int, str, str]:
    """Wait for its end, at most so many seconds: the exit code and what it has printed."""
    program.process.join(within)
    assert program.process.exitcode is not None, f"it goes on after {within} s"
    return program.process.exitcode, program.out.read_text(), program.err.read_text()


def warm() -> None:
    """Start the process that all scripts are children of, unless it runs."""
    process = _CONTEXT.Process(target=int)  # does nothing
    process.start()
    process.join()


def _run(
    script: str,
    arguments: list[str],
    said: Path,
    root: Path,
    environment: Mapping[str, str],
    imports: list[str],
    megabytes: int | None,
) -> None:
    for number, name in ((1, "out.txt"), (2, "err.txt")):
        os.dup2(os.open(said / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    os.chdir(root)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    sys.argv = [script, *arguments]
    for name in imports:
        import_module(name)
    if megabytes is not None:
        most = psutil.Process().memory_info().vms + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        # As a program ends; a child would wait until joblib's workers have been idle for 300 s.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
