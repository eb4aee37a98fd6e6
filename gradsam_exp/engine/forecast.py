"""This module says what runs would make, take and cost, without making them: ``dry_run=true``."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from gradsam_exp.data.base import Limited
from gradsam_exp.engine.plan import Plan
from gradsam_exp.engine.session import Session
from gradsam_exp.engine.store import Store

FEW = 8
"""Images that are really run, in a folder that is deleted, to measure seconds and bytes."""
KEPT = ("data", "explain", "encode", "everything", "faithfulness")
"""Clocks of stages whose things are kept in the store; the others run for every image of every run."""


@dataclass
class Forecast:
    """Adds up what one run, or the different runs of a sweep, would take.

    Attributes:
        jobs: how many were looked at.
        runs: identities of the different ones.
        chunks: of each kind of thing, by its key in the store: how many images it holds, and whether it is there.
        bytes: that the missing ones would take.
        seconds: expected on this machine.
        free: bytes on the store's disk; None without a store.
    """

    jobs: int = 0
    runs: set[str] = field(default_factory=set)
    chunks: dict[str, dict[str, tuple[int, bool]]] = field(default_factory=dict)
    bytes: float = 0.0
    seconds: float = 0.0
    free: int | None = None

    def add(self, planned: Plan) -> None:
        """Look at one more run; a few of its images are made, to measure them, if it is not one of the others."""
        self.jobs += 1
        if planned.identity in self.runs:
            return
        self.runs.add(planned.identity)
        missing: dict[str, int] = {}  # images by the kind of thing
        preparation = planned.preparation()
        for stage, key, images in preparation.places(planned.dataset):
            known = self.chunks.setdefault(stage.name, {})
            if key not in known:
                known[key] = images, planned.store.has(stage.name, key)
                missing[stage.name] = missing.get(stage.name, 0) + (0 if known[key][1] else images)
        seconds, sizes = measured(planned)
        clocks = {stage.clock: stage.name for stage in preparation.stages if stage.counted}
        for clock, each in seconds.items():
            images = missing.get(clocks.get(clock, ""), 0) if clock in KEPT else len(planned.dataset)
            self.seconds += each * images
        if planned.store.root is not None:
            self.bytes += sum(sizes.get(name, 0.0) * images for name, images in missing.items())
            self.free = shutil.disk_usage(planned.store.root).free

    def lines(self) -> Iterator[str]:
        """Say it."""
        if self.jobs > 1:
            yield f"{self.jobs} jobs, {len(self.runs)} different runs"
        for name, chunks in self.chunks.items():
            there = sum(images for images, known in chunks.values() if known)
            yield f"{name}: {there} images in the store, {sum(n for n, _ in chunks.values()) - there} missing"
        if self.free is not None:
            fits = "fits" if self.bytes < self.free else "DOES NOT FIT"
            grown = f"{self.bytes / 1e6:.1f} MB"
            yield f"the store would grow by {grown}; {self.free / 1e9:.1f} GB are free: it {fits}"
        yield f"about {self.seconds:.0f} s on this machine as busy as it is now, from {FEW} images of each run"
        yield "dry_run=true: nothing was run or kept"


def forecast_of(session: Session, whole: Path) -> Forecast:
    """Return the forecast that a run, or the jobs of a sweep, in the folder ``whole`` add to."""
    return session.keep("forecast", str(whole), Forecast)


def measured(planned: Plan) -> tuple[dict[str, float], dict[str, float]]:
    """Run a few images in a folder that is deleted: seconds an image by clock, bytes an image by kind of thing."""
    with tempfile.TemporaryDirectory() as folder:
        few = replace(planned, dataset=Limited(planned.dataset, FEW), store=Store(Path(folder)))
        number = len(few.dataset)
        spent = few.experiment().run(few.dataset, batch_size=planned.config.batch_size).seconds
        sizes = {
            kind.name: sum(path.stat().st_size for path in kind.glob("*.safetensors")) / number
            for kind in Path(folder).iterdir()
        }
    return {clock: value / number for clock, value in spent.items()}, sizes
