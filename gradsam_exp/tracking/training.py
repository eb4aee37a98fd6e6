"""This module makes the W&B run of a training: its curve as it goes, accuracies and weights at its end."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from gradsam_exp.config import Config
from gradsam_exp.engine.session import Job
from gradsam_exp.runs import folder as results
from gradsam_exp.tracking.content import as_written, flat_training_config, weights_name
from gradsam_exp.tracking.session import deliver, open_run, place_of
from gradsam_exp.tracking.settings import WandbSettings
from gradsam_exp.tracking.upload import warn
from gradsam_exp.training.classification import Accuracy
from gradsam_exp.weights import file_digest

if TYPE_CHECKING:
    from wandb import Run


class TrainingRun(Logger):
    """Logs what Lightning trains to W&B, and cannot fail: after the first error it warns and logs no more.

    Attributes:
        seen_at: after `close`, what to do to see it; see `gradsam_exp.tracking.session.record`.
    """

    def __init__(self, settings: WandbSettings, config: Config, job: Job) -> None:
        super().__init__()
        self.settings, self.job = settings, job
        self.seen_at: str | None = None
        self._run: Run | None = None
        self._guarded(lambda: self._open(config))

    @property
    def name(self) -> str:
        """Tells Lightning a name."""
        return "wandb"

    @property
    def version(self) -> str:
        """Tells Lightning the run's id."""
        return "" if self._run is None else self._run.id

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Log nothing: the configuration is known."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log one point of the curve."""
        if (run := self._run) is not None:
            self._guarded(lambda: run.log(metrics, step=step))

    def log_result(self, accuracies: Mapping[str, Accuracy], weights: Path) -> None:
        """Log accuracies by split and class, and the weights as an artifact.

        The summary has ``test_accuracy``, ``test_macro_accuracy`` and, of each class with images,
        ``test_accuracy_<class>``: no name of a class makes two of these one.
        """
        if (run := self._run) is None:
            return

        def log_all() -> None:
            from gradsam_exp.tracking.artifacts import weights_artifact  # noqa: PLC0415  (imports wandb)

            digest = file_digest(weights)
            for split, values in accuracies.items():
                of_classes = values["classes"].items()
                run.summary.update({f"{split}_accuracy_{name}": v for name, v in of_classes if v is not None})
                run.summary.update({f"{split}_accuracy": values["overall"]})
                run.summary.update({f"{split}_macro_accuracy": values["macro"]})
            run.config.update({"classifier_artifact": weights_name(digest), "classifier_digest": digest})
            run.log_artifact(weights_artifact(weights, digest, accuracy=dict(accuracies)))

        self._guarded(log_all)

    def close(self, *, failed: bool) -> None:
        """End the run, and upload it if the training has not failed."""
        if (run := self._run) is None:
            return
        place = place_of(run)
        self._guarded(lambda: run.finish(exit_code=int(failed)))
        if self._run is not None and not failed:
            self.seen_at = deliver(self.settings, self.job, place)

    def _open(self, config: Config) -> None:
        if getattr(rank_zero_only, "rank", 0) != 0:
            return
        described = as_written(flat_training_config(config), results.Run(self.job.folder), flat_training_config)
        tags = [
            str(config.model.get("backbone") or config.model.get("name") or config.model["source"]),
            config.data["name"],
        ]
        self._run = open_run(self.settings, self.job, config, tags=tags, described=described)
        for name, summary in (("train/loss", "min"), ("val/loss", "min"), ("val/accuracy", "max")):
            self._run.define_metric(name, summary=summary)

    def _guarded(self, log: Callable[[], object]) -> None:
        try:
            log()
        except Exception as error:  # a view must not cost a training, whatever happens in it
            self._run = None
            warn(f"not used any more ({type(error).__name__}: {error}); the training goes on")


@contextmanager
def track_training(settings: WandbSettings | None, config: Config, job: Job) -> Iterator[TrainingRun | None]:
    """Open a W&B run as long as the block lasts; it is None where W&B is not wanted."""
    if settings is None:
        yield None
        return
    run, failed = TrainingRun(settings, config, job), True
    try:
        yield run
        failed = False
    finally:
        run.close(failed=failed)
