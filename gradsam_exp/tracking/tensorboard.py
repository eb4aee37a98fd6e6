"""This module writes runs for TensorBoard and its HParams page (``logger=tensorboard``); it needs that extra."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from gradsam_exp.engine.session import Job
from gradsam_exp.tracking.content import Heading

FOLDER = "tensorboard"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TensorboardSettings:
    """Holds the settings of ``conf/logger/tensorboard.yaml``, which has none but its name."""

    name: Literal["tensorboard"] = "tensorboard"
    title: ClassVar[str] = "TensorBoard"
    package: ClassVar[str] = "tensorboard"

    def open(self, job: Job, heading: Heading) -> "TensorboardRun":
        """Begin a run."""
        return TensorboardRun(job.folder / FOLDER, heading)

    def seen_with(self, folder: Path) -> str:
        """Give the command that shows the runs below a folder."""
        return f"tensorboard --logdir {shlex.quote(str(folder))}"


class TensorboardRun:
    """Writes one run's event files: curves as they come, HParams at its end."""

    def __init__(self, folder: Path, heading: Heading) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (of an extra; seconds)

        self._writer = SummaryWriter(str(folder))
        self._heading = heading

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log one point of each curve."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def conclude(self, numbers: Mapping[str, float], files: Mapping[str, Path]) -> None:
        """Log what the run depends on and its last numbers, for HParams, and the pictures among the files."""
        from matplotlib.image import imread  # noqa: PLC0415

        heading = self._heading
        own = {"run": heading.name, "task": heading.task, "tags": " ".join(heading.tags)}
        own |= {"group": heading.group} if heading.group else {}
        plain = {k: v if isinstance(v, bool | int | float) else str(v) for k, v in heading.described.items()}
        self._writer.add_hparams({**own, **plain}, dict(numbers), run_name=".")
        for name, path in files.items():
            if path.suffix == ".png":
                self._writer.add_image(name, imread(path)[:, :, :3], dataformats="HWC")

    def close(self, *, failed: bool) -> None:
        """End the run."""
        self._writer.close()
