"""This module keeps two commands from writing into one folder at the same time."""

import os
import sys
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from gradsam_exp.errors import say
from gradsam_exp.runs.folder import LOCK

RANKS = ("RANK", "LOCAL_RANK")  # set where a process is one of several, by Lightning and by torchrun
_held: list[FileLock] = []


def hold(folder: Path, key: str) -> None:
    """Reserve the folder of a run or a sweep for this process, or end the program with one line.

    Of several processes that train together the first one reserves it for all.

    Args:
        key: of the configuration, which chooses the folder.
    """
    if any(os.environ.get(rank, "0") != "0" for rank in RANKS):
        return
    lock = FileLock(folder / LOCK, mode=0o666)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        say(f"{key}={folder} is in use by another command, whose files would mix with these; give another folder")
        sys.exit(1)
    except (OSError, NotImplementedError):  # one that cannot hold locks; what cannot be written, Hydra says
        return
    _held.append(lock)


def let_go() -> None:
    """Free the folders that this process has reserved; one in which nothing was left goes."""
    while _held:
        lock = _held.pop()
        with suppress(OSError):  # Windows deletes no open file
            Path(lock.lock_file).unlink()
        lock.release()
        with suppress(OSError):  # as it should if the folder holds anything
            Path(lock.lock_file).parent.rmdir()
