"""This module shows an evaluation in a logger while it is being made: the mean IoU of the images so far."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from gradsam_exp.engine.pipeline import PipelineResult
from gradsam_exp.engine.preparation import Prepared
from gradsam_exp.engine.session import Job
from gradsam_exp.reports.gallery import ious_of
from gradsam_exp.tracking.content import Heading
from gradsam_exp.tracking.session import open_run
from gradsam_exp.tracking.settings import LocalRun, Settings, WandbSettings
from gradsam_exp.tracking.upload import warn

if TYPE_CHECKING:
    import wandb

AFTER_S = 10.0  # shorter runs are shown when they are done
EVERY_S = 2.0  # between two points of the curve
SO_FAR = "miou_so_far"


class Live:
    """Logs the mean IoU so far against the number of examples; cannot fail: after an error it logs no more.

    It opens the logger's run when the first point is due, `gradsam_exp.tracking.evaluation` fills it at the end.

    Attributes:
        wandb, local: the open run, of either kind.
    """

    def __init__(self, settings: Settings, job: Job, heading: Heading) -> None:
        self.settings, self.job, self.heading = settings, job, heading
        self.wandb: wandb.Run | None = None
        self.local: LocalRun | None = None
        self._next = time.monotonic() + AFTER_S
        self._sum, self._count, self._works = 0.0, 0, True

    def __call__(self, part: Prepared, result: PipelineResult) -> None:
        """Count a chunk that is done; log a point if one is due."""
        if not self._works:
            return
        ious = ious_of(part, result)
        self._sum += float(ious.nansum())
        self._count += int(ious.isfinite().sum())
        if not self._count or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EVERY_S
        try:
            self._log()
        except Exception as error:  # a view must not cost the run, whatever happens in it
            self._works = False
            warn(f"no curve ({type(error).__name__}: {error}); the run goes on", self.settings.title)

    def _log(self) -> None:
        point = {SO_FAR: self._sum / self._count}
        if isinstance(self.settings, WandbSettings):
            if self.wandb is None:
                self.wandb = open_run(self.settings, self.job, self.heading)
                self.wandb.define_metric(SO_FAR, step_metric="examples_so_far", summary="none")
            self.wandb.log({**point, "examples_so_far": self._count})
        else:
            if self.local is None:
                self.local = self.settings.open(self.job, self.heading)
            self.local.log(point, self._count)

    def __enter__(self) -> Live:
        """Do nothing."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the logger's run as one that failed, if it is open and the evaluation has failed."""
        if kind is None:
            return
        with suppress(Exception):
            if self.wandb is not None:
                self.wandb.finish(exit_code=1)
            if self.local is not None:
                self.local.close(failed=True)
