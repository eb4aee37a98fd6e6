"""This module holds helpers of ``task=train``: data loader, copied initial weights, accuracy per class."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler
from torchmetrics.classification import MulticlassAccuracy

from gradsam_exp.classifiers.checkpoints import ClassifierFile
from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.data.base import ExampleDataset, SizeBuckets, collate, loader
from gradsam_exp.data.shapes import Shapes
from gradsam_exp.errors import InputError


class FreshSamples(Sampler[int]):
    """FreshSamples gives new indices in every epoch, for data sets that can draw any image.

    Epoch ``e`` starts at ``e·length``. Lightning calls `set_epoch`; epoch 0 is the data set as it is.
    """

    def __init__(self, length: int) -> None:
        self.length, self.epoch = length, 0

    def set_epoch(self, epoch: int) -> None:
        """Move on to the given epoch's indices."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.epoch * self.length, (self.epoch + 1) * self.length))

    def __len__(self) -> int:
        return self.length


def training_loader(dataset: ExampleDataset, batch_size: int, *, workers: int, fresh: bool) -> DataLoader[Any]:
    """Read a data set in random order, in batches of one image size each.

    Args:
        workers: processes that draw or read images; 0 does it in this one.
        fresh: draw new images in every epoch, where the data set is drawn (`Shapes`).
    """
    keep: dict[str, Any] = {"collate_fn": collate, "num_workers": workers, "persistent_workers": False}
    if isinstance(dataset, Shapes):
        sampler = FreshSamples(len(dataset)) if fresh else None
        return DataLoader(dataset, batch_size, shuffle=sampler is None, sampler=sampler, drop_last=True, **keep)
    return DataLoader(dataset, batch_sampler=SizeBuckets(dataset, batch_size, shuffle=True), **keep)


def copy_weights(source: ClassifierFile, model: ImageClassifier) -> None:
    """Copy another training's weights into a classifier; `InputError` if network or classes are not the same."""
    trained = source.load()
    for what in ("backbone_name", "class_names"):
        ours, theirs = getattr(model, what), getattr(trained, what)
        if ours != theirs:
            raise InputError(f"task.start is a classifier with {what}={theirs}, but this training has {ours}")
    model.backbone.load_state_dict(trained.backbone.state_dict())


def check_length(checkpoint: Mapping[str, Any], steps: int, resume: str) -> None:
    """Raise `InputError` unless a checkpoint's training was planned, with its learning rate, for so many steps."""
    before = checkpoint["lr_schedulers"][0]["total_steps"]
    if before != steps:
        raise InputError(
            f"task.resume={resume} is a training of {before} steps, but these settings make {steps}: "
            "resume with the same task.epochs, task.batch_size and data"
        )


@torch.no_grad()
def accuracy_by_class(model: ImageClassifier, dataset: ExampleDataset) -> dict[str, float]:
    """Measure the share of correct predictions, for ``all`` images and for each class, on the CPU."""
    names = model.class_names
    overall = MulticlassAccuracy(len(names), average="micro")
    by_class = MulticlassAccuracy(len(names), average="none")
    model.eval().cpu()
    for batch in loader(dataset, 64):
        logits = model(batch.own_images)
        overall.update(logits, batch.labels)
        by_class.update(logits, batch.labels)
    values = zip(names, by_class.compute().tolist(), strict=True)
    return {"all": float(overall.compute()), **{name: round(value, 4) for name, value in values}}
