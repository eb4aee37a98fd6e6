"""This module knows the files of one run, what stands in each, and how it is written; no other module opens them.

A run's folder may come from anybody, so its files are read by `gradsam_exp.runs.reading`.
"""

from __future__ import annotations

import logging
import math
import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradsam_exp.errors import InputError, harmless
from gradsam_exp.runs.overrides import key_of, unescaped
from gradsam_exp.runs.provenance import PROVENANCE
from gradsam_exp.runs.reading import MOST_TABLE, Files
from gradsam_exp.runs.saved_config import without_resolvers
from gradsam_exp.runs.writing import replaced, write_json

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
_HYDRA = ".hydra"
OVERRIDES = f"{_HYDRA}/overrides.yaml"
CONFIG = f"{_HYDRA}/config.yaml"
METRICS = "metrics.json"
PREPARED = "prepared.json"
PER_IMAGE = "per_image.parquet"
PREDICTIONS = "predictions.parquet"
COUNTS = "counts.parquet"
PROBLEMS = "problems.csv"  # files of the data set that were left out
FIGURES = "figures"
LOG = "run.log"
LOCK = ".lock"  # of the command that writes there
TABLES = (PER_IMAGE, PREDICTIONS)
STATUSES = ("finished", "failed", "interrupted")


@dataclass(frozen=True)
class Outcome:
    """Tells how a run ended.

    Attributes:
        status: one of `STATUSES`.
        identity: equal identities mean equal results; None if there are none.
        metrics: by name, each with ``mean``, ``ci95`` and ``n``; None stands for NaN.
        error: what went wrong.
        upper_bound: whether the run looks at the true masks.
    """

    status: str
    identity: str | None
    metrics: Mapping[str, Mapping[str, Any]]
    error: str = ""
    upper_bound: bool = False


@dataclass(frozen=True)
class Run:
    """Reads and writes the folder of one run. Each file is read when it is first asked for, and once.

    Reading raises `InputError`, naming the file, if that is missing or damaged.
    """

    folder: Path

    # Reading

    @property
    def _files(self) -> Files:
        return Files(self.folder)

    @cached_property
    def outcome(self) -> Outcome:
        """Tells how the run ended, from ``metrics.json``, whose presence means that all other files are there."""
        content = self._files.json(METRICS, "status", "identity", "metrics")
        status, identity, error = content["status"], content["identity"], content.get("error", "")
        if status not in STATUSES:
            raise self._files.damaged(METRICS, f"has the status {str(status)[:40]!r}")
        if not isinstance(error, str) or not (identity is None or isinstance(identity, str)):
            raise self._files.damaged(METRICS, "has an error or identity that is no text")
        if not isinstance(content["metrics"], dict):
            raise self._files.damaged(METRICS, "names no metrics")
        for name, metric in content["metrics"].items():
            if not _is_summary(metric):
                raise self._files.damaged(METRICS, f"says no mean, ci95 and n of {name}")
        return Outcome(status, identity, content["metrics"], error, content.get("upper_bound") is True)

    @property
    def has_ended(self) -> bool:
        """Says whether the run has left a record of how it ended."""
        return (self.folder / METRICS).exists()

    @property
    def identity(self) -> str | None:
        """Reads the identity of a finished run; None if it did not finish or the record is damaged."""
        try:
            return self.outcome.identity if self.outcome.status == "finished" else None
        except InputError:
            return None

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Tells where the results come from: code, versions, machine, seeds, digests, command."""
        content = self._files.json(PROVENANCE, "digests")
        if not isinstance(content["digests"], dict):
            raise self._files.damaged(PROVENANCE, "has no digests")
        return content

    @property
    def data_digest(self) -> str:
        """Reads the digest of the images; runs are compared on the same images only."""
        found = self.provenance["digests"].get("data")
        if not isinstance(found, str):
            raise self._files.damaged(PROVENANCE, "has no digest of the data")
        return found

    @property
    def backbone(self) -> str:
        """Names the classifier's network (``resnet18``); empty if an older run does not say."""
        return str(self.provenance.get("backbone", ""))

    @cached_property
    def overrides(self) -> list[str]:
        """Reads the job's part of the command line, as it was given."""
        content = self._files.yaml(OVERRIDES)
        if not isinstance(content, list):
            raise self._files.damaged(OVERRIDES, "cannot be read (it is no list)")
        return [str(override) for override in content]

    @property
    def given(self) -> dict[str, str]:
        """Lists the overrides' values by key."""
        pairs = [unescaped(override).lstrip("+~").partition("=") for override in self.overrides]
        return {key: value for key, _, value in pairs}

    @property
    def command(self) -> str:
        """Writes the command that makes this run alone again, quoted for a shell."""
        return self._command([o for o in self.overrides if key_of(o) != "resume"])

    @property
    def exploring(self) -> str:
        """Writes the command that opens the explorer with this run's setting, quoted for a shell."""
        kept = [o for o in self.overrides if key_of(o).partition(".")[0] not in ("task", "resume", "name")]
        return self._command(["task=explore", *kept])

    @staticmethod
    def _command(overrides: list[str]) -> str:
        if any(override.startswith("experiment=") for override in overrides):
            overrides = [*overrides, "hydra.mode=RUN"]  # an experiment is a sweep otherwise
        return shlex.join(["python", "run.py", *overrides])

    @cached_property
    def config(self) -> dict[str, Any]:
        """Reads the configuration; a string that calls a resolver (``${oc.env:X}``) stays as it is written."""
        content = self._files.yaml(CONFIG)
        if not isinstance(content, dict):
            raise self._files.damaged(CONFIG, "cannot be read (it is no mapping)")
        with self._files.reading(CONFIG):
            return without_resolvers(content)

    @property
    def task(self) -> str:
        """Names the task that was run."""
        node = self.config.get("task")
        return str((node.get("name") if isinstance(node, Mapping) else node) or "evaluate")

    @cached_property
    def images(self) -> pd.DataFrame:
        """Reads the per-example table, by ``example_id``; not to be changed, as others get the same."""
        table = self._files.table(PER_IMAGE)
        if table.index.has_duplicates or not len(table):
            raise self._files.damaged(PER_IMAGE, "has an image twice" if len(table) else "has no rows")
        return table

    @property
    def has_images(self) -> bool:
        """Says whether the run has a per-image table."""
        return (self.folder / PER_IMAGE).is_file()

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Reads prompts and masks by ``example_id``; `gradsam_exp.engine.predictions` decodes them."""
        return self._files.table(PREDICTIONS)

    @cached_property
    def prepared(self) -> list[dict[str, Any]]:
        """Tells what the run took from the store: of each chunk ``example_ids`` and ``stored`` places by stage."""
        chunks = self._files.json(PREPARED, "chunks")["chunks"]
        if not isinstance(chunks, list) or not all(map(_is_chunk, chunks)):
            raise self._files.damaged(PREPARED, "is not understood")
        return chunks

    @property
    def figures(self) -> Path:
        """Names the folder for drawings, which need not exist."""
        return self.folder / FIGURES

    def drawings(self) -> dict[str, Path]:
        """Find the drawings as PNG files, by name."""
        return {path.stem: path for path in sorted(self.figures.glob("*.png"))}

    def results(self) -> dict[str, Path]:
        """Find the files that another machine needs to understand a finished run, by their name there."""
        names = [*TABLES, COUNTS, METRICS, PROVENANCE, CONFIG, OVERRIDES]
        found = {Path(name).name: self.folder / name for name in names}
        return {name: path for name, path in found.items() if path.is_file()}

    @cached_property
    def problem(self) -> str | None:
        """Says what keeps the run out of a comparison: the file and what is wrong with it; None if nothing does.

        Of other tasks' runs only what says what they are is looked at.
        """
        try:
            _ = self.overrides
            if self.task != "evaluate" and not self.has_ended:
                return None
            if self.outcome.status == "finished" and self.task == "evaluate":
                _ = self.data_digest
                self._check_images()
        except InputError as error:
            return str(error).replace(f"{self.folder}/", "")
        return None

    @property
    def is_whole(self) -> bool:
        """Says whether a finished run's files exist and pass a quick check for damage."""
        from pyarrow import ArrowException  # noqa: PLC0415
        from pyarrow.parquet import read_metadata  # noqa: PLC0415

        try:
            _ = self.outcome, self.provenance
            rows = {read_metadata(self._files.path(name, MOST_TABLE)).num_rows for name in TABLES}
            problem = "its tables are of different images" if len(rows) > 1 else ""
        except (InputError, OSError, ValueError, ArrowException) as error:
            problem = str(error)
        if problem:
            log.warning("%s is not taken from there, as it is damaged (%s): made again", self.folder, problem)
        return not problem

    def _check_images(self) -> None:
        import numpy as np  # noqa: PLC0415  (a sweep's parent starts without)
        from pandas.api.types import is_numeric_dtype  # noqa: PLC0415

        missing = {"class_name", "predicted_class", "iou", "predicted_iou"} - set(self.images)
        if missing:
            raise self._files.damaged(PER_IMAGE, f"has no {', '.join(sorted(missing))}")
        for name in ("iou", "predicted_iou"):
            values = self.images[name].dropna()
            if len(values) and (not is_numeric_dtype(values) or np.isinf(values.to_numpy("float64")).any()):
                raise self._files.damaged(PER_IMAGE, f"has values of {name} that are no finite numbers")

    # Writing

    def begin(self) -> None:
        """Forget the outcome of an earlier run in this folder: this one has not ended."""
        (self.folder / METRICS).unlink(missing_ok=True)
        self._forget()

    def finish(
        self,
        *,
        identity: str,
        metrics: Mapping[str, Mapping[str, Any]],
        per_image: pd.DataFrame,
        predictions: pd.DataFrame,
        counts: pd.DataFrame | None = None,
        prepared: Sequence[Mapping[str, Any]],
        provenance: Mapping[str, Any],
        upper_bound: bool,
        note: str = "",
    ) -> None:
        """Write the tables, what was taken from the store, the provenance, and ``metrics.json`` last.

        A ``note`` says what has to be known about all intervals.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        tables = {PER_IMAGE: per_image, PREDICTIONS: predictions}
        (self.folder / COUNTS).unlink(missing_ok=True)
        if counts is not None and len(counts):
            tables[COUNTS] = counts
        for name, table in tables.items():
            with replaced(self.folder / name) as partial:
                table.to_parquet(partial, index=False)
        write_json(self.folder / PREPARED, {"chunks": list(prepared)}, indent=None)
        write_json(self.folder / PROVENANCE, provenance)
        found = {"identity": identity, "status": "finished", "upper_bound": upper_bound}
        found |= {"note": note} if note else {}
        found["metrics"] = metrics
        write_json(self.folder / METRICS, found)
        self._forget()

    def keep_problems(self, problems: Sequence[tuple[Path, str, str]]) -> None:
        """Write the files that were left out as ``problems.csv``: path, what is wrong, what to do."""
        import pandas as pd  # noqa: PLC0415  (a sweep's parent starts without)

        shown = [[harmless(str(value)) for value in row] for row in problems]
        with replaced(self.folder / PROBLEMS) as partial:
            pd.DataFrame(shown, columns=["file", "what", "hint"]).to_csv(partial, index=False)

    def reuse(self, earlier: Run) -> None:
        """Copy a whole run with its drawings; the provenance says from where."""
        if earlier.figures.is_dir():
            shutil.copytree(earlier.figures, self.figures, dirs_exist_ok=True)
        write_json(self.folder / PROVENANCE, {**earlier.provenance, "reused_from": str(earlier.folder)})
        for name in (*TABLES, COUNTS, PREPARED, PROBLEMS, METRICS):
            if (earlier.folder / name).is_file():
                with replaced(self.folder / name) as partial:
                    shutil.copyfile(earlier.folder / name, partial)
        self._forget()

    def finish_without_metrics(self, status: str = "finished", **more: str) -> None:
        """Record that a task without metrics of its own did finish."""
        write_json(self.folder / METRICS, {"identity": None, "status": status, **more, "metrics": {}})
        self._forget()

    def fail(self, error: BaseException) -> None:
        """Record that the run did not finish, and why, where its metrics would be."""
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        said = harmless(" ".join(str(error).split()))
        with suppress(OSError):  # of a full disk, which has no room for it either
            self.folder.mkdir(parents=True, exist_ok=True)
            self.finish_without_metrics(status, error=said or type(error).__name__)

    @property
    def has_begun(self) -> bool:
        """Says whether the folder holds more than what was asked for and the log."""
        return any(path.name not in (_HYDRA, METRICS, LOG, LOCK) for path in self.folder.glob("*"))

    def discard(self) -> None:
        """Remove what every run's folder holds, and then the folder unless there is more in it."""
        shutil.rmtree(self.folder / _HYDRA, ignore_errors=True)
        for name in (METRICS, LOG):
            (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()
        self._forget()

    def _forget(self) -> None:
        """Read the files anew when they are next asked for."""
        for name in [name for name in self.__dict__ if name != "folder"]:
            del self.__dict__[name]


def _is_summary(metric: Any) -> bool:
    """Whether a metric's ``mean`` and ``ci95`` are finite numbers or None, and ``n`` is a count."""
    match metric:
        case {"mean": mean, "ci95": [low, high], "n": int(n)}:
            known = [value for value in (mean, low, high) if value is not None]
            return n >= 0 and all(type(value) in (int, float) and math.isfinite(value) for value in known)
    return False


def _is_chunk(chunk: Any) -> bool:
    """Whether an entry of ``prepared.json`` names its examples (or images) and where their stages are stored."""
    match chunk:
        case {"example_ids": [*ids], "stored": {**stored}} | {"image_ids": [*ids], "stored": {**stored}}:
            return all(isinstance(text, str) for text in [*ids, *stored.values()])
    return False
