"""The first half of a run: heatmaps and image embeddings, which depend on the data and the weights alone.

Images go in chunks whose bounds depend on the data set only. Each chunk's images, heatmaps and embeddings
are in the store, or are made and put there; a sweep makes them once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsam_exp.batching import TRIM_EVERY, AdaptiveBatch, filled, return_freed_memory
from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.data.base import ImageDataset, SizeBuckets, collate
from gradsam_exp.digest import digest, library_versions
from gradsam_exp.engine.store import Store, Tensors
from gradsam_exp.errors import InputError, did_you_mean
from gradsam_exp.explainers.base import Explainer, evaluation_mode, network_input, to_frame
from gradsam_exp.explainers.layers import frame_of
from gradsam_exp.metrics.heatmaps import faithfulness, heatmap_quality
from gradsam_exp.refiners.base import Refiner, Unrefined
from gradsam_exp.segmenters.base import Embeddings, Segmenter
from gradsam_exp.types import Heatmaps, ImageBatch

Target = Literal["predicted", "label"]
CHUNK = 64  # images, fewer if they are large: everything of a chunk is in memory at once
CHUNK_PIXELS = 2**24
VERSION = 2  # raise it when images, heatmaps or embeddings come out different from before


@dataclass(frozen=True)
class Prepared:
    """One chunk of images of one size with all that does not depend on prompts.

    Attributes:
        batch: labels are the classifier's class ids.
        predicted: the classifier's arg-max.
        quality: of the heatmaps, by name; one value per image.
        stored: where the store keeps ``images`` and ``heatmaps`` (refined, if they are), as ``stage/key``; empty
            without a store.
    """

    batch: ImageBatch
    heatmaps: Heatmaps
    embeddings: Embeddings
    predicted: Int[Tensor, " batch"]
    quality: Mapping[str, Float[Tensor, " batch"]] = field(default_factory=dict)
    stored: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, rows: slice) -> Prepared:
        """Some of the images."""
        return Prepared(
            self.batch[rows],
            self.heatmaps[rows],
            self.embeddings[rows],
            self.predicted[rows],
            {name: values[rows] for name, values in self.quality.items()},
            self.stored,
        )


@dataclass
class Stopwatch:
    """Seconds and images by stage, of all that is done.

    Attributes:
        on_change: called when a number has changed.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    on_change: Callable[[], None] = field(default=lambda: None, repr=False)

    @contextmanager
    def time(self, stage: str, images: int = 0) -> Iterator[Callable[[int], None]]:
        """Add the time spent inside to ``stage``, and at the end the images.

        Yields:
            To be called inside with the images of each part that is done.
        """
        start, before, spent = time.perf_counter(), self.images.get(stage, 0), self.seconds.get(stage, 0.0)

        def count(done: int) -> None:
            self.seconds[stage] = spent + time.perf_counter() - start
            self.images[stage] = done
            self.on_change()

        try:
            yield lambda part: count(self.images.get(stage, 0) + part)
        finally:
            count(max(self.images.get(stage, 0), before + images))


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

    def heatmaps(self, images: Tensor, labels: Tensor, batches: AdaptiveBatch) -> Heatmaps:
        """Heatmaps on the CPU, explained a portion at a time.

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

        def explain(rows: slice) -> Heatmaps:
            some, own = images[rows], labels[rows]
            targets = filled(own, batches.most).to(self.device) if self.target == "label" else None
            return explainer(filled(some, batches.most).to(self.device), targets)[: len(some)].to("cpu")

        return Heatmaps.joined(list(batches.slices(len(images), explain)))

    def faithfulness(
        self, images: Tensor, heatmaps: Heatmaps, batches: AdaptiveBatch
    ) -> dict[str, Float[Tensor, " batch"]]:
        """Of the heatmaps, at the network's resolution; NaN for an empty one."""
        classifier, _ = self._models
        pixels = network_input(classifier, images)

        def predict(changed: Tensor) -> Tensor:
            def classify(rows: slice) -> Tensor:
                some = changed[rows]
                return classifier(filled(some, batches.most).to(self.device))[: len(some)].cpu()

            return torch.cat(list(batches.slices(len(changed), classify)))

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
        self._image_ids: dict[str, tuple[str, ...]] = {}  # of chunks, by their key

    def __call__(
        self, dataset: ImageDataset, *, batch_size: int = 32, chunks: Iterable[list[int]] | None = None
    ) -> Iterator[Prepared]:
        """Chunk by chunk; at most ``batch_size`` images are in a network at a time.

        Args:
            chunks: some of those that `missing` names; None: all. Where several processes prepare the same images,
                those that another has in hand come last.
        """
        encode, predict = AdaptiveBatch("encode", batch_size), AdaptiveBatch("faithfulness", batch_size)
        for images, batch, heatmaps, stored in self._explain(dataset, batch_size, chunks):
            with self.stopwatch.time("encode", len(batch)) as encode.on_done:
                embeddings = self._embeddings(images, batch, encode)
            stage = ("faithfulness", len(batch)) if self.faithful else ("score", 0)
            with self.stopwatch.time(*stage):
                quality = self._quality(images, batch, heatmaps, predict)
            predicted = heatmaps.targets if heatmaps.logits is None else heatmaps.logits.argmax(1)
            yield Prepared(batch, heatmaps, embeddings, predicted, quality, stored)

    def explain(self, dataset: ImageDataset, *, batch_size: int = 32) -> Iterator[tuple[ImageBatch, Heatmaps]]:
        """Images and heatmaps alone; the segmenter need not be loaded."""
        for _, batch, heatmaps, _ in self._explain(dataset, batch_size):
            yield batch, heatmaps

    def images(self, dataset: ImageDataset) -> Iterator[ImageBatch]:
        """The images alone, in the same chunks."""
        origin = dataset.origin
        for indices in _chunks(dataset):
            yield self._images(dataset, origin, indices)

    def missing(self, dataset: ImageDataset, among: Iterable[list[int]] | None = None) -> list[list[int]]:
        """Chunks, as indices of their images, of which the store lacks something; of all, or among some."""
        origin = dataset.origin
        chunks = _chunks(dataset) if among is None else among
        return [list(indices) for indices in chunks if not self._has(dataset, origin, indices)]

    def _has(self, dataset: ImageDataset, origin: str, indices: Sequence[int]) -> bool:
        key = _images_key(origin, indices)
        if not self.store.has("images", key):
            return False
        if key not in self._image_ids:
            self._image_ids[key] = self._images(dataset, origin, indices).image_ids
        images = _named(origin, self._image_ids[key])
        keys = {
            "heatmaps": digest(self._explained_by(images), size=16),
            "quality": self._quality_key(images),
            "embeddings": self._embeddings_key(images),
        }
        return all(self.store.has(stage, key) for stage, key in keys.items())

    def _in_turn(self, dataset: ImageDataset, origin: str) -> Iterator[list[int]]:
        """All chunks; those that another process has in hand come last, and are then likely to be stored."""
        later = []
        for indices in _chunks(dataset):
            with self.store.claim(_images_key(origin, indices)) as free:
                if free:
                    yield indices
                else:
                    later.append(indices)
        yield from later

    def _explain(
        self, dataset: ImageDataset, batch_size: int, chunks: Iterable[list[int]] | None = None
    ) -> Iterator[tuple[Any, ImageBatch, Heatmaps, Mapping[str, str]]]:
        """Chunk by chunk: what names a chunk's images, images, heatmaps, and where the store keeps them."""
        batches = AdaptiveBatch("explain", batch_size, hint="a smaller explainer.chunk, if it has one, ")
        class_ids = align_classes(dataset.class_names, self.explained.class_names)
        origin = dataset.origin  # reads all backgrounds
        for number, indices in enumerate(self._in_turn(dataset, origin) if chunks is None else chunks):
            if number % TRIM_EVERY == TRIM_EVERY - 1:
                return_freed_memory()
            with self.stopwatch.time("data", len(indices)):
                batch = self._images(dataset, origin, indices)
                batch = replace(batch, labels=torch.where(batch.labels >= 0, class_ids[batch.labels], -1))
            images = _named(origin, batch.image_ids)
            with self.stopwatch.time("explain", len(batch)) as batches.on_done:
                heatmaps = self._heatmaps(images, batch, batches)
            yield images, batch, heatmaps, self._stored(origin, indices, images)

    def _stored(self, origin: str, indices: Sequence[int], images: Any) -> Mapping[str, str]:
        """See `Prepared.stored`."""
        if self.store.root is None:
            return {}
        depends_on = self._explained_by(images)
        if isinstance(self.refiner, Unrefined):
            heatmaps = f"heatmaps/{digest(depends_on, size=16)}"
        else:
            heatmaps = f"refined/{digest([depends_on, self.refined_by], size=16)}"
        return {"images": f"images/{_images_key(origin, indices)}", "heatmaps": heatmaps}

    def _images(self, dataset: ImageDataset, origin: str, indices: Sequence[int]) -> ImageBatch:
        def make() -> tuple[Tensors, Any]:
            batch = collate([dataset[index] for index in indices])
            masks = {} if batch.masks is None else {"masks": batch.masks}
            return {"images": batch.images, "labels": batch.labels, **masks}, batch.image_ids

        tensors, image_ids = self.store.get("images", _images_key(origin, indices), make)
        return ImageBatch(tensors["images"], tensors.get("masks"), tensors["labels"], tuple(image_ids))

    def _heatmaps(self, images: Any, batch: ImageBatch, batches: AdaptiveBatch) -> Heatmaps:
        own, depends_on = self.explained, self._explained_by(images)

        def make() -> tuple[Tensors, Any]:
            return own.heatmaps(batch.images, batch.labels, batches).as_tensors(), None

        heatmaps = Heatmaps(**self.store.get("heatmaps", digest(depends_on, size=16), make)[0])
        if isinstance(self.refiner, Unrefined):
            return heatmaps

        def refine() -> tuple[Tensors, Any]:
            return self.refiner(batch.images, heatmaps).as_tensors(), None

        return Heatmaps(**self.store.get("refined", digest([depends_on, self.refined_by], size=16), refine)[0])

    def _explained_by(self, images: Any) -> Any:
        own = self.explained
        return [images, own.depends_on, own.target, torch.device(own.device).type]

    def _quality(
        self, images: Any, batch: ImageBatch, heatmaps: Heatmaps, batches: AdaptiveBatch
    ) -> Mapping[str, Float[Tensor, " batch"]]:
        def make() -> tuple[Tensors, Any]:
            found = heatmap_quality(heatmaps.values, batch.masks)
            if self.faithful:
                found |= self.explained.faithfulness(batch.images, heatmaps, batches)
            return found, list(found)

        tensors, names = self.store.get("quality", self._quality_key(images), make)
        return {name: tensors[name] for name in names}

    def _quality_key(self, images: Any) -> str:
        return digest([self._explained_by(images), self.refined_by, self.faithful], size=16)

    def _embeddings(self, images: Any, batch: ImageBatch, batches: AdaptiveBatch) -> Embeddings:
        def make() -> tuple[Tensors, Any]:
            encode = self.segmenter.encode
            parts = list(batches.slices(len(batch), lambda rows: encode(batch.images[rows])))
            sizes = {"input_size": parts[0].input_size, "original_size": parts[0].original_size}
            levels = Embeddings.joined(parts).levels
            return {f"level{k}": level for k, level in enumerate(levels)}, sizes

        tensors, sizes = self.store.get("embeddings", self._embeddings_key(images), make)
        levels = tuple(tensors[f"level{k}"] for k in range(len(tensors)))
        return Embeddings(levels, **{name: tuple(size) for name, size in sizes.items()})

    def _embeddings_key(self, images: Any) -> str:
        return digest([images, self.segmented_by, self.segmenter.device.type], size=16)


def _chunks(dataset: ImageDataset) -> SizeBuckets:
    return SizeBuckets(dataset, CHUNK, pixels=CHUNK_PIXELS)


def _images_key(origin: str, indices: Sequence[int]) -> str:
    return digest([VERSION, library_versions(), origin, indices], size=16)


def _named(origin: str, image_ids: Sequence[str]) -> Any:
    """What heatmaps and embeddings depend on besides the networks."""
    return [VERSION, library_versions(), origin, image_ids]


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
