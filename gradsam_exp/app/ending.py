"""This module ends the program in order when a signal asks for it, and a sweep's processes when the sweep is gone.

Schedulers (SLURM), Docker, ``kill`` and a terminal that is closed send such signals; without a handler they end a
process at once, and nothing of a sweep would be summarised.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

ENDING = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
"""Signals that end a process which does not handle them; ``sbatch --signal`` may send any of them."""
LEADER = "GRADSAM_EXP_LEADER"
"""The environment variable that tells the processes that this program starts on this machine which one did so."""
POLL_S = 1.0


class Terminated(KeyboardInterrupt):
    """The program has been asked by a signal to end: whatever ends at Ctrl-C ends at this, too.

    Attributes:
        code: the exit code by which a shell knows the signal, 143 for ``SIGTERM``.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class _Received:
    """What this process has received: the first signal counts, those after it change nothing."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.held = 0

    def take(self, number: int, frame: FrameType | None) -> None:
        """Raise `Terminated`, unless the process is ending already or what it does is not to be interrupted."""
        if self.number is None:
            self.number = number
            if not self.held:
                raise Terminated(number)


_received = _Received()


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Let the signals of `ENDING` raise `Terminated` in the main thread; one that is ignored or handled stays so.

    ``nohup`` ignores SIGHUP, for instance. Once one has come, others are ignored until the end.
    """
    _received.number = None
    if threading.current_thread() is not threading.main_thread():  # Python handles signals there only
        yield
        return
    numbers = [int(getattr(signal, name)) for name in ENDING if hasattr(signal, name)]
    unhandled = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in unhandled:
        signal.signal(number, _received.take)
    try:
        yield
    finally:
        for number in unhandled:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def first_finishing() -> Iterator[None]:
    """Do what is inside to its end before a signal of `ENDING` raises `Terminated`."""
    before = _received.number
    _received.held += 1
    try:
        yield
    finally:
        _received.held -= 1
    if before is None and _received.number is not None and not _received.held:
        raise Terminated(_received.number)


@contextmanager
def leading() -> Iterator[None]:
    """Let processes that are started inside end with this one, if they call `end_with_leader`."""
    if LEADER in os.environ:  # this one was started by another
        yield
        return
    os.environ[LEADER] = str(os.getpid())
    try:
        yield
    finally:
        leave_alone()


def leave_alone() -> None:
    """Let processes that are started from now on outlive this one, as on another machine."""
    os.environ.pop(LEADER, None)


def end_with_leader() -> None:
    """End this process within two seconds after the one that has started it, or its parent, has ended.

    Whoever is killed cannot end others: what joblib, submitit or Lightning has started would work for minutes for
    nobody, and hold its memory. Called again, or where nobody leads, it does nothing.
    """
    said = os.environ.get(LEADER, "")
    pid = int(said) if said.isdecimal() else os.getpid()
    if os.name == "posix" and pid != os.getpid() and not _watching.is_set():
        _watching.set()
        threading.Thread(target=_watch, args=(pid, os.getppid() == pid), daemon=True).start()


_watching = threading.Event()


def _watch(pid: int, is_parent: bool) -> None:
    while os.getppid() == pid if is_parent else _is_there(pid):
        time.sleep(POLL_S)
    os._exit(1)


def _is_there(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except ProcessLookupError:
        return False
    except OSError:  # another user's, or no Linux
        return True
    return state.rpartition(")")[2].split()[0] != "Z"
