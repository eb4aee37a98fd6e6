"""The desk does what the page asks for in one thread, a step at a time: what is newest and most urgent first."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from gradsam_exp.errors import InputError, first_line

log = logging.getLogger(__name__)
T = TypeVar("T")
Steps: TypeAlias = Generator[dict[str, Any], None, T]
"""Work that yields what to tell meanwhile; between two steps more urgent work may be done."""
Work = Steps[dict[str, Any]]
"""Work that ends in an answer."""
Tell = Callable[[dict[str, Any]], None]


@dataclass(eq=False)
class Asked:
    """A request that is not answered yet."""

    urgency: int
    who: Hashable
    work: Work
    tell: Tell


class Desk:
    """Answers requests; of those of one kind from one page, only the newest.

    What is told: whatever the work yields, such as ``{"now": …}``, then one of ``{"answer": …}``,
    ``{"error": line}`` and ``{"dropped": true}``, for a request that a newer one has replaced.

    Args:
        kinds: of requests, the most urgent first.
    """

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self._kinds = kinds
        self._waiting: list[Asked] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._serve, name="desk", daemon=True).start()

    def ask(self, kind: str, page: str, work: Work, tell: Tell) -> Asked:
        """Put a request on the desk, in place of the page's earlier one of its kind; threads call ``tell``."""
        asked = Asked(self._kinds.index(kind), (kind, page), work, tell)
        with self._changed:
            for older in [one for one in self._waiting if one.who == asked.who]:
                self._waiting.remove(older)
                older.tell({"dropped": True})
            self._waiting.append(asked)
            self._changed.notify()
        return asked

    def drop(self, asked: Asked) -> None:
        """Forget a request that nobody waits for any more."""
        with self._changed:
            if asked in self._waiting:
                self._waiting.remove(asked)

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                asked = min(self._waiting, key=lambda one: one.urgency)
            told = self._step(asked)
            with self._changed:
                if asked not in self._waiting:  # dropped meanwhile
                    asked.work.close()
                    continue
                if told.keys() & {"answer", "error"}:
                    self._waiting.remove(asked)
            asked.tell(told)

    @staticmethod
    def _step(asked: Asked) -> dict[str, Any]:
        try:
            return next(asked.work)
        except StopIteration as done:
            return {"answer": done.value}
        except InputError as error:
            return {"error": str(error)}
        except Exception as error:  # of a plug-in, say: the page goes on
            log.exception("the explorer could not answer")
            return {"error": f"{type(error).__name__}: {first_line(error)} (more in run.log)"}
