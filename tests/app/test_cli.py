"""A start reads no more than it needs, and the program's end leaves nothing undone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gradsam_exp.app.cli import leave

ROOT = Path(__file__).parents[2]

ENDING = """
import atexit, sys, threading, time
from gradsam_exp.app.cli import leave
atexit.register(print, "registered")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
sys.stdout.write("main ")
leave(3)
"""


def test_threads_and_exit_functions_come_to_their_end():
    done = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "main thread\nregistered\n", "")


def test_whoever_runs_the_program_from_inside_goes_on():
    with pytest.raises(SystemExit) as end:
        leave(3)
    assert end.value.code == 3


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["bg_treshold=0.2"]])
def test_what_needs_no_experiment_reads_none_of_the_heavy_packages(arguments: list[str]):
    """They take seconds: a package that is read on top of one of our modules would slow all of these down."""
    command = [sys.executable, "-X", "importtime", "run.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    read = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert {"hydra", "gradsam_exp"} <= read
    heavy = {"torch", "torchvision", "torchmetrics", "pytorch_lightning", "numpy", "pandas", "scipy", "wandb",
             "matplotlib", "plotly", "rich", "pydantic", "skimage", "sklearn", "segment_anything"}  # fmt: skip
    assert not read & heavy
