"""This module defines what every data set offers, and the loader that makes batches of one image size."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gradsam_exp.registry import Registry
from gradsam_exp.types import ImageBatch


@dataclass(frozen=True)
class Sample:
    """A sample is one image: RGB 0..255 in its own size, true mask if there is one, class id (−1 unknown), id."""

    image: UInt8[Tensor, "3 height width"]
    mask: Bool[Tensor, "height width"] | None
    label: int
    image_id: str


class ImageDataset(Dataset[Sample], ABC):
    """An image data set is a finite, ordered set of samples of one split."""

    class_names: Sequence[str]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    @abstractmethod
    def image_size(self, index: int) -> tuple[int, int]:
        """Return ``(width, height)`` of one image in pixels, without decoding it."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Identify everything the samples depend on, by a digest."""

    @property
    def origin(self) -> str:
        """Return the fingerprint of the whole data set that this is a part of; with an index it names an image."""
        return self.fingerprint


class FirstImages(ImageDataset):
    """FirstImages cuts a data set to its first ``limit`` images, or all if it has fewer."""

    def __init__(self, dataset: ImageDataset, limit: int) -> None:
        self.dataset, self.limit = dataset, limit
        self.class_names = dataset.class_names

    def __len__(self) -> int:
        return min(self.limit, len(self.dataset))

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.dataset[index]

    def image_size(self, index: int) -> tuple[int, int]:
        """See `ImageDataset.image_size`."""
        return self.dataset.image_size(index)

    @property
    def fingerprint(self) -> str:
        """See `ImageDataset.fingerprint`."""
        whole = len(self) == len(self.dataset)
        return self.dataset.fingerprint if whole else f"{self.dataset.fingerprint}[:{len(self)}]"

    @property
    def origin(self) -> str:
        """See `ImageDataset.origin`."""
        return self.dataset.origin


DATASETS: Registry[ImageDataset] = Registry("data", "gradsam_exp.data")


def collate(samples: Sequence[Sample]) -> ImageBatch:
    """Stack samples of one image size; masks are stacked if every sample has one."""
    masks = [sample.mask for sample in samples if sample.mask is not None]
    return ImageBatch(
        images=torch.stack([sample.image for sample in samples]),
        masks=torch.stack(masks) if len(masks) == len(samples) else None,
        labels=torch.tensor([sample.label for sample in samples]),
        image_ids=tuple(sample.image_id for sample in samples),
    )


class SizeBuckets(Sampler[list[int]]):
    """SizeBuckets groups at most ``batch_size`` indices whose images share one size, in order of first appearance.

    Args:
        pixels: most pixels of a batch; one image is never too many.
        shuffle: mix the images of each size, and the batches, anew in every epoch (by torch's seed).
    """

    def __init__(
        self, dataset: ImageDataset, batch_size: int, *, pixels: int | None = None, shuffle: bool = False
    ) -> None:
        self.batch_size, self.pixels, self.shuffle = batch_size, pixels, shuffle
        self.buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index in range(len(dataset)):
            self.buckets[dataset.image_size(index)].append(index)

    def __iter__(self) -> Iterator[list[int]]:
        batches = []
        for image_size, bucket in self.buckets.items():
            order = [bucket[k] for k in torch.randperm(len(bucket))] if self.shuffle else bucket
            most = self._most(image_size)
            batches += [order[start : start + most] for start in range(0, len(order), most)]
        if self.shuffle:
            batches = [batches[k] for k in torch.randperm(len(batches))]
        return iter(batches)

    def __len__(self) -> int:
        return sum(-(-len(bucket) // self._most(image_size)) for image_size, bucket in self.buckets.items())

    def _most(self, image_size: tuple[int, int]) -> int:
        if self.pixels is None:
            return self.batch_size
        return max(1, min(self.batch_size, self.pixels // (image_size[0] * image_size[1])))


def loader(dataset: ImageDataset, batch_size: int, *, workers: int = 0) -> DataLoader[ImageBatch]:
    """Read ``dataset`` in order, in batches of one image size each."""
    samples: Any = dataset  # DataLoader's type does not know that collate changes it
    return DataLoader(
        samples, batch_sampler=SizeBuckets(dataset, batch_size), collate_fn=collate, num_workers=workers
    )
