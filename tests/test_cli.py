"""The program's end leaves nothing undone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gradsam_exp.cli import leave

ENDING = """
import atexit, sys, threading, time
from gradsam_exp.cli import leave
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
