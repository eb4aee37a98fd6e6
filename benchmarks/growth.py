"""Time and memory of runs of 125 to 2000 images, each in a process of its own with an empty store.

``python -m benchmarks.growth``: built-in images, compact, PyTorch's allocator set as `run.py` sets it. Memory is
the process's resident set, read after every chunk of images: its peak, and how much it still grows once the first
512 images are done. Writes ``benchmarks/growth.png``.

Limits: pages of store files that the kernel keeps in its own cache are not the process's and are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import psutil
from rich.table import Table

from benchmarks.timing import result
from gradsam_exp.app.composing import compose
from gradsam_exp.console import console
from gradsam_exp.engine.plan import plan
from gradsam_exp.engine.session import Job

SIZES = (125, 250, 500, 1000, 2000)
WARM = 512
HERE = Path(__file__).parent


def main() -> None:
    """Run every size, print and plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # what the child processes do
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(_one(arguments.one)))
        return
    table = Table("images", "seconds", "peak MB", "MB per 1000 images after the first 512")
    environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": "1"}
    found = {}
    for size in arguments.sizes:
        child = [sys.executable, "-m", "benchmarks.growth", "--one", str(size)]
        finished = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        found[size] = json.loads(finished.stdout)
        slope = found[size]["mb_per_1000"]
        table.add_row(
            str(size), f"{found[size]['seconds']:.1f}", f"{found[size]['peak_mb']:.0f}",
            "" if slope is None else f"{slope:+.1f}",
        )  # fmt: skip
    console.print(table)
    _plot(found)
    result(**{str(size): values for size, values in found.items()})


def _one(count: int) -> dict[str, float | None]:
    process, resident = psutil.Process(), []
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"data.lengths.test={count}", f"output_root={folder}", "logger=none"]
        planned = plan(compose(overrides), Job(Path(folder)))
        start = time.perf_counter()

        def on_batch(item: object, _: object) -> None:
            done = len(item.batch) + (resident[-1][0] if resident else 0)  # type: ignore[attr-defined]
            resident.append((done, process.memory_info().rss / 2**20))

        planned.experiment().run(planned.dataset, batch_size=planned.config.batch_size, on_batch=on_batch)
        seconds = time.perf_counter() - start
    later = np.array([pair for pair in resident if pair[0] >= WARM])
    slope = 1000 * float(np.polyfit(later[:, 0], later[:, 1], 1)[0]) if len(later) > 3 else None
    peak = max(memory for _, memory in resident)
    return {"seconds": round(seconds, 2), "peak_mb": round(peak), "mb_per_1000": slope and round(slope, 2)}


def _plot(found: dict[int, dict[str, float]]) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for axis, key, label in zip(axes, ("seconds", "peak_mb"), ("seconds", "peak memory, MB"), strict=True):
        values = [each[key] for each in found.values()]
        axis.plot(list(found), values, "o-", color="#0072B2")
        axis.set(xlabel="images", ylabel=label, ylim=(0, 1.1 * max(values)))
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "growth.png", dpi=110)


if __name__ == "__main__":
    main()
