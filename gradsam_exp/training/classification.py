"""This module holds helpers of ``task=train``: data loaders, copied initial weights, accuracy per class."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypedDict

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Sampler
from torchmetrics.classification import MulticlassConfusionMatrix

from gradsam_exp.classifiers.checkpoints import ClassifierFile
from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.classifiers.transform import Transform
from gradsam_exp.data.base import ExampleDataset, Sample, SizeBuckets, View, collate
from gradsam_exp.data.shapes import Shapes
from gradsam_exp.errors import InputError
from gradsam_exp.types import ExampleBatch


class Accuracy(TypedDict):
    """The share of correct predictions on one split, in [0, 1].

    ``overall`` is that of all examples, ``macro`` the mean of the classes' (balanced accuracy), and ``classes``
    has that of each class by its name: None for a class without examples.
    """

    overall: float
    macro: float
    classes: dict[str, float | None]


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


class ShuffledSamples(FreshSamples):
    """ShuffledSamples gives the same indices in every epoch, in an order that torch's seed and the epoch set."""

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.seed = torch.initial_seed()

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng([self.seed, self.epoch]).permutation(self.length).tolist())


class RankBatches(Sampler[list[int]]):
    """RankBatches gives one of several processes its part of all batches: no image comes twice, none is lost.

    Every process takes the same number of steps: where the batches do not suffice, the last one is empty.

    Args:
        batches: gives the same batches in every process.
        rank: of this process, from 0. Where processes start later than this is made (``ddp_spawn``, ``ddp_fork``),
            torch.distributed says it when it is known.
        ranks: the number of processes.
    """

    def __init__(self, batches: Sampler[list[int]] | Sequence[list[int]], rank: int, ranks: int) -> None:
        self.batches, self.rank, self.ranks = batches, rank, ranks

    @property
    def sampler(self) -> Any:
        """Return what Lightning tells the epoch."""
        return getattr(self.batches, "sampler", None)

    def __iter__(self) -> Iterator[list[int]]:
        started = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if started else self.rank
        own = list(self.batches)[rank :: self.ranks]
        return iter(own + [[] for _ in range(len(self) - len(own))])

    def __len__(self) -> int:
        return math.ceil(len(self.batches) / self.ranks)  # type: ignore[arg-type]


class NetworkInput(View):
    """NetworkInput shows images without their masks and, if the network wants a size, as the network gets them.

    Then images are resized and normalised one by one where they are read, so that photographs of any sizes make
    one batch, and take no more memory than it does: ``Sample.image`` is float32.

    Args:
        transform: the classifier's.
    """

    def __init__(self, dataset: ExampleDataset, transform: Transform) -> None:
        super().__init__(dataset)
        self.transform = transform

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        image = sample.image if self.transform.size is None else self.transform(sample.image[None])[0]
        return replace(
            sample, image=image, examples=tuple(replace(e, mask=None, counted=None) for e in sample.examples)
        )

    def image_size(self, index: int) -> tuple[int, int]:
        """See `ExampleDataset.image_size`."""
        size = self.transform.size
        return self.dataset.image_size(index) if size is None else (size[1], size[0])


def training_loader(
    dataset: ExampleDataset,
    batch_size: int,
    *,
    workers: int,
    fresh: bool,
    pixels: int | None = None,
    epoch: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> DataLoader[Any]:
    """Read a data set in random order, in batches of one image size each.

    Args:
        workers: processes that draw or read images; 0 does it in this one.
        fresh: draw new images in every epoch, where the data set is drawn (`Shapes`).
        pixels: most pixels of a batch of read images; one image is never too many.
        epoch: the first one, from 0.
        rank, ranks: which of how many processes trains with it; see `RankBatches`.

    Raises:
        InputError: a batch is larger than a data set that is drawn, whose batches are all full.
    """
    batches: Sampler[list[int]]
    order: FreshSamples | SizeBuckets
    if isinstance(dataset, Shapes):
        if batch_size > len(dataset):
            raise InputError(f"task.batch_size={batch_size} is more than the {len(dataset)} training images")
        order = FreshSamples(len(dataset)) if fresh else ShuffledSamples(len(dataset))
        batches = BatchSampler(order, batch_size, drop_last=True)
    else:
        batches = order = SizeBuckets(dataset, batch_size, pixels=pixels, shuffle=True)
    order.set_epoch(epoch)  # Lightning tells it too late to an iterator of the first epoch, which is there already
    return _loader(dataset, batches, workers, rank, ranks)


def scoring_loader(
    dataset: ExampleDataset,
    batch_size: int,
    *,
    workers: int = 0,
    pixels: int | None = None,
    rank: int = 0,
    ranks: int = 1,
) -> DataLoader[Any]:
    """Read a data set in its order, in batches of one image size each; the parameters are `training_loader`'s."""
    return _loader(dataset, SizeBuckets(dataset, batch_size, pixels=pixels), workers, rank, ranks)


def _loader(
    dataset: Any, batches: Sampler[list[int]], workers: int, rank: int, ranks: int
) -> DataLoader[ExampleBatch]:
    own = batches if ranks == 1 else RankBatches(batches, rank, ranks)
    return DataLoader(dataset, batch_sampler=own, collate_fn=_collate, num_workers=workers)


def _collate(samples: Sequence[Sample]) -> ExampleBatch:
    if samples:
        return collate(samples)
    return ExampleBatch.one_each(
        torch.zeros(0, 3, 1, 1, dtype=torch.uint8), None, torch.zeros(0, dtype=torch.long), ()
    )


def copy_weights(source: ClassifierFile, model: ImageClassifier) -> None:
    """Copy another training's weights into a classifier; `InputError` if network or classes are not the same."""
    trained = source.load()
    for what in ("backbone_name", "class_names"):
        ours, theirs = getattr(model, what), getattr(trained, what)
        if ours != theirs:
            raise InputError(f"task.start is a classifier with {what}={theirs}, but this training has {ours}")
    model.backbone.load_state_dict(trained.backbone.state_dict())


@torch.no_grad()
def measure_accuracy(model: ImageClassifier, dataset: ExampleDataset, *, pixels: int | None = None) -> Accuracy:
    """Measure the share of correct predictions, on the CPU.

    Args:
        dataset: with the class ids of the model.
        pixels: most pixels of a batch.
    """
    confusion = MulticlassConfusionMatrix(len(model.class_names), sync_on_compute=False)  # this process alone
    model.eval().cpu()
    for batch in scoring_loader(NetworkInput(dataset, model.transform), 64, pixels=pixels):
        confusion.update(model(batch.images)[batch.image_of], batch.labels)
    counts = confusion.compute()
    correct, given = counts.diagonal(), counts.sum(1)
    shares = correct / given  # NaN for a class without examples
    classes = [round(share, 4) if number else None for share, number in zip(shares.tolist(), given, strict=True)]
    return {
        "overall": float(correct.sum() / given.sum()),
        "macro": float(shares.nanmean()),
        "classes": dict(zip(model.class_names, classes, strict=True)),
    }
