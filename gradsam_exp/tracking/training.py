"""The W&B run of a training: its curve as it goes, accuracies and weights at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from gradsam_exp.config import Config
from gradsam_exp.runs import folder as results
from gradsam_exp.tracking.artifacts import weights_artifact, weights_name
from gradsam_exp.tracking.content import as_written, flat_training_config, run_name
from gradsam_exp.tracking.session import Heading, deliver, open_run, place_of
from gradsam_exp.tracking.settings import WandbSettings
from gradsam_exp.tracking.upload import warn
from gradsam_exp.weights import file_digest

if TYPE_CHECKING:
    from wandb import Run


class TrainingRun(Logger):
    """A Lightning logger that can't fail: after the first error it warns and logs no more.

    Attributes:
        seen_at: after `close`, what to do to see it; see `gradsam_exp.tracking.session.record`.
    """

    def __init__(self, settings: WandbSettings, folder: Path, heading: Heading) -> None:
        super().__init__()
        self.settings, self.heading = settings, heading
        self.seen_at: str | None = None
        self._run: Run | None = None
        self._guarded(lambda: self._open(folder))

    @property
    def name(self) -> str:
        """For Lightning."""
        return "wandb"

    @property
    def version(self) -> str:
        """For Lightning."""
        return "" if self._run is None else self._run.id

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: the configuration is known."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """One point of the curve."""
        if (run := self._run) is not None:
            self._guarded(lambda: run.log(metrics, step=step))

    def log_result(self, accuracies: Mapping[str, Mapping[str, float]], weights: Path) -> None:
        """How good it has become: accuracies by split and class, and the weights as an artifact."""
        if (run := self._run) is None:
            return

        def log_all() -> None:
            digest = file_digest(weights)
            for split, values in accuracies.items():
                named = {f"{split}_accuracy{'' if key == 'all' else '_' + key}": v for key, v in values.items()}
                run.summary.update(named)
            run.config.update({"classifier_artifact": weights_name(digest), "classifier_digest": digest})
            run.log_artifact(weights_artifact(weights, digest, accuracy=dict(accuracies)))

        self._guarded(log_all)

    def close(self, *, failed: bool) -> None:
        """End it, and upload it if the training has not failed."""
        if (run := self._run) is None:
            return
        place = place_of(run)
        self._guarded(lambda: run.finish(exit_code=int(failed)))
        if self._run is not None and not failed:
            self.seen_at = deliver(self.settings, place, self.heading.sweep)

    def _open(self, folder: Path) -> None:
        if getattr(rank_zero_only, "rank", 0) != 0:
            return
        self._run = open_run(self.settings, folder, self.heading)
        for name, summary in (("train/loss", "min"), ("val/loss", "min"), ("val/accuracy", "max")):
            self._run.define_metric(name, summary=summary)

    def _guarded(self, log: Callable[[], object]) -> None:
        try:
            log()
        except Exception as error:  # a view must not cost a training, whatever happens in it
            self._run = None
            warn(f"not used any more ({type(error).__name__}: {error}); the training goes on")


@contextmanager
def track_training(
    settings: WandbSettings | None, config: Config, folder: Path, *, overrides: Sequence[str], sweep: Path | None
) -> Iterator[TrainingRun | None]:
    """A run that is open as long as the block; None where W&B is not wanted."""
    if settings is None:
        yield None
        return
    heading = Heading(
        name=run_name(overrides, config.name),
        job_type=config.task["name"],
        sweep=sweep,
        tags=[config.model["backbone"], config.data["name"]],
        config=as_written(flat_training_config(config), results.Run(folder), flat_training_config),
    )
    run = TrainingRun(settings, folder, heading)
    try:
        yield run
    except BaseException:
        run.close(failed=True)
        raise
    run.close(failed=False)
