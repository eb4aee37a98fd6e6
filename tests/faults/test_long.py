"""Many jobs in one process, many images and little memory: nothing grows, nothing is killed."""

from __future__ import annotations

import gc
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from gradsam_exp.tasks import evaluate
from tests import preloaded
from tests.faults.counts import only_soaking, soaked

JOBS = soaked(14, 200)
WARM = 5  # jobs after which nothing new is loaded
MOST_MB = 40.0  # that glibc's heap may go up and down by


@dataclass
class Measured:
    """What a process has at the end of each job."""

    descriptors: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@pytest.fixture
def as_usual() -> Iterator[None]:
    """Garbage is collected as often as Python does by itself, not as seldom as in the tests."""
    ours = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*ours)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("as_usual")
def test_a_long_sweep_takes_no_more_at_its_end_than_at_its_beginning(run, monkeypatch: pytest.MonkeyPatch, capsys):
    process, measured, evaluated = psutil.Process(), Measured(), evaluate.run

    def measuring(config, job):
        began = time.process_time()  # of this process alone, however busy the machine is
        value = evaluated(config, job)
        measured.seconds.append(time.process_time() - began)
        measured.descriptors.append(process.num_fds())
        measured.threads.append(process.num_threads())
        measured.megabytes.append(process.memory_info().rss / 2**20)
        return value

    monkeypatch.setattr(evaluate, "run", measuring)
    done = run(
        "-m", "limit=4", "pipeline=fgbg", "bg_threshold=" + ",".join(f"{k / 1000}" for k in range(1, JOBS + 1))
    )
    assert done.code == 0, done.err
    assert len(measured.seconds) == JOBS
    quarter = JOBS // 4
    early, late = (
        statistics.median(part) for part in (measured.seconds[WARM:][:quarter], measured.seconds[-quarter:])
    )
    grown = measured.megabytes[-1] - measured.megabytes[WARM]
    with capsys.disabled():
        print(
            f"\nsoak: {JOBS} jobs: descriptors {measured.descriptors[WARM]} to {measured.descriptors[-1]}, "
            f"threads {measured.threads[WARM]} to {measured.threads[-1]}, memory {grown:+.1f} MB, "
            f"CPU seconds of a job {early:.3f} to {late:.3f}"
        )
    assert max(measured.descriptors[WARM:]) <= measured.descriptors[WARM]
    assert max(measured.threads[WARM:]) <= measured.threads[WARM]
    assert grown <= MOST_MB
    assert late <= 1.5 * early


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", soaked([50], [20, 50, 100, 200, 400, 800]))
def test_little_memory_means_smaller_batches_or_one_line(
    random_weights: list[str], tmp_path: Path, megabytes: int, capsys
):
    """PyTorch's kernels do not check each allocation: now and then one ends the process (docs/reliability.md)."""
    much = ["limit=400", "batch_size=4096", "pipeline=fgbg", "task.figures=false", f"output_root={tmp_path}"]
    modules = ["gradsam_exp.tasks.evaluate", "gradsam_exp.reports.page"]
    given = [*much, "logger=none", *random_weights]
    code, _, said = preloaded.ended(
        preloaded.start("run.py", given, tmp_path, imports=modules, megabytes=megabytes)
    )
    if code == -signal.SIGSEGV:
        with capsys.disabled():
            print(f"\nsoak: with {megabytes} MB a library ended the process")
        return
    assert code in (0, 1), said
    assert code == 0 or said.strip().splitlines()[-1].startswith("gradsam_exp: "), said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.timeout(3600)
@only_soaking
def test_memory_does_not_depend_on_the_number_of_images(capsys):
    command = [sys.executable, "-m", "benchmarks.growth", "--one", "5000"]
    finished = subprocess.run(command, cwd=preloaded.ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(finished.stdout.splitlines()[-1])
    with capsys.disabled():
        print(f"\nsoak: 5000 images: {found}")
    assert abs(found["mb_per_1000"]) < 25
