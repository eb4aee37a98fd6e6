"""``task=train``: train the classifier, keep the best epoch, say how good it is per class."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import pytorch_lightning as pl
import torch
from pydantic import Field
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import Logger
from rich.table import Table
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from gradsam_exp.classifiers.checkpoints import ClassifierFile, find_classifier, save_classifier
from gradsam_exp.classifiers.classifier import ImageClassifier, check_trainable
from gradsam_exp.classifiers.transform import Transform
from gradsam_exp.config import Config, chosen_model
from gradsam_exp.console import console
from gradsam_exp.data.base import ImageDataset, SizeBuckets, collate, loader
from gradsam_exp.data.shapes import Shapes
from gradsam_exp.engine.plan import find_dataset
from gradsam_exp.engine.session import Job
from gradsam_exp.errors import InputError
from gradsam_exp.registry import build_checked, check_value
from gradsam_exp.runs import folder as results
from gradsam_exp.tracking.settings import wandb_settings
from gradsam_exp.tracking.training import track_training
from gradsam_exp.training.fitting import check_resume, fit
from gradsam_exp.training.sampling import FreshSamples

Positive = Annotated[int, Field(ge=1)]


def run(config: Config, job: Job) -> float:
    """Train on the data's ``train`` split, choose the epoch on ``val``, report ``val`` and ``test`` accuracy.

    Returns:
        The best epoch's accuracy on ``val``.
    """
    return build_checked("task", train, config.task, config=config, job=job)


def train(
    config: Config,
    job: Job,
    *,
    epochs: Positive = 36,
    batch_size: Positive = 64,
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3,
    weight_decay: Annotated[float, Field(ge=0)] = 0.05,
    flip: bool = True,
    fresh: bool = True,
    patience: Positive | None = 12,
    workers: Annotated[int, Field(ge=0)] = 1,
    start: str | None = None,
    resume: str | None = None,
) -> float:
    """See ``conf/task/train.yaml``."""
    folder = job.folder
    check_resume(resume)
    tracker = wandb_settings(config.logger)
    chosen_model(config)
    start_from = None if start is None else find_classifier(start, key="task.start")
    pl.seed_everything(config.model.get("seed", 0), verbose=False)
    train_set, val_set = find_dataset(config, "train"), find_dataset(config, "val")
    size = _size(config.model.get("size"))
    width, height = train_set.image_size(0)
    check_trainable(config.model["backbone"], len(train_set.class_names), size or (height, width))
    model = ImageClassifier(
        config.model["backbone"],
        train_set.class_names,
        Transform(size=size),
        pretrained=config.model.get("pretrained", False),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        flip=flip,
    )
    if start_from is not None:
        _copy_weights(start_from, model)
    best = ModelCheckpoint(
        dirpath=folder / "checkpoints", filename="best", monitor="val/loss", save_last=True,
        enable_version_counter=False,
    )  # fmt: skip
    callbacks: list[pl.Callback] = [best, RichProgressBar(leave=True)]
    if patience is not None:
        callbacks.append(EarlyStopping("val/loss", patience=patience))
    with track_training(tracker, config, folder, overrides=job.overrides, sweep=job.sweep) as tracked:
        loggers: list[Logger] = [pl.loggers.CSVLogger(str(folder), name="", version="log")]
        trainer = pl.Trainer(
            **config.trainer,
            max_epochs=epochs,
            callbacks=callbacks,
            logger=loggers if tracked is None else [*loggers, tracked],
            log_every_n_steps=20,
            enable_model_summary=False,
        )
        batches = _training_loader(train_set, batch_size, workers, fresh)
        if resume is not None:
            _check_length(resume, epochs * len(batches))
        fit(
            trainer,
            model,
            folder / "checkpoints" / "last.ckpt",
            train_dataloaders=batches,
            val_dataloaders=loader(val_set, batch_size, workers=workers),
            ckpt_path=resume,
        )
        state = torch.load(best.best_model_path, map_location="cpu", weights_only=False)["state_dict"]
        model.load_state_dict(state)
        accuracies = {split: accuracy_by_class(model, find_dataset(config, split)) for split in ("val", "test")}
        weights = save_classifier(model, folder / "classifier.safetensors", accuracy=accuracies)
        results.write_json(folder / "accuracy.json", accuracies)
        results.write_json(
            folder / "provenance.json",
            results.provenance(
                config=asdict(config),
                digests={"train": train_set.fingerprint, "val": val_set.fingerprint},
                seeds={"model.seed": config.model.get("seed", 0), "data.seed": config.data.get("seed", 0)},
                device=str(trainer.strategy.root_device),
            ),
        )
        if tracked is not None:
            tracked.log_result(accuracies, weights)
    _say(accuracies, folder, [o for o in job.overrides if o.startswith("model=")])
    if tracked is not None and tracked.seen_at:
        console.print(f"W&B: {tracked.seen_at}", soft_wrap=True)
    return accuracies["val"]["all"]


def _size(given: Any) -> tuple[int, int] | None:
    """``model.size``, checked."""
    if given is None:
        return None
    try:
        return check_value("model.size", tuple[Positive, Positive], given)
    except InputError as error:
        raise InputError(f"{error}; give [height,width] in pixels, or null for the images' own") from error


def _copy_weights(source: ClassifierFile, model: ImageClassifier) -> None:
    """Start from another training's weights, which must be of the same network and classes."""
    trained = source.load()
    for what in ("backbone_name", "class_names"):
        ours, theirs = getattr(model, what), getattr(trained, what)
        if ours != theirs:
            raise InputError(f"task.start is a classifier with {what}={theirs}, but this training has {ours}")
    model.backbone.load_state_dict(trained.backbone.state_dict())


def _check_length(resume: str, steps: int) -> None:
    """The learning rate follows a schedule over the whole training: it can't be resumed into another length."""
    before = torch.load(resume, map_location="cpu", weights_only=False)["lr_schedulers"][0]["total_steps"]
    if before != steps:
        raise InputError(
            f"task.resume={resume} is a training of {before} steps, but these settings make {steps}: "
            "resume with the same task.epochs, task.batch_size and data"
        )


def _training_loader(dataset: ImageDataset, batch_size: int, workers: int, fresh: bool) -> DataLoader[Any]:
    keep: dict[str, Any] = {"collate_fn": collate, "num_workers": workers, "persistent_workers": False}
    if isinstance(dataset, Shapes):
        sampler = FreshSamples(len(dataset)) if fresh else None
        return DataLoader(dataset, batch_size, shuffle=sampler is None, sampler=sampler, drop_last=True, **keep)
    return DataLoader(dataset, batch_sampler=SizeBuckets(dataset, batch_size, shuffle=True), **keep)


@torch.no_grad()
def accuracy_by_class(model: ImageClassifier, dataset: ImageDataset) -> dict[str, float]:
    """Share of correct predictions, for ``all`` images and for each class."""
    names = model.class_names
    overall = MulticlassAccuracy(len(names), average="micro")
    by_class = MulticlassAccuracy(len(names), average="none")
    model.eval().cpu()
    for batch in loader(dataset, 64):
        logits = model(batch.images)
        overall.update(logits, batch.labels)
        by_class.update(logits, batch.labels)
    values = zip(names, by_class.compute().tolist(), strict=True)
    return {"all": float(overall.compute()), **{name: round(value, 4) for name, value in values}}


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
