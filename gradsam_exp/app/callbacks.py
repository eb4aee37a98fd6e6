"""This module is called back by Hydra: it says how far a sweep is, and writes its table and report at the end."""

import shutil
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gradsam_exp.app import process
from gradsam_exp.app.alone import hold
from gradsam_exp.app.ending import first_finishing, leave_alone
from gradsam_exp.app.launchers import (
    end_idle_workers_with_leader,
    is_parallel,
    join_cluster,
    number_of_jobs,
    runs_on_this_machine,
    say_nothing_of_fresh_workers,
    share_cores,
    start_no_idle_worker,
)
from gradsam_exp.app.refusals import check_sweep
from gradsam_exp.engine.session import RUNNING
from gradsam_exp.errors import InputError, keep_traceback, say, tell
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.finding import in_brief
from gradsam_exp.runs.folder import METRICS, Outcome, Run
from gradsam_exp.runs.overrides import unescaped
from gradsam_exp.runs.varied import varied_keys

POLL_S = 1.0
RESUMED = "evaluate"  # the task whose finished runs ``resume=true`` takes
LINES = 50  # a long sweep says only so often where it is, besides each new best


@dataclass
class SweepWatch:
    """Reads what the jobs of a sweep have left in its folder and prints it, whichever process they run in.

    Attributes:
        folder: the sweep's.
        jobs: how many there will be; None if that is not known.
        keys: what is varied; names a job.
        store: the ``store`` node of its configuration.
        resumes: ``resume=true`` goes on with it.
    """

    folder: Path
    jobs: int | None
    keys: tuple[str, ...]
    store: Mapping[str, Any] = field(default_factory=dict)
    resumes: bool = False
    done: set[str] = field(default_factory=set)
    failed: int = 0
    best: tuple[float, str] | None = None
    thread: threading.Thread | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Start a thread that prints newly finished jobs every second; they run in other processes."""

        def watch() -> None:
            while not self.ended.wait(POLL_S):
                self.say()

        self.thread = threading.Thread(target=watch, daemon=True)
        self.thread.start()

    def say(self) -> None:
        """Print what is new."""
        for line in self.update():
            tell(line)

    def update(self) -> list[str]:
        """Return lines about the jobs that were finished since the last call."""
        lines = []
        found = [path for path in self.folder.glob(f"*/{METRICS}") if path.parent.name not in self.done]
        for path in sorted(found, key=lambda path: path.stat().st_mtime):
            job = Run(path.parent)
            self.done.add(job.folder.name)
            outcome = _outcome(job)
            news = self._count(job, outcome)
            every = max(1, (self.jobs or 0) // LINES)
            if news or len(self.done) % every == 0 or len(self.done) == self.jobs:
                lines.append(self._line(job, outcome))
        return lines

    def _count(self, job: Run, outcome: Outcome) -> bool:
        """Take one job into account; returns whether it is a failure or the new best."""
        if outcome.status != "finished":
            self.failed += 1
            return True
        value = outcome.metrics.get("miou", {}).get("mean")
        if value is None or outcome.upper_bound:
            return False
        if self.best is None or value > self.best[0]:
            self.best = (value, self._name(job))
            return True
        return False

    def _name(self, job: Run) -> str:
        """Name a job by what was varied: ``job 3, pipeline=fgbg bg_threshold=0.1``."""
        own: list[str] = []
        with suppress(InputError):
            given = [item for item in job.overrides if item.lstrip("+~").partition("=")[0] in self.keys]
            own = [in_brief(unescaped(item)) for item in given]
        return f"job {job.folder.name}" + (f", {' '.join(own)}" if own else "")

    def _line(self, job: Run, outcome: Outcome) -> str:
        if outcome.status == "finished":
            value = outcome.metrics.get("miou", {}).get("mean")
            said = "finished" if value is None else f"mIoU {value:.3f}"
        else:
            said = f"{outcome.status}: {outcome.error}"
        total = "" if self.jobs is None else f" of {self.jobs}"
        failed = f", {self.failed} failed" if self.failed else ""
        line = f"{len(self.done)}{total} done{failed} · {self._name(job)} · {said}"
        if self.best is not None and len(self.done) > 1:
            line += f" · best so far {self.best[0]:.3f}: {self.best[1]}"
        return line


def _outcome(job: Run) -> Outcome:
    try:
        return job.outcome
    except InputError as error:
        return Outcome("damaged", None, {}, str(error))


# Of this process: no attribute of the callback, which travels to the jobs' processes.
_watches: list[SweepWatch] = []


def sweep_under_way() -> SweepWatch | None:
    """Return the sweep that this process has started and that has not ended, if there is one."""
    return _watches[-1] if _watches else None


def store_of(config: DictConfig) -> Mapping[str, Any]:
    """Return the ``store`` node of a sweep's configuration; switched off if it cannot be resolved."""
    try:
        node = OmegaConf.to_container(config.store, resolve=True)
    except OmegaConfBaseException:
        node = None
    return {str(key): value for key, value in node.items()} if isinstance(node, dict) else {"enabled": False}


def end_watch() -> None:
    """Stop watching the current sweep and print the results that were not printed yet."""
    while _watches:
        watch = _watches.pop()
        watch.ended.set()
        if watch.thread is not None:
            watch.thread.join()
        watch.say()
        shutil.rmtree(watch.folder / RUNNING, ignore_errors=True)


class SweepProgress(Callback):
    """Says, when Hydra calls it, how far the sweep is; before the first job, shares out the cores."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Reserve the folder of a single run, before Hydra writes its configuration there."""
        hold(Path(config.hydra.run.dir), "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Start to watch the sweep's folder, which must not hold another sweep."""
        end_watch()
        folder = Path(config.hydra.sweep.dir)
        hold(folder, "hydra.sweep.dir")
        if any(folder.glob("*/.hydra")):
            say(
                f"hydra.sweep.dir={folder} holds another sweep, whose jobs would mix with these; "
                "give another folder, or none (resume=true finds what is finished)"
            )
            sys.exit(1)
        try:
            check_sweep(config)
        except InputError as error:  # which Hydra would take for a warning
            say(str(error))
            sys.exit(1)
        resumes = config.task.name == RESUMED
        watch = SweepWatch(folder, number_of_jobs(config), varied_keys(config), store_of(config), resumes)
        _watches.append(watch)
        if "direction" in config.hydra.sweeper and config.split == "test":
            say("this search chooses on split=test; choose with split=val and report on test once")
        if is_parallel(config.hydra.launcher):
            share_cores(config)
            start_no_idle_worker(config)
            end_idle_workers_with_leader(config)
            say_nothing_of_fresh_workers()
            join_cluster(config)
            if not runs_on_this_machine(config.hydra.launcher):
                leave_alone()
            watch.start()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Say what a job that ran in this process has found."""
        if _watches:
            _watches[-1].say()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Say what the last jobs have found, and stop watching."""
        end_watch()


def conclude(folder: Path, store: Mapping[str, Any]) -> bool:
    """Write and print a sweep's table and report, and how to upload its W&B runs; returns whether all finished."""
    # Here, as ``--help`` does without.
    from gradsam_exp.reports.sweep import summarize_sweep  # noqa: PLC0415
    from gradsam_exp.runs.stored import readers_store  # noqa: PLC0415
    from gradsam_exp.tracking.upload import see_sweep  # noqa: PLC0415

    table = summarize_sweep(folder, readers_store(store))
    line = see_sweep(folder)
    if line is not None:
        tell(line)
    return bool((table["status"] == "finished").all())


def _say_forecast(folder: Path) -> None:
    """Say what the sweep's jobs would take, and remove their folders; exits with 1 if one was refused."""
    from gradsam_exp.engine.forecast import forecast_of  # noqa: PLC0415  (slow to import)

    runs = Runs(folder)
    refused = [runs[job] for job in runs.jobs if runs[job].has_ended]
    tell("\n".join(forecast_of(process.SESSION, folder).lines()))
    for job in runs.jobs:
        runs[job].discard()
    (folder / "multirun.yaml").unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
    if refused:
        say(f"{len(refused)} jobs were refused, see above")
        sys.exit(1)


class SweepSummary(Callback):
    """Writes tables and a page when Hydra says that all jobs are done, even if some failed."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Summarise the sweep; exits with 1 if a job failed, or if there can be no table."""
        folder = Path(config.hydra.sweep.dir)
        if config.dry_run:
            _say_forecast(folder)
            return
        if not Runs(folder).jobs:
            if any(folder.rglob(METRICS)):
                say(f"the jobs lie too deep for a table: python run.py task=report runs={folder} makes it")
                sys.exit(1)
            return  # it ended before its first job
        try:
            with first_finishing():
                all_finished = conclude(folder, store_of(config))
        except Exception as error:  # Hydra would go on with a warning, and end with 0
            say(
                f"the sweep has no table, {type(error).__name__}: {error} ({keep_traceback(folder, error)}); "
                f"its runs are kept: python run.py task=report runs={folder}"
            )
            sys.exit(1)
        if not all_finished:
            sys.exit(1)
