"""This module runs Lightning's fit for both trainings, and safely loads and checks a checkpoint to resume from."""

import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from gradsam_exp.errors import InputError
from gradsam_exp.weights import shape_differences

Say = Callable[[str], None]


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
