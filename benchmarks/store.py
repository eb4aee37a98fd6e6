"""A store of many entries: seconds to find, read, list and evict.

``python -m benchmarks.store --entries 100000``: entries of 1 kB, as their number is what counts here and not their
bytes; in a folder of its own below ``--folder``, which decides the file system.

Limits: the names are in the kernel's cache, as they have just been written; a network file system asks its
server for each.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.timing import result
from gradsam_exp.digest import digest
from gradsam_exp.engine.store import Store

READ = 500


def main() -> None:
    """Fill a store, time what runs ask of it, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--folder", help="where the store is made; the system's own folder for temporary files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        result(entries=arguments.entries, **measured(Path(folder), arguments.entries))


def measured(root: Path, entries: int) -> dict[str, float]:
    """Give seconds: of each entry's writing, finding and reading, of one listing, and of evicting a tenth."""
    make = {"values": torch.zeros(200)}
    Store(root).get("embeddings", digest("pattern", size=16), lambda: (make, None))
    pattern = root / "embeddings" / f"{digest('pattern', size=16)}.safetensors"
    content = pattern.read_bytes()
    keys = [f"{number:032x}" for number in random.Random(0).sample(range(2**60), entries)]

    def fill() -> None:
        for age, key in enumerate(keys):
            path = pattern.with_name(f"{key}.safetensors")
            path.write_bytes(content)
            os.utime(path, (age, age))  # in use long ago

    def read() -> None:
        store = Store(root)
        for key in random.Random(1).sample(keys, READ):
            found = store.peek(f"embeddings/{key}")
            assert found is not None

    def evict() -> None:
        store = Store(root, max_bytes=int(0.9 * entries * len(content)))
        store.get("embeddings", digest("another", size=16), lambda: (make, None))

    store = Store(root)
    seconds = {
        "write_each": _timed(fill) / entries,
        "find_each": _timed(lambda: [store.has("embeddings", key) for key in keys]) / entries,
        "read_each": _timed(read) / READ,
        "list_all": _timed(lambda: sum(1 for _ in store.chunks())),
        "evict_a_tenth": _timed(evict),
    }
    left = sum(1 for _ in store.chunks())
    assert 0.89 * entries <= left <= 0.91 * entries, left
    return {name: float(f"{value:.2g}") for name, value in seconds.items()}


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
