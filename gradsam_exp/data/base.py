"""This module defines the data set interface, and a loader that puts only images of equal size into a batch."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gradsam_exp.data.pictures import FileProblem
from gradsam_exp.errors import InputError, did_you_mean, harmless, some
from gradsam_exp.registry import Registry
from gradsam_exp.types import ExampleBatch


@dataclass(frozen=True)
class Example:
    """An example is one object in an image, or one class that the image is said to show.

    Attributes:
        label: class id; −1 unknown.
        mask: the object, if it is known.
        counted: the pixels that count; None: all.
        name: tells it from the image's other examples; empty if the image never has several.
        rank: the class to explain by its rank among the classifier's scores, 0 for the best; None: not asked for.
    """

    label: int
    mask: Bool[Tensor, "height width"] | None = None
    counted: Bool[Tensor, "height width"] | None = None
    name: str = ""
    rank: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", harmless(self.name))


@dataclass(frozen=True)
class Sample:
    """A sample is one image with its examples: RGB 0..255 in its own size, or network input.

    ``group`` names what it has in common with other images, such as the photograph that both are drawn on; it is
    empty where nothing is known.
    """

    image: UInt8[Tensor, "3 height width"] | Float[Tensor, "3 height width"]
    image_id: str
    examples: tuple[Example, ...]
    group: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_id", harmless(self.image_id))
        object.__setattr__(self, "group", harmless(self.group))

    def example_id(self, example: Example) -> str:
        """Name an example: by its image, and its own name behind a colon if it has one."""
        return f"{self.image_id}:{example.name}" if example.name else self.image_id


class ExampleDataset(Dataset[Sample], ABC):
    """An example data set is a finite, ordered set of images of one split, each with at least one example.

    Attributes:
        class_names: the classes that labels count.
        notes: what whoever uses it should be told once, one line each.
        problems: files that were left out, with the reason.
    """

    class_names: Sequence[str]
    notes: Sequence[str] = ()
    problems: Sequence[FileProblem] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    @abstractmethod
    def image_size(self, index: int) -> tuple[int, int]:
        """Return ``(width, height)`` of one image in pixels, without decoding it."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """Identify everything the samples depend on."""

    @property
    def store_digest(self) -> str:
        """Return what identifies an image, together with its index: the digest of the set that this begins."""
        return self.digest

    def image_labels(self, index: int) -> tuple[int, ...] | None:
        """Return the class ids of an image's examples without decoding it; None where that cannot be known."""
        return None


class View(ExampleDataset):
    """A view shows another data set's images, all of them as they are unless a subclass says otherwise."""

    def __init__(self, dataset: ExampleDataset) -> None:
        self.dataset = dataset
        self.class_names, self.notes, self.problems = dataset.class_names, dataset.notes, dataset.problems

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[index]

    def image_size(self, index: int) -> tuple[int, int]:
        """See `ExampleDataset.image_size`."""
        return self.dataset.image_size(index)

    @property
    def digest(self) -> str:
        """See `ExampleDataset.digest`."""
        return self.dataset.digest

    @property
    def store_digest(self) -> str:
        """See `ExampleDataset.store_digest`."""
        return self.dataset.store_digest

    def image_labels(self, index: int) -> tuple[int, ...] | None:
        """See `ExampleDataset.image_labels`."""
        return self.dataset.image_labels(index)


class Limited(View):
    """Limited shows at most ``limit`` images: as many as possible of each class in turn, in their order.

    Where labels are not known without decoding, as of drawn images, these are the first ones.
    """

    def __init__(self, dataset: ExampleDataset, limit: int) -> None:
        super().__init__(dataset)
        self.indices = _spread(dataset, limit) if limit < len(dataset) else range(len(dataset))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]

    def image_size(self, index: int) -> tuple[int, int]:
        """See `ExampleDataset.image_size`."""
        return self.dataset.image_size(self.indices[index])

    def image_labels(self, index: int) -> tuple[int, ...] | None:
        """See `ExampleDataset.image_labels`."""
        return self.dataset.image_labels(self.indices[index])

    @property
    def digest(self) -> str:
        """See `ExampleDataset.digest`."""
        whole = len(self) == len(self.dataset)
        return self.dataset.digest if whole else f"{self.dataset.digest}[{self._shown}]"

    @property
    def store_digest(self) -> str:
        """See `ExampleDataset.store_digest`."""
        return self.dataset.store_digest if self._first else f"{self.dataset.store_digest}[{self._shown}]"

    @property
    def _first(self) -> bool:
        return list(self.indices) == list(range(len(self)))

    @property
    def _shown(self) -> str:
        return f":{len(self)}" if self._first else ",".join(map(str, self.indices))


def _spread(dataset: ExampleDataset, limit: int) -> list[int]:
    """Choose images from each class in turn, first ones first; one of several classes counts for its rarest."""
    of_class: dict[int, list[int]] = defaultdict(list)
    labels = [dataset.image_labels(index) for index in range(len(dataset))]
    counts: dict[int, int] = defaultdict(int)
    for own in labels:
        if own is None:
            return list(range(limit))
        for label in set(own):
            counts[label] += 1
    for index, own in enumerate(labels):
        of_class[min(own or (-1,), key=lambda label: (counts[label], label))].append(index)
    chosen: list[int] = []
    for turn in range(limit):
        for label in sorted(of_class):
            chosen += of_class[label][turn : turn + 1]
        if len(chosen) >= limit:
            break
    return sorted(chosen[:limit])


class Aligned(View):
    """Aligned shows a data set with the class ids of other ``class_names``; classes are matched by name.

    Raises:
        InputError: a class that these do not have.
    """

    def __init__(self, dataset: ExampleDataset, class_names: Sequence[str]) -> None:
        super().__init__(dataset)
        self.known = align_classes(dataset.class_names, class_names)
        self.class_names = tuple(class_names)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        examples = tuple(replace(one, label=self._own(one.label)) for one in sample.examples)
        return replace(sample, examples=examples)

    def image_labels(self, index: int) -> tuple[int, ...] | None:
        """See `ExampleDataset.image_labels`."""
        theirs = self.dataset.image_labels(index)
        return None if theirs is None else tuple(map(self._own, theirs))

    def _own(self, label: int) -> int:
        return label if label < 0 else int(self.known[label])


class Ranked(View):
    """Ranked shows each example ``best`` times: once for each of the classifier's best classes, to explain it."""

    def __init__(self, dataset: ExampleDataset, best: int) -> None:
        super().__init__(dataset)
        self.best = best

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        examples = tuple(
            replace(one, rank=rank, name="-".join(filter(None, (one.name, f"top{rank + 1}"))))
            for one in sample.examples
            for rank in range(self.best)
        )
        return replace(sample, examples=examples)

    @property
    def digest(self) -> str:
        """See `ExampleDataset.digest`."""
        return f"{self.dataset.digest}/top{self.best}"

    @property
    def store_digest(self) -> str:
        """See `ExampleDataset.store_digest`."""
        return f"{self.dataset.store_digest}/top{self.best}"


DATASETS: Registry[ExampleDataset] = Registry("data", "gradsam_exp.data")


def align_classes(given: Sequence[str], known: Sequence[str]) -> Tensor:
    """Find the id among ``known`` of each of the ``given`` classes, by name; capitals and Unicode forms aside.

    Raises:
        InputError: a class that is not known.
    """
    found = match_classes(given, known)
    if None in found:
        lost = [name for name, own in zip(given, found, strict=True) if own is None]
        others = f" (and {len(lost) - 1} others: {some(lost[1:])})" if lost[1:] else ""
        raise InputError(
            f"the data set's class {lost[0]!r}{others} is not one the classifier knows"
            f"{did_you_mean(lost[0], known)}; say by model.map which outputs each class is, train a classifier on "
            "these classes (task=train), or score masks alone by data.labels=none"
        )
    return torch.tensor(found, dtype=torch.long)


def match_classes(given: Sequence[str], known: Sequence[str]) -> list[int | None]:
    """Find the id among ``known`` of each of the ``given`` classes; None for one that none or several are alike.

    Capitals and Unicode forms do not matter where the exact name is not there.
    """
    exact = {name: number for number, name in enumerate(known)}
    if all(name in exact for name in given):
        return [exact[name] for name in given]
    alike: dict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(known):
        alike[plain_name(name)].append(number)
    found = ([exact[name]] if name in exact else alike[plain_name(name)] for name in given)
    return [own[0] if len(own) == 1 else None for own in found]


def plain_name(name: str) -> str:
    """Return what names of the same thing have in common: capitals and Unicode's normal forms aside."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def collate(samples: Sequence[Sample]) -> ExampleBatch:
    """Stack samples of one image size; masks are stacked if every example has one."""
    examples = [(number, example) for number, sample in enumerate(samples) for example in sample.examples]
    masks = [example.mask for _, example in examples if example.mask is not None]
    counted = [example.counted for _, example in examples]
    size = samples[0].image.shape[-2:]
    ranks = [example.rank for _, example in examples]
    return ExampleBatch(
        images=torch.stack([sample.image for sample in samples]),
        image_of=torch.tensor([number for number, _ in examples], dtype=torch.long),
        labels=torch.tensor([example.label for _, example in examples], dtype=torch.long),
        masks=torch.stack(masks) if masks and len(masks) == len(examples) else None,
        counted=None
        if all(one is None for one in counted)
        else torch.stack([torch.ones(size, dtype=torch.bool) if one is None else one for one in counted]),
        ranks=None if None in ranks or not ranks else torch.tensor(ranks),
        image_ids=tuple(sample.image_id for sample in samples),
        example_ids=tuple(sample.example_id(example) for sample in samples for example in sample.examples),
        groups=tuple(sample.group for sample in samples),
    )


class SizeBuckets(Sampler[list[int]]):
    """SizeBuckets groups at most ``batch_size`` indices whose images share one size, in order of first appearance.

    Args:
        pixels: most pixels of a batch; one image is never too many.
        shuffle: mix the images of each size, and the batches, anew in every epoch. The order depends on torch's
            seed and the epoch, on nothing that is drawn meanwhile. Lightning calls `set_epoch`.
    """

    def __init__(
        self, dataset: ExampleDataset, batch_size: int, *, pixels: int | None = None, shuffle: bool = False
    ) -> None:
        self.batch_size, self.pixels, self.shuffle = batch_size, pixels, shuffle
        self.seed, self.epoch = torch.initial_seed(), 0
        self.buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index in range(len(dataset)):
            self.buckets[dataset.image_size(index)].append(index)

    @property
    def sampler(self) -> SizeBuckets:
        """Return itself: Lightning tells the epoch to a batch sampler's ``sampler``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Move on to the given epoch's order."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        batches = []
        rng = np.random.default_rng([self.seed, self.epoch])
        for image_size, bucket in self.buckets.items():
            order = [bucket[k] for k in rng.permutation(len(bucket))] if self.shuffle else bucket
            most = self._most(image_size)
            batches += [order[start : start + most] for start in range(0, len(order), most)]
        if self.shuffle:
            batches = [batches[k] for k in rng.permutation(len(batches))]
        return iter(batches)

    def __len__(self) -> int:
        return sum(-(-len(bucket) // self._most(image_size)) for image_size, bucket in self.buckets.items())

    def _most(self, image_size: tuple[int, int]) -> int:
        if self.pixels is None:
            return self.batch_size
        return max(1, min(self.batch_size, self.pixels // (image_size[0] * image_size[1])))


def loader(dataset: ExampleDataset, batch_size: int) -> DataLoader[ExampleBatch]:
    """Read ``dataset`` in order, in batches of one image size each."""
    samples: Any = dataset  # DataLoader's type does not know that collate changes it
    return DataLoader(samples, batch_sampler=SizeBuckets(dataset, batch_size), collate_fn=collate)
