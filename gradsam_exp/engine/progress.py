"""This module shows how far a run is: a bar for every stage; where there is no terminal, a line a minute."""

import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from gradsam_exp.console import console
from gradsam_exp.engine.preparation import Stopwatch

LINE_S = 60.0


class StageBars:
    """Shows the stages of a run as bars on a terminal, gone at its end; elsewhere prints a line a minute.

    Args:
        total: so many images come.
        last: the stage that ends an image's way.
    """

    def __init__(self, title: str, total: int, stopwatch: Stopwatch, *, last: str = "score") -> None:
        self.title, self.total, self.stopwatch, self.last = title, total, stopwatch, last
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}", style="progress.data.speed"),
            TextColumn("{task.fields[left]}", style="progress.remaining"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.rows: dict[str, TaskID] = {}

    def __enter__(self) -> "StageBars":
        """Start to show what the stopwatch counts."""
        self.start = self.said = time.monotonic()
        self.bars.start()
        self._show(self.title, 0, 0.0)
        self.stopwatch.on_change = self.update
        return self

    def __exit__(self, *raised: object) -> None:
        """Stop."""
        self.stopwatch.on_change = lambda: None
        self.bars.stop()

    def update(self) -> None:
        """Show the numbers as they are now."""
        seconds = self.stopwatch.seconds
        images = {stage: number for stage, number in self.stopwatch.images.items() if number}
        done, spent = images.get(self.last, 0), time.monotonic() - self.start
        self._show(self.title, done, spent)
        for stage, number in images.items():
            self._show(f"  {stage}", number, seconds[stage])
        if not console.is_terminal and time.monotonic() - self.said > LINE_S:
            self.said = time.monotonic()
            line = f"{self.title}: {done}/{self.total} images, {left(done, self.total, spent)}"
            if images:
                slowest = max(images, key=lambda stage: seconds[stage])
                rate = speed(images[slowest], seconds[slowest])
                line += f" ({slowest} {images[slowest]}/{self.total}, {rate})"
            console.print(line, soft_wrap=True)

    def _show(self, name: str, done: int, seconds: float) -> None:
        """Set a bar by the seconds that its images took; it appears when it is first set."""
        if name not in self.rows:
            self.rows[name] = self.bars.add_task(name, total=self.total, speed="", left="")
        rest = left(done, self.total, seconds) if done < self.total else f"took {clock(seconds)}"
        self.bars.update(self.rows[name], completed=done, speed=speed(done, seconds), left=rest)


def speed(images: float | int, seconds: float) -> str:
    """Write a speed as ``42 images/s``; empty while it is not known."""
    if not images or not seconds:
        return ""
    rate = images / seconds
    return f"{rate:.0f} images/s" if rate >= 10 else f"{rate:.2g} images/s"


def left(done: float | int, total: float | int, seconds: float) -> str:
    """Write the time that is left as ``1:20 left``, by the speed so far."""
    return f"{clock((total - done) * seconds / done)} left" if done else "? left"


def clock(seconds: float | int) -> str:
    """Write a duration as ``1:20``, or ``2:01:20``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
