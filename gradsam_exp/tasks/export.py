"""``task=export`` writes the built-in shapes as files, in the layout of ``data=synthetic_shapes``."""

from pathlib import Path
from typing import Literal

from gradsam_exp.config import Config
from gradsam_exp.console import console
from gradsam_exp.data.shapes import Crowded, Shapes
from gradsam_exp.data.synthetic_shapes import export
from gradsam_exp.engine.plan import find_dataset
from gradsam_exp.engine.session import Job
from gradsam_exp.errors import InputError
from gradsam_exp.registry import build_checked


def run(config: Config, job: Job) -> None:
    """Write the splits of ``task.splits``.

    Raises:
        InputError: the data is not ``shapes``, or has several shapes an image.
    """
    build_checked("task", write, config.task, config=config, job=job)


def write(
    config: Config, job: Job, *, to: str | None = None, splits: list[Literal["train", "val", "test"]]
) -> None:
    """See ``conf/task/export.yaml``."""
    root = Path(to).expanduser() if to is not None else job.folder / "shapes"
    for split in splits:
        dataset = find_dataset(config, split)
        if not isinstance(dataset, Shapes):
            raise InputError(f"task=export writes data=shapes (without limit), not data={config.data['name']}")
        if isinstance(dataset, Crowded):
            raise InputError("task=export writes one shape an image: data.difficulty=crowded has up to three")
        export(dataset, root)
        console.print(f"{len(dataset)} {split} images → {root}")
    console.print(f"use them: python run.py data=synthetic_shapes data.root={root}", soft_wrap=True)
