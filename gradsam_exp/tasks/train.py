"""``task=train`` trains a classifier, keeps the best epoch and shows its accuracy for each class."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from pytorch_lightning.callbacks import EarlyStopping, RichProgressBar
from pytorch_lightning.utilities import rank_zero_only
from rich.table import Table
from torch import nn

from gradsam_exp.classifiers.base import CLASSIFIERS
from gradsam_exp.classifiers.checkpoints import find_classifier, save_classifier
from gradsam_exp.classifiers.classifier import ImageClassifier, build_backbone, check_trainable
from gradsam_exp.classifiers.described import Described
from gradsam_exp.classifiers.networks import Architecture, build_network
from gradsam_exp.classifiers.transform import Transform
from gradsam_exp.config import SPLITS, Config, chosen_model
from gradsam_exp.console import console
from gradsam_exp.data.base import ExampleDataset, Limited
from gradsam_exp.data.shapes import Shapes
from gradsam_exp.engine.data_check import report_data_check
from gradsam_exp.engine.plan import NOT_OF_THE_NETWORK, find_dataset
from gradsam_exp.engine.session import Job
from gradsam_exp.errors import InputError
from gradsam_exp.registry import build_checked, check_value
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.provenance import write_provenance
from gradsam_exp.runs.writing import write_json
from gradsam_exp.tracking.settings import logger_settings
from gradsam_exp.tracking.training import track_training
from gradsam_exp.training.classification import (
    Accuracy,
    NetworkInput,
    copy_weights,
    measure_accuracy,
    scoring_loader,
    training_loader,
)
from gradsam_exp.training.fitting import (
    NOTHING_KEPT,
    KeptEpochs,
    SeededEpochs,
    build_trainer,
    check_same_network,
    fit,
    read_checkpoint,
    save_answering,
)
from gradsam_exp.training.splits import align_splits, balanced_weights, split_remarks
from gradsam_exp.weights.transfer import DownloadLimits

Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
_OF_TRAINING = {
    "task", "trainer", "name", "split", "resume", "experiment",
    "model.backbone", "model.checkpoint", "model.pretrained", "model.seed", "model.size",
}  # fmt: skip


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class TrainSettings:
    """Holds the settings of ``conf/task/train.yaml``, where their defaults are.

    Attributes:
        epochs: how often the training images are seen, at most.
        batch_size: images a step.
        learning_rate, weight_decay: AdamW's; the rate is the peak of a one-cycle schedule over the whole training.
        flip: mirror half of the training images.
        fresh: built-in data: new images every epoch instead of the same ones.
        freeze: modules that keep their weights, by dotted name; ``all``: all but the last layer.
        mixup, cutmix: α of the shares in which images of a batch are mixed; 0: never. See `ImageClassifier`.
        class_weights: ``balanced`` weighs classes in the loss inversely to their number of examples.
        batch_pixels: most pixels of a batch, as the network sees them; one image is never too many.
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
    freeze: str | Sequence[str]
    mixup: Annotated[float, Field(ge=0)]
    cutmix: Annotated[float, Field(ge=0)]
    class_weights: Literal["none", "balanced"]
    batch_pixels: Positive
    patience: Positive | None
    workers: Annotated[int, Field(ge=0, le=256)]
    start: str | None
    resume: str | None


def run(config: Config, job: Job) -> float | None:
    """Train on the data's ``train`` split, choose the epoch on ``val``, report ``val`` and ``test`` accuracy.

    Returns:
        The best epoch's accuracy on ``val``; None where nothing was measured, as with ``trainer.fast_dev_run``.

    Raises:
        InputError: before the training starts, if something given is wrong; if the training diverges.
    """
    if getattr(rank_zero_only, "rank", 0):  # one of several processes that train; the first one speaks for all
        console.quiet = True
    if config.data.get("check"):
        report_data_check(config, SPLITS)
        return None
    settings, folder = build_checked("task", TrainSettings, config.task), job.folder
    build_checked("download", DownloadLimits, config.download)
    checkpoint = read_checkpoint(settings.resume)
    tracker = logger_settings(config.logger)
    chosen_model(config)
    start_from = None if settings.start is None else find_classifier(settings.start, key="task.start")
    seed = check_value("model.seed", Seed, config.model.get("seed", 0))
    pl.seed_everything(seed, verbose=False)
    kept = KeptEpochs(folder / "checkpoints", "val/loss")
    trainer = _trainer(config, settings, job, kept)
    splits = align_splits({split: find_dataset(config, split) for split in SPLITS})
    train_set, val_set = splits["train"], splits["val"]
    weights = balanced_weights(train_set) if settings.class_weights == "balanced" else None
    model = _classifier(config, settings, train_set, weights)
    if start_from is not None:
        copy_weights(start_from, model)
    reading: dict[str, Any] = {
        "workers": settings.workers,
        "pixels": settings.batch_pixels,
        "rank": trainer.global_rank,
        "ranks": trainer.world_size,
    }
    shown = train_set if isinstance(train_set, Shapes) else NetworkInput(train_set, model.transform)
    first = 0 if checkpoint is None else checkpoint["epoch"] + 1
    batches = training_loader(shown, settings.batch_size, fresh=settings.fresh, epoch=first, **reading)
    if checkpoint is not None:
        assert settings.resume is not None
        check_same_network(checkpoint, model, settings.resume)
    for line in [*split_remarks(splits), *_size_remark(shown, settings)]:
        console.print(line, soft_wrap=True)
    with track_training(tracker, config, job) as tracked:
        if tracked is not None and trainer.loggers:
            trainer.loggers = [*trainer.loggers, tracked]
        fit(
            trainer,
            model,
            resume=settings.resume,
            last=kept.last,
            say=partial(console.print, soft_wrap=True),
            train_dataloaders=batches,
            val_dataloaders=scoring_loader(NetworkInput(val_set, model.transform), settings.batch_size, **reading),
        )
        if not trainer.is_global_zero:
            return None
        if config.trainer.get("fast_dev_run"):
            console.print(NOTHING_KEPT, soft_wrap=True)
            return None
        _load_best(kept, model)
        path = folder / "classifier.safetensors"
        problems = dict.fromkeys((p.path, p.what, p.hint) for data in splits.values() for p in data.problems)
        if problems:
            Run(folder).keep_problems(list(problems))
        accuracies = _save_and_score(model, path, splits, settings.batch_pixels)
        write_json(folder / "accuracy.json", accuracies)
        write_provenance(
            folder,
            config=asdict(config),
            digests={"train": train_set.digest, "val": val_set.digest},
            seeds={"model.seed": seed, "data.seed": config.data.get("seed", 0)},
            device=str(trainer.strategy.root_device),
        )
        if tracked is not None:
            tracked.log_result(accuracies, path)
    _say(accuracies, folder, next_command(job.overrides, path, foreign=config.model["source"] != "checkpoint"))
    if tracker is not None and tracked is not None and tracked.seen_at:
        console.print(f"{tracker.title}: {tracked.seen_at}", soft_wrap=True)
    return accuracies["val"]["overall"]


def _trainer(config: Config, settings: TrainSettings, job: Job, kept: KeptEpochs) -> pl.Trainer:
    """Lightning's trainer, before there are any data."""
    callbacks: list[pl.Callback] = [
        kept,
        SeededEpochs(config.model.get("seed", 0)),
        RichProgressBar(leave=True),
    ]
    if settings.patience is not None:
        callbacks.append(EarlyStopping("val/loss", patience=settings.patience, strict=False))
    trainer = build_trainer(
        config.trainer,
        max_epochs=settings.epochs,
        callbacks=callbacks,
        logger=pl.loggers.CSVLogger(str(job.folder), name="", version="log"),
        log_every_n_steps=20,
        enable_model_summary=False,
        use_distributed_sampler=False,  # `RankBatches` shares out batches
    )
    if trainer.world_size > 1 and job.sweep is not None:
        raise InputError(
            f"trainer.devices={config.trainer.get('devices')}: a job of a sweep trains in one process; "
            "use trainer.devices=1, or train without -m"
        )
    return trainer


def _load_best(kept: KeptEpochs, model: ImageClassifier) -> None:
    """Give the classifier the weights of the best epoch; `InputError` if there is none."""
    if kept.best is None:
        raise InputError(
            "no epoch was validated, so that there is none to choose: the trainer's limits (trainer.max_steps, "
            "max_time, limit_val_batches, check_val_every_n_epoch) must leave a whole one"
        )
    model.load_state_dict(torch.load(kept.best_path, map_location="cpu", weights_only=True)["state_dict"])
    if kept.diverged is not None:
        console.print(f"the training has diverged: {kept.diverged}; the best epoch before is kept", soft_wrap=True)


def _save_and_score(
    model: ImageClassifier, path: Path, splits: Mapping[str, ExampleDataset], pixels: int
) -> dict[str, Accuracy]:
    """Save a classifier, and measure the accuracies of what is loaded again, which must give the same logits."""
    some = NetworkInput(Limited(splits["val"], 64), model.transform)
    images = next(iter(scoring_loader(some, 64, pixels=pixels))).images
    loaded, exact = save_answering(
        model.cpu(),
        lambda exact: save_classifier(model, path, exact=exact),
        lambda: find_classifier(path).load(),
        lambda network: network(images),
        classes=True,
    )
    accuracies = {split: measure_accuracy(loaded, splits[split], pixels=pixels) for split in ("val", "test")}
    save_classifier(model, path, exact=exact, accuracy=accuracies)
    return accuracies


def _size_remark(shown: ExampleDataset, settings: TrainSettings) -> list[str]:
    """What to say if a batch cannot hold ``task.batch_size`` of the largest images."""
    if isinstance(shown, Shapes):
        return []
    width, height = _sizes(shown)[-1]
    fitting = max(1, settings.batch_pixels // (width * height))
    if fitting >= settings.batch_size:
        return []
    return [
        f"train: the network sees up to {width}×{height} px; batches of such images hold {fitting}, not "
        f"{settings.batch_size} (task.batch_pixels={settings.batch_pixels}); "
        "model.size=[height,width] makes them smaller"
    ]


def _classifier(
    config: Config, settings: TrainSettings, train_set: ExampleDataset, class_weights: Sequence[float] | None
) -> ImageClassifier:
    """The network to train, after a check that it can be trained on the images' sizes."""
    classes = len(train_set.class_names)
    build, start, architecture, place, transform = _network(config, classes)
    sizes = [train_set.image_size(0)] if isinstance(train_set, Shapes) else _sizes(train_set)
    for frame in dict.fromkeys(transform.size or (height, width) for width, height in sizes):
        check_trainable(build, place, (int(frame[0]), int(frame[1])))
    return ImageClassifier(
        architecture,
        train_set.class_names,
        transform,
        network=start(),
        freeze=[settings.freeze] if isinstance(settings.freeze, str) else settings.freeze,
        mixup=settings.mixup,
        cutmix=settings.cutmix,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        flip=settings.flip,
        class_weights=class_weights,
    )


Build = Callable[[], nn.Module]


def _network(config: Config, classes: int) -> tuple[Build, Build, Architecture, str, Transform]:
    """How the network is built: at random, and as training starts; of what, by which key; and its input."""
    model = config.model
    if model.get("source") == "checkpoint":
        backbone = model.get("backbone")
        if backbone is None:
            raise InputError("model.backbone is null: choose a network to train, such as model=resnet18")
        new = partial(build_backbone, backbone, classes)
        limits = build_checked("download", DownloadLimits, config.download)
        start = partial(new, pretrained=model.get("pretrained", False), limits=limits)
        return new, start, backbone, f"model.backbone={backbone}", Transform(size=_size(model.get("size")))
    source = CLASSIFIERS.build({key: value for key, value in model.items() if key not in NOT_OF_THE_NETWORK})
    place = f"model={model['source']}"
    if not isinstance(source, Described) or source.architecture is None:
        raise InputError(f"{place} is used as it is and cannot be trained: choose model=timm, for instance")
    architecture = source.architecture
    return (
        partial(build_network, architecture, classes),
        partial(source.network, classes),
        architecture,
        place,
        source.transform,
    )


def _sizes(dataset: ExampleDataset) -> list[tuple[int, int]]:
    """The first image's size, the narrowest, the lowest and the largest; ``(width, height)`` px."""
    sizes = [dataset.image_size(index) for index in range(len(dataset))]
    largest = max(sizes, key=lambda size: size[0] * size[1])
    return [sizes[0], min(sizes), min(sizes, key=lambda size: size[1]), largest]


def _size(given: Any) -> tuple[int, int] | None:
    """``model.size``, checked."""
    if given is None:
        return None
    try:
        return check_value("model.size", tuple[Positive, Positive], given)
    except InputError as error:
        raise InputError(f"{error}; give [height,width] in pixels, or null for the images' own") from error


def _say(accuracies: Mapping[str, Accuracy], folder: Path, command: str) -> None:
    """Print the accuracies, all examples' and the classes' mean apart from the classes, and what comes next."""
    table = Table(title="accuracy", title_justify="left", title_style="bold")
    table.add_column("class")
    for split in accuracies:
        table.add_column(split, justify="right")
    for name in next(iter(accuracies.values()))["classes"]:
        table.add_row(name, *(_shown(values["classes"][name]) for values in accuracies.values()))
    table.add_section()
    table.add_row("mean of the classes", *(_shown(values["macro"]) for values in accuracies.values()))
    table.add_row("all examples", *(_shown(values["overall"]) for values in accuracies.values()))
    console.print(table)
    console.print(f"{folder}\nuse it: {command}", soft_wrap=True)


def _shown(share: float | None) -> str:
    return "" if share is None else f"{share:.3f}"


def next_command(overrides: Sequence[str], weights: Path, *, foreign: bool = False) -> str:
    """Word the command, quoted for a shell, that evaluates the weights on the data they were trained on.

    Args:
        overrides: of the training; all are kept but those that only a training knows.
        foreign: the network is of another package, which the file says as well.
    """
    kept = [
        one
        for one in overrides
        if (key := one.lstrip("+~").partition("=")[0].partition("@")[0]) not in _OF_TRAINING
        and not key.startswith(("task.", "trainer.", "hydra."))
        and not (foreign and key.startswith("model"))
    ]
    kept += ["model=checkpoint"] if foreign else []
    return shlex.join(["python", "run.py", *kept, f"model.checkpoint={_as_value(str(weights))}"])


def _as_value(text: str) -> str:
    """A text as Hydra reads it on the command line: quoted unless it is plain."""
    if re.fullmatch(r"[\w./:-]+", text, re.ASCII):
        return text
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text) + "'"
