"""This module holds `Session`, a cache that runs of a process share, and `Job`, a task's folder and overrides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
RUNNING = ".running"  # in a sweep's folder: locks of the runs that are being made


class Session:
    """Keeps what is expensive to make for the next run of this process: networks, the store, decoded answers.

    Of each kind only the last thing is kept, so that a sweep over classifiers does not hold all of them in memory.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Any, Any]] = {}

    def keep(self, kind: str, key: Any, make: Callable[[], T]) -> T:
        """Return the cached object of this kind if its key is equal; else call ``make`` and cache the result.

        The key says in plain values all that the thing depends on. Nothing is kept if ``make`` raises.
        """
        if kind not in self._kept or self._kept[kind][0] != key:
            self._kept.pop(kind, None)  # before its successor is made: both may not fit into memory
            self._kept[kind] = key, make()
        return self._kept[kind][1]

    def kept(self, kind: str) -> Any:
        """Return the cached object of this kind, whatever its key; None if there is none."""
        return self._kept[kind][1] if kind in self._kept else None


@dataclass(frozen=True)
class Job:
    """Holds a task's output folder, command-line overrides, sweep folder and the shared `Session`.

    Attributes:
        folder: of this job alone.
        overrides: as they were given on the command line, such as ``pipeline=fgbg``; they tell what was asked for
            from what is a default.
        sweep: the folder of the sweep that the job is part of; None for a single run.
        session: shared with the other jobs of this process.
        searched: part of a search, which looks for the highest mIoU.
    """

    folder: Path
    overrides: Sequence[str] = ()
    sweep: Path | None = None
    session: Session = field(default_factory=Session)
    searched: bool = False

    def given(self, *keys: str) -> bool:
        """Say whether one of these configuration keys was given as an override."""
        return any(override.lstrip("+~").partition("=")[0] in keys for override in self.overrides)
