"""This module keeps what was made or used last."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Keeps what was made or used last, at most so many things."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[Hashable, T] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def __getitem__(self, key: Hashable) -> T:
        self._kept[key] = self._kept.pop(key)
        return self._kept[key]

    def __setitem__(self, key: Hashable, value: T) -> None:
        self._kept.pop(key, None)
        while len(self._kept) >= self._most:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = value

    def made(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what is kept under this key, or make it."""
        if key not in self:
            self[key] = make()
        return self[key]
