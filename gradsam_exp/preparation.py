"""The first half of a run: heatmaps and image embeddings, which depend on the data and the weights alone.

Images go in chunks whose bounds depend on the data set only. Each chunk's images, heatmaps and embeddings
are in the store, or are made and put there; a sweep makes them once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.data.base import ImageDataset, SizeBuckets, collate
from gradsam_exp.digest import digest
from gradsam_exp.errors import InputError, did_you_mean
from gradsam_exp.explainers.base import Explainer, evaluation_mode, network_input, to_frame
from gradsam_exp.explainers.layers import frame_of
from gradsam_exp.metrics.heatmaps import faithfulness
from gradsam_exp.refinement.base import Refiner, Unrefined
from gradsam_exp.rows import filled
from gradsam_exp.segmenters.base import Embeddings, Segmenter
from gradsam_exp.store import Store, Tensors
from gradsam_exp.types import Heatmaps, ImageBatch

Target = Literal["predicted", "label"]
CHUNK = 64  # images
VERSION = 1  # raise it when images, heatmaps or embeddings come out different from before


@dataclass(frozen=True)
class Prepared:
    """One chunk of images of one size with all that does not depend on prompts.

    Attributes:
        batch: labels are the classifier's class ids.
        predicted: the classifier's arg-max.
        faithfulness: by name, where it was asked for; one value per image.
    """

    batch: ImageBatch
    heatmaps: Heatmaps
    embeddings: Embeddings
    predicted: Int[Tensor, " batch"]
    faithfulness: Mapping[str, Float[Tensor, " batch"]] = field(default_factory=dict)


@dataclass
class Stopwatch:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to ``stage``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


@dataclass
class Explained:
    """A classifier and an explainer that are read when they are first needed, which may be never.

    Attributes:
        class_names: the classifier's, in order.
        load: gives the classifier, in eval mode, and the explainer of it.
        target: explain the ``predicted`` class, or the true one (``label``).
        depends_on: plain values that say everything the heatmaps depend on besides the images.
        device: where the classifier runs.
    """

    class_names: Sequence[str]
    load: Callable[[], tuple[ImageClassifier, Explainer]]
    target: Target = "predicted"
    depends_on: Any = None
    device: torch.device | str = "cpu"

    @cached_property
    def _models(self) -> tuple[ImageClassifier, Explainer]:
        classifier, explainer = self.load()
        return classifier.to(self.device), explainer

    def heatmaps(self, images: Tensor, labels: Tensor, *, batch_size: int) -> Heatmaps:
        """Heatmaps on the CPU, explained ``batch_size`` images at a time.

        Args:
            labels: the classifier's class ids; −1 where unknown.

        Raises:
            InputError: if true classes are to be explained and one is unknown.
        """
        if self.target == "label" and (labels < 0).any():
            raise InputError(
                "explainer.target=label needs a label for every image; use explainer.target=predicted"
            )
        _, explainer = self._models
        parts = []
        for some, own in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            targets = filled(own).to(self.device) if self.target == "label" else None
            parts.append(explainer(filled(some).to(self.device), targets)[: len(some)].to("cpu"))
        return Heatmaps.joined(parts)

    def faithfulness(
        self, images: Tensor, heatmaps: Heatmaps, *, batch_size: int
    ) -> dict[str, Float[Tensor, " batch"]]:
        """Of the heatmaps, at the network's resolution; NaN for an empty one."""
        classifier, _ = self._models
        pixels = network_input(classifier, images)

        def predict(changed: Tensor) -> Tensor:
            parts = [classifier(filled(p).to(self.device))[: len(p)].cpu() for p in changed.split(batch_size)]
            return torch.cat(parts)

        with evaluation_mode(classifier):
            maps = to_frame(heatmaps.values, frame_of(pixels))
            found = faithfulness(predict, pixels, maps, heatmaps.targets)
        return {name: torch.where(heatmaps.empty, torch.nan, values) for name, values in found.items()}


class Preparation:
    """Everything left of the prompts.

    Args:
        explained: where heatmaps come from.
        refiner: applied to them; ``refined_by`` says in plain values what it depends on.
        segmenter: loaded; ``segmented_by`` says what its embeddings depend on, None stands for its digest.
        store: where chunks are kept.
        faithful: measure as well how the classifier reacts when what the heatmaps mark is taken away.

    Attributes:
        stopwatch: counts the time.
    """

    def __init__(
        self,
        explained: Explained,
        refiner: Refiner,
        segmenter: Segmenter,
        *,
        store: Store | None = None,
        refined_by: Any = None,
        segmented_by: Any = None,
        faithful: bool = False,
    ) -> None:
        self.explained, self.refiner, self.segmenter = explained, refiner, segmenter
        self.store = Store(None) if store is None else store
        self.refined_by, self.faithful = refined_by, faithful
        self.segmented_by = segmenter.digest if segmented_by is None else segmented_by
        self.stopwatch = Stopwatch()

    def __call__(self, dataset: ImageDataset, *, batch_size: int = 32) -> Iterator[Prepared]:
        """Chunk by chunk; ``batch_size`` images are in a network at a time."""
        for images, batch, heatmaps in self._explain(dataset, batch_size):
            with self.stopwatch.time("encode"):
                embeddings = self._embeddings(images, batch, batch_size)
            faithful: dict[str, Tensor] = {}
            if self.faithful:
                with self.stopwatch.time("faithfulness"):
                    faithful = self.explained.faithfulness(batch.images, heatmaps, batch_size=batch_size)
            predicted = heatmaps.targets if heatmaps.logits is None else heatmaps.logits.argmax(1)
            yield Prepared(batch, heatmaps, embeddings, predicted, faithful)

    def explain(self, dataset: ImageDataset, *, batch_size: int = 32) -> Iterator[tuple[ImageBatch, Heatmaps]]:
        """Images and heatmaps alone; the segmenter need not be loaded."""
        for _, batch, heatmaps in self._explain(dataset, batch_size):
            yield batch, heatmaps

    def images(self, dataset: ImageDataset) -> Iterator[ImageBatch]:
        """The images alone, in the same chunks."""
        origin = dataset.origin
        for indices in SizeBuckets(dataset, CHUNK):
            yield self._images(dataset, origin, indices)

    def _explain(self, dataset: ImageDataset, batch_size: int) -> Iterator[tuple[Any, ImageBatch, Heatmaps]]:
        """Chunk by chunk, and what names a chunk's images."""
        class_ids = align_classes(dataset.class_names, self.explained.class_names)
        origin = dataset.origin  # reads all backgrounds
        for indices in SizeBuckets(dataset, CHUNK):
            with self.stopwatch.time("data"):
                batch = self._images(dataset, origin, indices)
                batch = replace(batch, labels=torch.where(batch.labels >= 0, class_ids[batch.labels], -1))
            images = [VERSION, torch.__version__, origin, batch.image_ids]
            with self.stopwatch.time("explain"):
                heatmaps = self._heatmaps(images, batch, batch_size)
            yield images, batch, heatmaps

    def _images(self, dataset: ImageDataset, origin: str, indices: Sequence[int]) -> ImageBatch:
        def make() -> tuple[Tensors, Any]:
            batch = collate([dataset[index] for index in indices])
            masks = {} if batch.masks is None else {"masks": batch.masks}
            return {"images": batch.images, "labels": batch.labels, **masks}, batch.image_ids

        tensors, image_ids = self.store.get("images", digest([VERSION, origin, indices], size=16), make)
        return ImageBatch(tensors["images"], tensors.get("masks"), tensors["labels"], tuple(image_ids))

    def _heatmaps(self, images: Any, batch: ImageBatch, batch_size: int) -> Heatmaps:
        own = self.explained
        depends_on = [images, own.depends_on, own.target, torch.device(own.device).type]

        def make() -> tuple[Tensors, Any]:
            return own.heatmaps(batch.images, batch.labels, batch_size=batch_size).as_tensors(), None

        heatmaps = Heatmaps(**self.store.get("heatmaps", digest(depends_on, size=16), make)[0])
        if isinstance(self.refiner, Unrefined):
            return heatmaps

        def refine() -> tuple[Tensors, Any]:
            return self.refiner(batch.images, heatmaps).as_tensors(), None

        return Heatmaps(**self.store.get("refined", digest([depends_on, self.refined_by], size=16), refine)[0])

    def _embeddings(self, images: Any, batch: ImageBatch, batch_size: int) -> Embeddings:
        def make() -> tuple[Tensors, Any]:
            parts = [self.segmenter.encode(some) for some in batch.images.split(batch_size)]
            sizes = {"input_size": parts[0].input_size, "original_size": parts[0].original_size}
            return {"values": torch.cat([part.values.cpu() for part in parts])}, sizes

        key = digest([images, self.segmented_by, self.segmenter.device.type], size=16)
        tensors, sizes = self.store.get("embeddings", key, make)
        return Embeddings(tensors["values"], **{name: tuple(size) for name, size in sizes.items()})


def align_classes(given: Sequence[str], known: Sequence[str]) -> Tensor:
    """The classifier's id of each of the data set's classes.

    Raises:
        InputError: a class of the data set that the classifier does not know.
    """
    for name in given:
        if name not in known:
            raise InputError(
                f"the data set's class {name!r} is not one the classifier knows{did_you_mean(name, known)}"
            )
    return torch.tensor([list(known).index(name) for name in given])
