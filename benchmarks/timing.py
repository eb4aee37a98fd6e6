"""Contestants timed in turns, so that a busy machine is busy for all of them."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from rich.table import Table

from gradsam_exp.console import console


def interleaved(
    contestants: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of every call; each round calls every contestant once."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(warm_up + rounds):
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            if torch.cuda.is_available():  # where a call returns before its work is done
                torch.cuda.synchronize()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def report(title: str, seconds: Mapping[str, list[float]], *, against: str) -> dict[str, float]:
    """Print median, quartiles and the ratio to ``against``; returns the median ratio of the rounds by name."""
    table = Table(title=title, title_justify="left")
    for column in ("", "median s", "quartiles", f"ratio to {against}", "quartiles"):
        table.add_column(column, justify="left" if not column else "right")
    ratios = {}
    for name, values in seconds.items():
        each = [value / base for value, base in zip(values, seconds[against], strict=True)]
        ratios[name] = statistics.median(each)
        table.add_row(
            name, f"{statistics.median(values):.4g}", _spread(values), f"{ratios[name]:.3g}", _spread(each)
        )
    console.print(table)
    return ratios


def result(**figures: object) -> None:
    """The one JSON line, with the machine and the versions."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    machine = {"machine": device, "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps({**figures, **machine}))


def _spread(values: list[float]) -> str:
    if len(values) < 2:
        return ""
    low, _, high = statistics.quantiles(values, n=4)
    return f"{low:.3g}–{high:.3g}"
