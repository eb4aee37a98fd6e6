"""``task=train`` trains a classifier, keeps the best epoch and shows its accuracy for each class."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytorch_lightning as pl
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import Logger
from rich.table import Table

from gradsam_exp.classifiers.checkpoints import find_classifier, save_classifier
from gradsam_exp.classifiers.classifier import ImageClassifier, check_trainable
from gradsam_exp.classifiers.transform import Transform
from gradsam_exp.config import Config, chosen_model
from gradsam_exp.console import console
from gradsam_exp.data.base import ExampleDataset, loader
from gradsam_exp.engine.plan import find_dataset
from gradsam_exp.engine.session import Job
from gradsam_exp.errors import InputError
from gradsam_exp.registry import build_checked, check_value
from gradsam_exp.runs.provenance import write_provenance
from gradsam_exp.runs.writing import write_json
from gradsam_exp.tracking.settings import wandb_settings
from gradsam_exp.tracking.training import track_training
from gradsam_exp.training.classification import accuracy_by_class, check_length, copy_weights, training_loader
from gradsam_exp.training.fitting import check_same_network, fit, read_checkpoint

Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class TrainSettings:
    """Holds the settings of ``conf/task/train.yaml``, where their defaults are.

    Attributes:
        epochs: how often the training images are seen, at most.
        batch_size: images a step.
        learning_rate, weight_decay: AdamW's; the rate is the peak of a one-cycle schedule over the whole training.
        flip: mirror half of the training images.
        fresh: built-in data: new images every epoch instead of the same ones.
        patience: epochs without a better validation loss before stopping; None never stops early.
        workers: processes that draw or read images.
        start: a classifier file whose weights are trained further; None starts anew.
        resume: a ``last.ckpt`` of an interrupted training.
    """

    epochs: Positive
    batch_size: Annotated[int, Field(ge=1, le=2**16)]
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    flip: bool
    fresh: bool
    patience: Positive | None
    workers: Annotated[int, Field(ge=0, le=256)]
    start: str | None
    resume: str | None


def run(config: Config, job: Job) -> float:
    """Train on the data's ``train`` split, choose the epoch on ``val``, report ``val`` and ``test`` accuracy.

    Returns:
        The best epoch's accuracy on ``val``.

    Raises:
        InputError: before the training starts, if something given is wrong.
    """
    settings, folder = build_checked("task", TrainSettings, config.task), job.folder
    checkpoint = read_checkpoint(settings.resume)
    tracker = wandb_settings(config.logger)
    chosen_model(config)
    start_from = None if settings.start is None else find_classifier(settings.start, key="task.start")
    pl.seed_everything(config.model.get("seed", 0), verbose=False)
    train_set, val_set = find_dataset(config, "train"), find_dataset(config, "val")
    model = _classifier(config, settings, train_set)
    if start_from is not None:
        copy_weights(start_from, model)
    batches = training_loader(train_set, settings.batch_size, workers=settings.workers, fresh=settings.fresh)
    if checkpoint is not None:
        assert settings.resume is not None
        check_same_network(checkpoint, model, settings.resume)
        check_length(checkpoint, settings.epochs * len(batches), settings.resume)
    best = ModelCheckpoint(
        dirpath=folder / "checkpoints", filename="best", monitor="val/loss", save_last=True,
        enable_version_counter=False,
    )  # fmt: skip
    callbacks: list[pl.Callback] = [best, RichProgressBar(leave=True)]
    if settings.patience is not None:
        callbacks.append(EarlyStopping("val/loss", patience=settings.patience))
    with track_training(tracker, config, job) as tracked:
        loggers: list[Logger] = [pl.loggers.CSVLogger(str(folder), name="", version="log")]
        trainer = pl.Trainer(
            **config.trainer,
            max_epochs=settings.epochs,
            callbacks=callbacks,
            logger=loggers if tracked is None else [*loggers, tracked],
            log_every_n_steps=20,
            enable_model_summary=False,
        )
        fit(
            trainer,
            model,
            resume=settings.resume,
            last=folder / "checkpoints" / "last.ckpt",
            say=partial(console.print, soft_wrap=True),
            train_dataloaders=batches,
            val_dataloaders=loader(val_set, settings.batch_size, workers=settings.workers),
        )
        model.load_state_dict(
            torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
        )
        accuracies = {split: accuracy_by_class(model, find_dataset(config, split)) for split in ("val", "test")}
        weights = save_classifier(model, folder / "classifier.safetensors", accuracy=accuracies)
        write_json(folder / "accuracy.json", accuracies)
        write_provenance(
            folder,
            config=asdict(config),
            digests={"train": train_set.digest, "val": val_set.digest},
            seeds={"model.seed": config.model.get("seed", 0), "data.seed": config.data.get("seed", 0)},
            device=str(trainer.strategy.root_device),
        )
        if tracked is not None:
            tracked.log_result(accuracies, weights)
    _say(accuracies, folder, [o for o in job.overrides if o.startswith("model=")])
    if tracked is not None and tracked.seen_at:
        console.print(f"W&B: {tracked.seen_at}", soft_wrap=True)
    return accuracies["val"]["all"]


def _classifier(config: Config, settings: TrainSettings, train_set: ExampleDataset) -> ImageClassifier:
    """The network to train, after a check that it can be trained on such images."""
    backbone, size = config.model["backbone"], _size(config.model.get("size"))
    width, height = train_set.image_size(0)
    check_trainable(backbone, len(train_set.class_names), size or (height, width))
    return ImageClassifier(
        backbone,
        train_set.class_names,
        Transform(size=size),
        pretrained=config.model.get("pretrained", False),
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        flip=settings.flip,
    )


def _size(given: Any) -> tuple[int, int] | None:
    """``model.size``, checked."""
    if given is None:
        return None
    try:
        return check_value("model.size", tuple[Positive, Positive], given)
    except InputError as error:
        raise InputError(f"{error}; give [height,width] in pixels, or null for the images' own") from error


def _say(accuracies: dict[str, dict[str, float]], folder: Path, chosen: list[str]) -> None:
    table = Table(title="accuracy", title_justify="left", title_style="bold")
    table.add_column("class")
    for split in accuracies:
        table.add_column(split, justify="right")
    for name in next(iter(accuracies.values())):
        table.add_row(name, *(f"{values[name]:.3f}" for values in accuracies.values()))
    console.print(table)
    command = " ".join(["python run.py", *chosen, f"model.checkpoint={folder / 'classifier.safetensors'}"])
    console.print(f"{folder}\nuse it: {command}", soft_wrap=True)
