"""This module runs Lightning's fit for both trainings, and safely loads and checks a checkpoint to resume from."""

import inspect
import math
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import ModelCheckpoint

from gradsam_exp.errors import InputError, did_you_mean, first_line
from gradsam_exp.weights import shape_differences

Say = Callable[[str], None]
_INSTEAD = {"max_epochs": "task.epochs", "logger": "logger=none or logger=wandb"}


def build_trainer(given: Mapping[str, Any], **own: Any) -> pl.Trainer:
    """Build Lightning's trainer from the config group ``trainer``.

    Args:
        own: further parameters, which the task sets.

    Raises:
        InputError: a parameter that the task sets itself, one that is not known, or a value that cannot be used.
    """
    known = inspect.signature(pl.Trainer).parameters
    for key in given:
        if key in own:
            instead = f"; say {_INSTEAD[key]}" if key in _INSTEAD else ""
            raise InputError(f"trainer.{key} is set by the task{instead}")
        if key not in known:
            raise InputError(f"trainer.{key} is not a parameter of Lightning's Trainer{did_you_mean(key, known)}")
    try:
        return pl.Trainer(**given, **own)
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise InputError(f"trainer: {first_line(error)}") from error


class BestEpoch(ModelCheckpoint):
    """BestEpoch keeps the epoch of the lowest ``val/loss``, and the last; a training that diverges is ended.

    An epoch whose ``val/loss`` is not a finite number is not kept, and is the last.

    Args:
        folder: where ``best.ckpt`` and ``last.ckpt`` are written.

    Attributes:
        diverged: the loss and number, from 1, of the epoch that ended the training so; None if none has.

    Raises:
        InputError: while it trains, if there is no epoch before that one.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "best", monitor="val/loss", save_last=True, enable_version_counter=False)
        self.diverged: tuple[float, int] | None = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the epoch, or end the training."""
        loss = float(trainer.callback_metrics.get("val/loss", 0.0))
        if trainer.sanity_checking or math.isfinite(loss):
            super().on_validation_end(trainer, pl_module)
            return
        self.diverged, trainer.should_stop = (loss, trainer.current_epoch + 1), True
        if not self.best_model_path:
            raise InputError(
                f"the training has diverged: val/loss is {loss} after epoch {trainer.current_epoch + 1}; "
                "give a lower task.learning_rate"
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the epoch if it is asked for here, unless the training has diverged."""
        if self.diverged is None:
            super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the last epoch, unless the training has diverged."""
        if self.diverged is None:
            super().on_train_end(trainer, pl_module)


def read_checkpoint(resume: str | None) -> Mapping[str, Any] | None:
    """Read Lightning's checkpoint that ``task.resume`` names, onto the CPU; None if there is nothing to resume.

    A checkpoint is a pickle, and a pickle can run any program while it is read. ``weights_only`` never does.

    Raises:
        InputError: the file does not exist or is no checkpoint of a training.
    """
    if resume is None:
        return None
    if not Path(resume).is_file():
        raise InputError(f"task.resume={resume} does not exist; give a last.ckpt of an interrupted training")
    try:
        checkpoint = torch.load(resume, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, and their texts advise to read it with weights_only=False
        raise InputError(
            f"task.resume={resume} is not a checkpoint of a training, or is damaged; "
            "give a last.ckpt that this task has written"
        ) from error
    needed = {"state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "loops", "callbacks"}
    if not isinstance(checkpoint, dict) or not needed <= checkpoint.keys():
        raise InputError(
            f"task.resume={resume} does not hold the state of a training; "
            "give a last.ckpt that this task has written"
        )
    return checkpoint


def check_same_network(checkpoint: Mapping[str, Any], model: pl.LightningModule, resume: str) -> None:
    """Raise `InputError` with the first weight whose name or shape is not the same in checkpoint and model."""
    for name, theirs, ours in shape_differences(checkpoint["state_dict"], model.state_dict()):
        raise InputError(
            f"task.resume={resume} is a training of another network: its {name} is {theirs or 'missing'}, "
            f"here it is {ours or 'missing'}; resume with the same task, model and data"
        )


def fit(
    trainer: pl.Trainer, model: pl.LightningModule, *, resume: str | None, last: Path, say: Say, **data: Any
) -> None:
    """Train a model; Ctrl-C raises `KeyboardInterrupt` after a line that says how to go on.

    Args:
        resume: a checkpoint to go on from.
        last: the checkpoint that the training writes after every epoch.
        data: the data loaders or the data module, as `pl.Trainer.fit` takes them.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(model, ckpt_path=resume, weights_only=True, **data)
    except SystemExit as end:
        # Lightning answers Ctrl-C with exit code 1 and leaves the signal ignored.
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        if last.is_file():
            say(f"go on with the same command and task.resume={last}")
        raise KeyboardInterrupt from end
