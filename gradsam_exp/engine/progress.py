"""Shows how far a run is: a bar for every stage; where there is no terminal, a line a minute."""

from __future__ import annotations

import time
from types import TracebackType

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from gradsam_exp.console import console
from gradsam_exp.engine.preparation import Stopwatch

LINE_S = 60.0


class _Count(ProgressColumn):
    """Images done of all."""

    def render(self, task: Task) -> Text:
        """Such as ``128/500``."""
        return Text(f"{task.completed:.0f}/{task.total or 0:.0f}", style="progress.download")


class _Speed(ProgressColumn):
    """Images per second of the stage's own time."""

    def render(self, task: Task) -> Text:
        """Such as ``42 images/s``."""
        return Text(speed(task.completed, task.fields["seconds"]), style="progress.data.speed")


class _Left(ProgressColumn):
    """Time the stage itself still needs; how long it took, when it is done."""

    def render(self, task: Task) -> Text:
        """Such as ``1:20 left``."""
        seconds, total = task.fields["seconds"], task.total or 0
        if task.completed >= total:
            return Text(f"took {clock(seconds)}", style="progress.elapsed")
        return Text(left(task.completed, total, seconds), style="progress.remaining")


class StageBars:
    """The stages of a run as bars on a terminal, gone at its end; elsewhere a line a minute.

    Args:
        title: of the run.
        total: images.
        stopwatch: counts the stages' seconds and images.
        last: the stage that ends an image's way.
    """

    def __init__(self, title: str, total: int, stopwatch: Stopwatch, *, last: str = "score") -> None:
        self.title, self.total, self.stopwatch, self.last = title, total, stopwatch, last
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            _Count(),
            _Speed(),
            _Left(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.rows: dict[str, TaskID] = {}
        self.start = self.said = time.monotonic()

    def __enter__(self) -> StageBars:
        """Start to show what the stopwatch counts."""
        self.start = self.said = time.monotonic()
        self.bars.start()
        self.whole = self.bars.add_task(self.title, total=self.total, seconds=0.0)
        self.stopwatch.on_change = self.update
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stopwatch.on_change = lambda: None
        self.bars.stop()

    def update(self) -> None:
        """Show the numbers as they are now."""
        seconds, images = self.stopwatch.seconds, self.stopwatch.images
        done, spent = images.get(self.last, 0), time.monotonic() - self.start
        self.bars.update(self.whole, completed=done, seconds=spent)
        for stage, number in images.items():
            if number and stage not in self.rows:
                self.rows[stage] = self.bars.add_task(f"  {stage}", total=self.total, seconds=0.0)
            if stage in self.rows:
                self.bars.update(self.rows[stage], completed=number, seconds=seconds[stage])
        if not console.is_terminal and time.monotonic() - self.said > LINE_S:
            self.said = time.monotonic()
            line = f"{self.title}: {done}/{self.total} images, {left(done, self.total, spent)}"
            if any(images.values()):
                slowest = max((stage for stage in images if images[stage]), key=lambda stage: seconds[stage])
                rate = speed(images[slowest], seconds[slowest])
                line += f" ({slowest} {images[slowest]}/{self.total}, {rate})"
            console.print(line, soft_wrap=True)


def speed(images: float | int, seconds: float) -> str:
    """``42 images/s``; empty while it is not known."""
    if not images or not seconds:
        return ""
    rate = images / seconds
    return f"{rate:.0f} images/s" if rate >= 10 else f"{rate:.2g} images/s"


def left(done: float | int, total: float | int, seconds: float) -> str:
    """``1:20 left`` by the speed so far."""
    return f"{clock((total - done) * seconds / done)} left" if done else "? left"


def clock(seconds: float | int) -> str:
    """``1:20``, or ``2:01:20``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
