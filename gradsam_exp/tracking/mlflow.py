"""This module writes runs into a local folder of MLflow (``logger=mlflow``); it needs the extra ``mlflow``."""

import os
import re
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from filelock import FileLock
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from gradsam_exp.engine.session import Job
from gradsam_exp.tracking.content import Heading

AT_ONCE = 100  # parameters that MLflow takes in one call
_REFUSED = re.compile(r"[^\w. :-]", re.ASCII)  # in the name of a number


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MlflowSettings:
    """Holds the settings of ``conf/logger/mlflow.yaml``.

    Attributes:
        experiment: MLflow's name for a collection of runs; it is made if it is not there.
        root: the local folder.
    """

    name: Literal["mlflow"] = "mlflow"
    experiment: str = "gradsam_exp"
    root: Path = Path("mlruns")
    title: ClassVar[str] = "MLflow"
    package: ClassVar[str] = "mlflow"

    def open(self, job: Job, heading: Heading) -> "MlflowRun":
        """Begin a run."""
        return MlflowRun(self, heading)

    def seen_with(self, folder: Path) -> str:
        """Give the command that shows all runs; MLflow's page comes with the whole package."""
        return (
            f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {shlex.quote(str(self.root.resolve()))}"
        )


class MlflowRun:
    """Writes one run: parameters and tags when it begins, numbers and files as they come."""

    def __init__(self, settings: MlflowSettings, heading: Heading) -> None:
        # Without this MLflow wants a database, which processes of several machines cannot share.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.entities import Param, RunTag  # noqa: PLC0415  (of an extra; seconds)
        from mlflow.tracking import MlflowClient  # noqa: PLC0415

        settings.root.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(tracking_uri=settings.root.resolve().as_uri())
        with FileLock(settings.root / ".experiments.lock"):  # jobs of a sweep begin at once
            known = self._client.get_experiment_by_name(settings.experiment)
            number = known.experiment_id if known else self._client.create_experiment(settings.experiment)
        tags = {"task": heading.task, **({"group": heading.group} if heading.group else {})}
        tags |= {f"tag.{tag}": "true" for tag in heading.tags}
        self.id = self._client.create_run(number, run_name=heading.name).info.run_id
        self._client.log_batch(self.id, tags=[RunTag(key, value) for key, value in tags.items()])
        params = [Param(key, str(value)) for key, value in heading.described.items()]
        for start in range(0, len(params), AT_ONCE):
            self._client.log_batch(self.id, params=params[start : start + AT_ONCE])

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log one point of each curve."""
        from mlflow.entities import Metric  # noqa: PLC0415

        now = int(time.time() * 1000)
        # A folder of files has no place for val/accuracy beside val/accuracy/star.
        plain = {_REFUSED.sub("_", name.replace("/", ".")): value for name, value in numbers.items()}
        points = [Metric(name, value, now, step) for name, value in plain.items()]
        self._client.log_batch(self.id, metrics=points)

    def conclude(self, numbers: Mapping[str, float], files: Mapping[str, Path]) -> None:
        """Log the last numbers, and keep a copy of the files."""
        self.log(numbers, 0)
        for path in files.values():
            self._client.log_artifact(self.id, str(path))

    def close(self, *, failed: bool) -> None:
        """End the run."""
        self._client.set_terminated(self.id, "FAILED" if failed else "FINISHED")
