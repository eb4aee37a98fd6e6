"""What the training tasks share: start a fit, and stop it as the other tasks are stopped."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from gradsam_exp.console import console
from gradsam_exp.errors import InputError


def check_resume(resume: str | None) -> None:
    """Refuse to resume from a file that does not exist.

    Raises:
        InputError: naming ``task.resume``.
    """
    if resume is not None and not Path(resume).is_file():
        raise InputError(f"task.resume={resume} does not exist; give a last.ckpt of an interrupted training")


def fit(trainer: pl.Trainer, model: pl.LightningModule, last: Path, **arguments: Any) -> None:
    """``trainer.fit``; Ctrl-C stays a `KeyboardInterrupt`, after a line that says how to go on.

    Args:
        last: the checkpoint to resume from, if an epoch was finished.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        # Checkpoints are our own and hold optimizer states, which weights_only would refuse.
        trainer.fit(model, weights_only=False, **arguments)
    except SystemExit as end:
        # Lightning answers Ctrl-C with exit code 1 and leaves the signal ignored.
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        if last.is_file():
            console.print(f"go on with the same command and task.resume={last}", soft_wrap=True)
        raise KeyboardInterrupt from end
