"""Batches of a size that rounds alike."""

from __future__ import annotations

import torch
from torch import Tensor

_MULTIPLE = 8


def filled(rows: Tensor, most: int) -> Tensor:
    """Repeat the last row up to a multiple of eight, if as many may be computed at once.

    Matrix kernels round differently for a few rows than for many; with this an answer depends less on which
    others are computed with it. Rounding that remains (of how threads share the rows) is about 1e-7. A row that
    comes alone stays alone: it would take eight times as long.

    Args:
        most: rows that fit into memory.
    """
    missing = -len(rows) % _MULTIPLE if len(rows) > 1 else 0
    missing = missing if len(rows) + missing <= most else 0
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows
