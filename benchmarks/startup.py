"""How long a user waits before anything happens: ``--help``, ``--cfg job``, a mistyped override.

``python -m benchmarks.startup``: whole processes, in turns, beside an empty Python.

Limits: files are in the kernel's cache after the first round, which is not counted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.timing import interleaved, report, result

RUN = Path(__file__).parent.parent / "run.py"


def main() -> None:
    """Time the commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    commands = {
        "python": ["-c", "pass"],
        "--help": [str(RUN), "--help"],
        "--cfg job": [str(RUN), "--cfg", "job"],
        "a typo": [str(RUN), "pipelin=fg"],
    }
    seconds = interleaved({name: _start(command) for name, command in commands.items()}, rounds=arguments.rounds)
    report("start-up", seconds, against="python")
    result(**{name: round(sorted(values)[len(values) // 2], 2) for name, values in seconds.items()})


def _start(command: list[str]) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, *command], capture_output=True, check=False)


if __name__ == "__main__":
    main()
