"""This module runs Lightning's fit for both trainings, and safely loads and checks a checkpoint to resume from."""

import inspect
import math
import shutil
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor, nn

from gradsam_exp.errors import InputError, did_you_mean, first_line
from gradsam_exp.weights import not_finite, require_finite, shape_differences

NOTHING_KEPT = "trainer.fast_dev_run: a few batches were trained and validated; no weights are kept"
Say = Callable[[str], None]
_INSTEAD = {
    "max_epochs": "task.epochs (task.steps of task=train_sam)",
    "limit_train_batches": "task.steps_per_epoch",
    "logger": "logger=wandb, mlflow, tensorboard or none",
}


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
        return pl.Trainer(**given, **{**own, "callbacks": [*own.get("callbacks", ()), _OwnSignals()]})
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise InputError(f"trainer: {first_line(error)}") from error


class SeededEpochs(pl.Callback):
    """SeededEpochs seeds Python's, NumPy's and torch's random numbers at each epoch's first batch.

    What is drawn then depends on the seed, the epoch and the process alone: not on what was drawn before, such as
    by an interrupted training's first epochs, nor on the number of workers that read data.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, _: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed, if this is an epoch's first batch; workers have started before."""
        if batch_idx == 0:
            own = np.random.SeedSequence([self.seed, trainer.current_epoch, trainer.global_rank])
            pl.seed_everything(int(own.generate_state(1)[0]), verbose=False)


class KeptEpochs(Checkpoint):
    """KeptEpochs keeps the last whole epoch in ``last.ckpt``, and the one of the lowest loss in ``best.ckpt``.

    An epoch after which a weight or the loss is not a finite number is not kept, and is the last. A training that
    is resumed in another folder takes the best epoch so far along; one that was stopped early does not go on.

    Args:
        folder: where the two files are written.
        monitor: name of the logged loss by which the best epoch is chosen; None keeps only the last.

    Attributes:
        best: the lowest loss so far; None before there is one.
        diverged: what was not finite after which epoch, if the training has ended so.

    Raises:
        InputError: while it trains, if a training diverges of which no epoch is to be used; before it does, if the
            training to resume was planned for another number of steps.
    """

    def __init__(self, folder: Path, monitor: str | None = None) -> None:
        self.last, self.best_path, self.monitor = folder / "last.ckpt", folder / "best.ckpt", monitor
        self.best: float | None = None
        self.diverged: str | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint of the training holds of this."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` has returned."""
        self.best = state_dict["best"]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Check the training's length, where the learning rate depends on it from the start."""
        if self.monitor is not None:
            steps = int(trainer.estimated_stepping_batches)  # as `ImageClassifier.configure_optimizers` has it
            check_length(checkpoint, steps, str(trainer.ckpt_path))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bring the best epoch of a resumed training into this folder; do not go on if it was stopped early."""
        if trainer.ckpt_path is None:
            return
        before = Path(trainer.ckpt_path).with_name("best.ckpt")
        if self.best is not None and trainer.is_global_zero and before.resolve() != self.best_path.resolve():
            self.best_path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(before, self.best_path)
        stoppers = trainer.early_stopping_callbacks
        trainer.should_stop = any(one is not None and one.wait_count >= one.patience for one in stoppers)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the epoch, or end the training; one that a limit has cut short is not kept."""
        if getattr(trainer, "fast_dev_run", False) or not trainer.is_last_batch:
            return
        loss = None if self.monitor is None else trainer.callback_metrics.get(self.monitor)
        bad = not_finite(pl_module.state_dict())
        if loss is not None and not math.isfinite(loss):
            what = f"{self.monitor} is {float(loss)}"
        else:
            what = f"{bad or 'a weight of another process'} is not finite"
        if not trainer.strategy.reduce_boolean_decision(bad is None and (loss is None or math.isfinite(loss))):
            self.diverged, trainer.should_stop = f"{what} after epoch {trainer.current_epoch + 1}", True
            if self.best is None:
                raise InputError(f"the training has diverged: {self.diverged}; give a lower task.learning_rate")
            return
        if loss is not None and (self.best is None or float(loss) < self.best):
            self.best = float(loss)
            trainer.save_checkpoint(self.best_path)
        trainer.save_checkpoint(self.last)


def check_length(checkpoint: Mapping[str, Any], steps: int, resume: str) -> None:
    """Raise `InputError` unless a checkpoint's training was planned, with its learning rate, for so many steps."""
    before = checkpoint["lr_schedulers"][0]["total_steps"]
    if before != steps:
        raise InputError(
            f"task.resume={resume} is a training of {before} steps, but these settings make {steps}: "
            "resume with the same task.epochs, task.batch_size, trainer and data"
        )


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
    kept = "KeptEpochs"
    if not isinstance(checkpoint, dict) or not needed <= checkpoint.keys() or kept not in checkpoint["callbacks"]:
        raise InputError(
            f"task.resume={resume} does not hold the state of a training; "
            "give a last.ckpt that this task has written, with this version"
        )
    require_finite(checkpoint["state_dict"], f"task.resume={resume}")
    best = Path(resume).with_name("best.ckpt")
    if checkpoint["callbacks"][kept]["best"] is not None and not best.is_file():
        raise InputError(
            f"task.resume={resume}: {best}, the training's best epoch so far, does not exist; copy both"
        )
    return checkpoint


def check_same_network(checkpoint: Mapping[str, Any], model: pl.LightningModule, resume: str) -> None:
    """Raise `InputError` with the first weight whose name or shape is not the same in checkpoint and model."""
    for name, theirs, ours in shape_differences(checkpoint["state_dict"], model.state_dict()):
        raise InputError(
            f"task.resume={resume} is a training of another network: its {name} is {theirs or 'missing'}, "
            f"here it is {ours or 'missing'}; resume with the same task, model and data"
        )


class _OwnSignals(pl.Callback):
    """Puts back the handler of SIGTERM that there was before Lightning's.

    Lightning's lets processes that train together wait for one another, while some of them wait for a batch.
    """

    def __init__(self) -> None:
        self.before = signal.getsignal(signal.SIGTERM)

    def on_sanity_check_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Before the first validation."""
        self._put_back()

    def on_train_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Where there is none."""
        self._put_back()

    def _put_back(self) -> None:
        if callable(self.before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.before)


def fit(
    trainer: pl.Trainer, model: pl.LightningModule, *, resume: str | None, last: Path, say: Say, **data: Any
) -> None:
    """Train a model; Ctrl-C, or a signal handled like it, is raised again after a line that says how to go on.

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
        interrupt = end.__context__
        if not isinstance(interrupt, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        if goes_on := last if last.is_file() else resume:
            say(f"go on with the same command and task.resume={goes_on}")
        raise interrupt from None


Network = TypeVar("Network", bound=nn.Module)
MOVED = 0.01  # of the largest output, by which outputs may differ after saving


def save_answering(
    model: Network,
    save: Callable[[bool], Path],
    load: Callable[[], Network],
    answer: Callable[[Network], Tensor],
    *,
    classes: bool,
) -> tuple[Network, bool]:
    """Save a network so that what is loaded again answers as it did: in half, or else in single precision.

    Outputs may differ by a hundredth of the largest.

    Args:
        save: writes the file; True asks for single precision.
        load: reads it.
        answer: computes outputs of a batch of real input.
        classes: the largest output of each row must be the same one, too.

    Returns:
        The network as it was loaded, in eval mode, and whether it was saved in single precision.

    Raises:
        InputError: outputs differ even in single precision, or a weight is not finite; no file is left.
    """
    require_finite(model.state_dict(), "the training has diverged")
    with torch.no_grad():
        before = answer(model.eval())
        for exact in (False, True):
            path = save(exact)
            loaded = load().eval()
            after = answer(loaded)
            moved = float((after - before).abs().max() / before.abs().max().clamp(min=1e-30))
            if moved <= MOVED and not (classes and (after.argmax(1) != before.argmax(1)).any()):
                return loaded, exact
    path.unlink()
    raise InputError(
        f"{path}: what was saved does not compute what was trained (outputs move by {moved:.1%} of the largest); "
        "use the checkpoint of the best epoch, and report this network"
    )
