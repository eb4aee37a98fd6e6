"""This module makes the program start and end sooner; each measure says what it saves, or does nothing.

These are the only places that reach into other packages' private interfaces.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from contextlib import suppress
from importlib import import_module
from types import FrameType, ModuleType
from typing import Any, NoReturn

from hydra.core.config_store import ConfigStore


def share_store() -> None:
    """Keep Hydra from copying its store of schemas again and again: ``--help`` takes 0.4 s instead of 1.1 s.

    It copies all that plugins and schemas have registered for each group that ``--help`` lists and for each job,
    although nobody changes the copies. A store that says itself how it is copied is left alone.
    """
    if "__deepcopy__" not in vars(ConfigStore):
        ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]


def load_task(name: str) -> ModuleType:
    """Import a task's module while the garbage collector rests, which saves a single run more than a second.

    PyTorch and the packages around it are nearly a million objects, which would be looked at again and again.
    """
    module = f"gradsam_exp.tasks.{name}"
    if module in sys.modules:
        return sys.modules[module]
    gc.disable()
    try:
        return import_module(module)
    finally:
        gc.freeze()
        gc.enable()


def leave(code: int) -> NoReturn:
    """End the program with this exit code, two seconds sooner than ``sys.exit``.

    Does what the interpreter does at its end, but for tidying up the objects of PyTorch and its company.
    Where something runs the program from inside (a profiler, a test), or where this Python ends in another way
    than those we know, it is ``sys.exit``.
    """
    steps: list[Any] = [getattr(threading, "_shutdown", None), getattr(atexit, "_run_exitfuncs", None)]
    if not all(map(callable, steps)) or not _is_outermost(sys._getframe(1)):
        sys.exit(code)
    for step in steps:
        with suppress(KeyboardInterrupt):
            step()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, as by ``| head``
            stream.flush()
    os._exit(code)


def _is_outermost(frame: FrameType | None) -> bool:
    """Whether a function is called by the program's own script, also under ``python -m``, and by nothing else."""
    callers = []
    while frame is not None:
        callers.append(frame)
        frame = frame.f_back
    while callers and callers[-1].f_globals.get("__name__") == "runpy":
        callers.pop()
    return len(callers) <= 2
