"""This module limits the batch size of network calls, and halves it after an out-of-memory error."""

import ctypes
import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

import torch
from pytorch_lightning.utilities.memory import garbage_collection_cuda, is_oom_error
from torch import Tensor

from gradsam_exp.errors import OutOfMemory

log = logging.getLogger(__name__)
TRIM_EVERY = 4  # chunks between two calls of `return_freed_memory`, which takes some 40 ms
MULTIPLE = 8  # a batch has a multiple of so many rows, so that matrix kernels round all of them in one way
_USED_UP = (
    os.strerror(errno.ENOMEM),  # the system
    "STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN
    "out of memory",  # HIP, MPS
    "could not create a primitive",  # oneDNN
    "could not create a memory",
)
T = TypeVar("T")


def filled(rows: Tensor, most: int) -> Tensor:
    """Repeat the last row up to a multiple of eight, if as many fit into memory (``most``).

    Matrix kernels round differently for a few rows than for many; with this a row's result depends less on which
    others are computed with it. Rounding that remains (of how threads share the rows) is about 1e-7. A row that
    comes alone stays alone: it would take eight times as long.
    """
    missing = -len(rows) % MULTIPLE if len(rows) > 1 else 0
    missing = missing if len(rows) + missing <= most else 0
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows


class AdaptiveBatch:
    """AdaptiveBatch limits the batch size, and lowers the limit for good after an out-of-memory error.

    Args:
        stage: for messages, such as ``encode``.
        most: try at most so many rows.
        first: begin with so many rows, if fewer.
        row: what a row is called in messages.
        hint: what else helps if one row is too much, for the message; ends in a comma.

    Attributes:
        on_done: called with the number of rows after each batch.
    """

    def __init__(
        self, stage: str, most: int, *, first: int | None = None, row: str = "image", hint: str = ""
    ) -> None:
        self.stage, self.most, self.row, self.hint = stage, most, row, hint
        self.size = most if first is None else min(first, most)
        self.on_done: Callable[[int], None] = lambda rows: None

    def fit(self, size: int) -> None:
        """Handle ``size`` rows from now on, but at least one and no more than ever fitted."""
        self.size = max(1, min(size, self.most))

    def slices(self, count: int, call: Callable[[slice], T]) -> Iterator[T]:
        """Apply ``call`` to consecutive slices that cover ``count`` rows; an out-of-memory error halves them.

        Raises `OutOfMemory` if even one row is too much.
        """
        start = 0
        while start < count:
            end = min(start + self.size, count)
            try:
                answer = call(slice(start, end))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                tried = end - start
                if tried == 1:
                    raise OutOfMemory(
                        f"{self.stage}: one {self.row} alone does not fit into memory; "
                        f"use {self.hint}smaller images, a smaller network or another device"
                    ) from error
            else:
                self.on_done(end - start)
                yield answer
                start = end
                continue
            # Outside of the handler, whose traceback would keep the tensors alive.
            garbage_collection_cuda()
            self.most = self.size = tried // 2
            log.warning("%s: out of memory with %d at once; going on with %d", self.stage, tried, self.size)


def out_of_memory(error: Exception) -> bool:
    """Return whether this is what PyTorch, the libraries below it, Python or the system say without memory."""
    text = str(error)
    # As text alone, since Lightning's function fails on an error whose first argument is no string.
    said = is_oom_error(RuntimeError(text)) or any(words in text for words in _USED_UP)
    return isinstance(error, MemoryError) or said


def return_freed_memory() -> None:
    """Give freed memory back to the system, where the C library (glibc) would keep it.

    Its heap fragments under large tensors that come and go: without this a run's resident memory creeps up by
    some 300 MB per 1000 images although no tensor stays alive.
    """
    with suppress(OSError, AttributeError, TypeError):  # other C libraries have no such call
        ctypes.CDLL(None).malloc_trim(0)
