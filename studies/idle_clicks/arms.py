"""This module says which segmenters the study compares, and trains those that are not there yet."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from gradsam_exp.app.composing import compose
from gradsam_exp.config import Config
from gradsam_exp.console import console
from gradsam_exp.engine.session import Job
from gradsam_exp.errors import InputError
from gradsam_exp.tasks import train_sam
from gradsam_exp.weights import open_weights

RECIPE = (
    "task=train_sam",
    "task.start=shipped:compact_drawn",
    "task.frozen_encoder=true",
    "task.steps=150",
    "task.steps_per_epoch=150",
    "task.batch_size=2",
    "task.targets=6",
    "task.learning_rate=1.5e-3",
    "task.average_decay=0.98",
    "task.plain_share=0",
    "trainer.precision=32-true",
    "+trainer.limit_val_batches=0",
)
"""Of all arms; what is given on the command line comes after it."""


@dataclass(frozen=True)
class Arm:
    """An arm is a training in which so many steps show idle clicks of one kind, points that correct nothing.

    Attributes:
        kind: of the idle clicks: ``background`` or ``foreground``; empty where there are none.
        share: of the steps, in [0, 1].
    """

    kind: str = ""
    share: float = 0.0

    @property
    def name(self) -> str:
        """Names the arm, as tables do."""
        return f"{self.kind} {self.share:.0%}" if self.kind else "none"

    @property
    def overrides(self) -> tuple[str, ...]:
        """Tells the training what is this arm's own."""
        return (f"task.idle_{self.kind}={self.share}",) if self.kind else ()

    def file(self, folder: Path, seed: int) -> Path:
        """Names the file of the weights that one training leaves."""
        return folder / f"{self.name.replace(' ', '-').removesuffix('%')}-seed{seed}.safetensors"


NONE = Arm()
DOSES = (NONE, *(Arm("background", share) for share in (0.05, 0.1, 0.2, 0.4)))
CONTROL = Arm("foreground", 0.4)
"""As many idle clicks as the last of `DOSES` has, on the target."""
ARMS = (*DOSES, CONTROL)


def recipe(given: Sequence[str], arm: Arm, seed: int) -> Config:
    """Compose the configuration of one training.

    Args:
        given: overrides of the command line.

    Raises:
        InputError: a name, key or value is not known or does not fit.
    """
    return compose(("logger=none", *RECIPE, *given, *arm.overrides, f"task.seed={seed}"))


def train_arm(config: Config, path: Path) -> None:
    """Train one arm, unless its weights are there; they appear whole or not at all.

    Args:
        config: see `recipe`.
        path: of the weights.

    Raises:
        InputError: the weights that are there were trained by another recipe, or something given is wrong.
    """
    if path.is_file():
        check_recipe(config, path)
        return
    folder = path.with_suffix(".training")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = perf_counter()
    train_sam.run(config, Job(folder))
    (folder / "compact.safetensors").replace(path)
    shutil.rmtree(folder)
    console.print(f"{path.stem}: trained in {perf_counter() - started:.0f} s", soft_wrap=True)


def check_recipe(config: Config, path: Path) -> None:
    """Raise `InputError` if weights were trained by another recipe than this, which their header tells."""
    header = open_weights(path, key="arm").header
    facts = json.loads(json.dumps({key: value for key, value in config.task.items() if key in header}))
    other = [key for key, value in facts.items() if key != "architecture" and header[key] != value]
    if other:
        key = other[0]
        raise InputError(
            f"{path} was trained with task.{key}={header[key]}, not {facts[key]}; "
            "give another output_root, or delete the file"
        )
