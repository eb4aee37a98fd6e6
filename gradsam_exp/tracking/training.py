"""This module shows a training in a logger: its curve as it goes, accuracies and weights at its end."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from gradsam_exp.config import Config
from gradsam_exp.engine.session import Job
from gradsam_exp.runs import folder as results
from gradsam_exp.tracking.content import Heading, as_written, flat_training_config, weights_name
from gradsam_exp.tracking.session import deliver, open_run, place_of
from gradsam_exp.tracking.settings import LocalRun, LocalSettings, Settings, WandbSettings
from gradsam_exp.tracking.upload import warn
from gradsam_exp.training.classification import Accuracy
from gradsam_exp.weights import file_digest

if TYPE_CHECKING:
    from wandb import Run


class TrainingRun(Logger, ABC):
    """Logs what Lightning trains, and cannot fail: after the first error it warns and logs no more.

    Attributes:
        seen_at: after `close`, what to do to see it; see `gradsam_exp.tracking.session.record`.
    """

    def __init__(self, title: str, config: Config, job: Job) -> None:
        super().__init__()
        self.title, self.job = title, job
        self.seen_at: str | None = None
        self._works = getattr(rank_zero_only, "rank", 0) == 0
        self._guarded(lambda: self._open(_heading(config, job)))

    @property
    def name(self) -> str:
        """Tells Lightning a name."""
        return self.title

    @property
    def version(self) -> str:
        """Tells Lightning nothing: it makes no folder of this."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Log nothing: the configuration is known."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log one point of the curve."""
        self._guarded(lambda: self._log(metrics, step))

    def log_result(self, accuracies: Mapping[str, Accuracy], weights: Path) -> None:
        """Log accuracies by split and class, and the weights.

        There are ``test_accuracy``, ``test_macro_accuracy`` and, of each class with images,
        ``test_accuracy_<class>``: no name of a class makes two of these one.
        """
        self._guarded(lambda: self._conclude(accuracies, weights))

    def close(self, *, failed: bool) -> None:
        """End the run; if the training has not failed, say how to see it."""
        self._guarded(lambda: self._close(failed=failed))

    @abstractmethod
    def _open(self, heading: Heading) -> None: ...

    @abstractmethod
    def _log(self, metrics: Mapping[str, float], step: int | None) -> None: ...

    @abstractmethod
    def _conclude(self, accuracies: Mapping[str, Accuracy], weights: Path) -> None: ...

    @abstractmethod
    def _close(self, *, failed: bool) -> None: ...

    def _guarded(self, log: Callable[[], object]) -> None:
        if not self._works:
            return
        try:
            log()
        except Exception as error:  # a view must not cost a training, whatever happens in it
            self._works = False
            warn(f"not used any more ({type(error).__name__}: {error}); the training goes on", self.title)


class WandbTraining(TrainingRun):
    """Logs to W&B; the weights are an artifact."""

    def __init__(self, settings: WandbSettings, config: Config, job: Job) -> None:
        self.settings = settings
        self._run: Run
        super().__init__(settings.title, config, job)

    def _open(self, heading: Heading) -> None:
        self._run = open_run(self.settings, self.job, heading)
        for name, summary in (("train/loss", "min"), ("val/loss", "min"), ("val/accuracy", "max")):
            self._run.define_metric(name, summary=summary)

    def _log(self, metrics: Mapping[str, float], step: int | None) -> None:
        self._run.log(dict(metrics), step=step)

    def _conclude(self, accuracies: Mapping[str, Accuracy], weights: Path) -> None:
        from gradsam_exp.tracking.artifacts import weights_artifact  # noqa: PLC0415  (imports wandb)

        digest = file_digest(weights)
        self._run.summary.update(_numbers(accuracies))
        self._run.config.update({"classifier_artifact": weights_name(digest), "classifier_digest": digest})
        self._run.log_artifact(weights_artifact(weights, digest, accuracy=dict(accuracies)))

    def _close(self, *, failed: bool) -> None:
        place = place_of(self._run)
        self._run.finish(exit_code=int(failed))
        if not failed:
            self.seen_at = deliver(self.settings, self.job, place)


class LocalTraining(TrainingRun):
    """Logs to a local logger; the weights stay where they are."""

    def __init__(self, settings: LocalSettings, config: Config, job: Job) -> None:
        self.settings = settings
        self._run: LocalRun
        super().__init__(settings.title, config, job)

    def _open(self, heading: Heading) -> None:
        self._run = self.settings.open(self.job, heading)

    def _log(self, metrics: Mapping[str, float], step: int | None) -> None:
        self._run.log(metrics, step or 0)

    def _conclude(self, accuracies: Mapping[str, Accuracy], weights: Path) -> None:
        self._run.conclude(_numbers(accuracies), {})

    def _close(self, *, failed: bool) -> None:
        self._run.close(failed=failed)
        if not failed and self.job.sweep is None:
            self.seen_at = self.settings.seen_with(self.job.folder)


def _heading(config: Config, job: Job) -> Heading:
    described = as_written(flat_training_config(config), results.Run(job.folder), flat_training_config)
    network = config.model.get("backbone") or config.model.get("name") or config.model["source"]
    return Heading.of(job, config, tags=[str(network), config.data["name"]], described=described)


def _numbers(accuracies: Mapping[str, Accuracy]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for split, values in accuracies.items():
        of_classes = values["classes"].items()
        numbers |= {f"{split}_accuracy_{name}": value for name, value in of_classes if value is not None}
        numbers |= {f"{split}_accuracy": values["overall"], f"{split}_macro_accuracy": values["macro"]}
    return numbers


@contextmanager
def track_training(settings: Settings | None, config: Config, job: Job) -> Iterator[TrainingRun | None]:
    """Open a logger's run as long as the block lasts; it is None where none is wanted."""
    if settings is None:
        yield None
        return
    run: TrainingRun
    if isinstance(settings, WandbSettings):
        run = WandbTraining(settings, config, job)
    else:
        run = LocalTraining(settings, config, job)
    failed = True
    try:
        yield run
        failed = False
    finally:
        run.close(failed=failed)
