"""How far a sweep is: jobs done of all, and the best so far, after every job and with every launcher."""

from __future__ import annotations

import json
import re
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from gradsam_exp.launching import is_parallel, number_of_jobs, share_cores, varied

POLL_S = 1.0
LINES = 50  # a long sweep says only so often where it is, besides each new best


@dataclass
class SweepWatch:
    """Reads what the jobs of a sweep have left in its folder and says so; works from outside of the jobs.

    Attributes:
        folder: the sweep's.
        jobs: how many there will be; None if that is not known.
        keys: what is varied; names a job.
    """

    folder: Path
    jobs: int | None
    keys: tuple[str, ...]
    done: set[str] = field(default_factory=set)
    failed: int = 0
    best: tuple[float, str] | None = None

    def update(self) -> list[str]:
        """Lines about the jobs that were finished since the last time."""
        lines = []
        for path in sorted(self.folder.glob("*/metrics.json"), key=lambda p: p.stat().st_mtime):
            job = path.parent.name
            if job not in self.done:
                self.done.add(job)
                news = self._count(path)
                every = max(1, (self.jobs or 0) // LINES)
                if news or len(self.done) % every == 0 or len(self.done) == self.jobs:
                    lines.append(self._line(job, path))
        return lines

    def _count(self, path: Path) -> bool:
        """Take one job into account; whether it is a failure or the new best."""
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["status"] != "finished":
            self.failed += 1
            return True
        value = content["metrics"].get("miou", {}).get("mean")
        comparable = value is not None and value == value and not content.get("upper_bound")
        if comparable and (self.best is None or value > self.best[0]):
            self.best = (value, self._name(path.parent))
            return True
        return False

    def _name(self, job: Path) -> str:
        """``job 3, pipeline=fgbg bg_threshold=0.1``."""
        try:
            given = [str(item) for item in OmegaConf.load(job / ".hydra" / "overrides.yaml")]
        except OSError:
            given = []
        own = [_brief(item) for item in given if item.lstrip("+~").partition("=")[0] in self.keys]
        return f"job {job.name}" + (f", {' '.join(own)}" if own else "")

    def _line(self, job: str, path: Path) -> str:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["status"] == "finished":
            value = content["metrics"].get("miou", {}).get("mean")
            outcome = "finished" if value is None else f"mIoU {value:.3f}"
        else:
            outcome = f"{content['status']}: {content['error']}"
        total = "" if self.jobs is None else f" of {self.jobs}"
        failed = f", {self.failed} failed" if self.failed else ""
        line = f"{len(self.done)}{total} done{failed} · {self._name(path.parent)} · {outcome}"
        if self.best is not None and len(self.done) > 1:
            line += f" · best so far {self.best[0]:.3f}: {self.best[1]}"
        return line


def _brief(override: str) -> str:
    """``bg_threshold=0.07224`` from ``bg_threshold=0.07224313894740646``: an optimiser's numbers are long."""
    return re.sub(r"(?<==)-?\d+\.\d{5,}(e-?\d+)?$", lambda found: f"{float(found[0]):.4g}", override)


class _Thread(threading.Thread):
    """Watches a sweep whose jobs run in other processes."""

    def __init__(self, watch: SweepWatch) -> None:
        super().__init__(daemon=True)
        self.watch, self.ended = watch, threading.Event()

    def run(self) -> None:
        """Say what is new, every second."""
        while not self.ended.wait(POLL_S):
            _say(self.watch)


# The sweep of this process. Not an attribute of the callback: that travels to the jobs' processes.
_watch: SweepWatch | None = None
_thread: _Thread | None = None


def sweep_under_way() -> Path | None:
    """The folder of the sweep that this process has started and that has not ended."""
    return None if _watch is None else _watch.folder


def end_watch() -> None:
    """Say what is still to be said, and stop watching."""
    global _watch, _thread
    if _thread is not None:
        _thread.ended.set()
        _thread.join()
    if _watch is not None:
        _say(_watch)
    _watch = _thread = None


class SweepProgress(Callback):
    """Hydra callback: says after each job how far the sweep is; before the first, shares out the cores."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Start to watch the sweep's folder."""
        del kwargs
        global _watch, _thread
        keys = tuple(override.get_key_element().lstrip("+~") for override in varied(config))
        _watch = SweepWatch(Path(config.hydra.sweep.dir), number_of_jobs(config), keys)
        if "direction" in config.hydra.sweeper and config.split == "test":
            print("gradsam_exp: this search chooses on split=test; choose on split=val and report on test once",
                  file=sys.stderr)  # fmt: skip
        if is_parallel(config.hydra):
            share_cores(config)
            _thread = _Thread(_watch)
            _thread.start()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Of a job that ran in this process."""
        del config, job_return, kwargs
        if _watch is not None and _thread is None:
            _say(_watch)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """The last jobs."""
        del config, kwargs
        end_watch()


def _say(watch: SweepWatch) -> None:
    for line in watch.update():
        print(line, flush=True)
