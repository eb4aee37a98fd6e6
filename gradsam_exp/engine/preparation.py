"""This module prepares what depends on the data and the weights alone, once for all runs: heatmaps, embeddings.

Images go in chunks whose bounds depend on the data set only. What each stage makes of a chunk is read from the
store, or made and put there.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from gradsam_exp.batching import TRIM_EVERY, AdaptiveBatch, return_freed_memory
from gradsam_exp.data.base import ExampleDataset, SizeBuckets
from gradsam_exp.engine.stages.base import Chunk, Stage
from gradsam_exp.engine.stages.embeddings import Encode
from gradsam_exp.engine.stages.everything import Everything
from gradsam_exp.engine.stages.heatmaps import Explain, Explained
from gradsam_exp.engine.stages.images import Images as ReadImages
from gradsam_exp.engine.stages.quality import Quality
from gradsam_exp.engine.stages.refined import Refine
from gradsam_exp.engine.store import Store
from gradsam_exp.metrics.base import ExampleMetric
from gradsam_exp.refiners.base import Refiner, Unrefined
from gradsam_exp.segmenters.base import Embeddings, Segmenter
from gradsam_exp.segmenters.everything import everything as find_everything
from gradsam_exp.types import EverythingMode, ExampleBatch, Heatmaps, Images, MaskSet

CHUNK = 64  # images, fewer if they are large: everything of a chunk is in memory at once
CHUNK_PIXELS = 2**24
_HINTS = {"explain": "a smaller explainer.chunk, if it has one, "}  # where memory runs out


@dataclass(frozen=True)
class Prepared:
    """Holds one chunk of images of one size, and their examples, with all that does not depend on prompts.

    Attributes:
        batch: labels are the classifier's class ids.
        predicted: the classifier's arg-max.
        quality: the metrics that need no prompts, by name; one value per example, in float64.
        stored: where the store keeps ``images`` and ``heatmaps`` (refined, if they are), as ``stage/key``; empty
            without a store.
        everything: what the segmenter finds in each image, if a strategy needs that.
    """

    batch: ExampleBatch
    heatmaps: Heatmaps
    embeddings: Embeddings
    predicted: Int[Tensor, " batch"]
    quality: Mapping[str, Float[Tensor, " batch"]] = field(default_factory=dict)
    stored: Mapping[str, str] = field(default_factory=dict)
    everything: Sequence[MaskSet] = ()

    def __getitem__(self, rows: slice) -> "Prepared":
        """Return some of the images."""
        batch, examples = self.batch.of_images(rows), self.batch.examples_of(rows)
        return Prepared(
            batch,
            self.heatmaps[examples],
            self.embeddings.of_images(rows, batch.image_of),
            self.predicted[examples],
            {name: values[examples] for name, values in self.quality.items()},
            self.stored,
            self.everything[rows],
        )


@dataclass
class Stopwatch:
    """Counts seconds and images by stage; ``on_change`` is called when a number has changed."""

    seconds: dict[str, float] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    on_change: Callable[[], None] = field(default=lambda: None, repr=False)

    @contextmanager
    def time(self, stage: str, images: int = 0) -> Iterator[Callable[[int], None]]:
        """Add the time spent inside to ``stage``, and ``images`` at the end; yields what counts parts of them."""
        start, before, spent = time.perf_counter(), self.images.get(stage, 0), self.seconds.get(stage, 0.0)

        def count(done: int) -> None:
            self.seconds[stage] = spent + time.perf_counter() - start
            self.images[stage] = done
            self.on_change()

        try:
            yield lambda part: count(self.images.get(stage, 0) + part)
        finally:
            count(max(self.images.get(stage, 0), before + images))


class Preparation:
    """Prepares images, heatmaps, their quality and embeddings, stage by stage.

    Args:
        explained: where heatmaps come from.
        refiner: applied to them; ``refined_by`` says in plain values what it depends on.
        segmenter: loaded; ``segmented_by`` says what its embeddings depend on. None makes no embeddings.
        store: where chunks are kept.
        everything: prepare for the strategy what the segmenter finds in each image in this mode; None: not.
        asked_by: plain values that say how it is asked, for the strategy and the refiner.
        metrics: what is measured; those that need no prompts and no masks are measured here.
        half: the embeddings are rounded to half precision.
        modules: import paths of the plug-ins behind the data set (``data``), the refiner (``refine``) and the
            segmenter (``sam``); their source counts.

    Attributes:
        stages: what is made, in order.
        stopwatch: counts the time.
        batch_size: at most so many images are in a network at a time, as the last call said.
    """

    batch_size = 32

    def __init__(
        self,
        explained: Explained,
        refiner: Refiner,
        segmenter: Segmenter | None,
        *,
        store: Store | None = None,
        refined_by: Any = None,
        segmented_by: Any = None,
        everything: EverythingMode | None = None,
        asked_by: Any = None,
        metrics: Sequence[ExampleMetric] = (),
        half: bool = False,
        modules: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.explained, self.segmenter, self.metrics = explained, segmenter, tuple(metrics)
        self.everything = everything
        self.store = Store(None) if store is None else store
        self.stopwatch = Stopwatch()
        code = modules or {}
        asking: list[Stage] = []
        finding: dict[EverythingMode, Stage] = {}
        if segmenter is not None:
            asking.append(Encode(segmenter, segmented_by, code.get("sam", ()), half=half))
            for mode in (refiner.everything, everything):
                if mode is not None:
                    finding[mode] = Everything(segmenter, mode, asked_by, code.get("sam", ()))
        asking += finding.values()
        first = None if refiner.everything is None else finding[refiner.everything]
        self.refine = Refine(
            refiner,
            refined_by,
            code.get("refine", ()),
            explained=explained,
            everything=None if first is None else first.label,
        )
        refining: list[Stage] = [] if isinstance(refiner, Unrefined) else [self.refine]
        self.stages: list[Stage] = [ReadImages(explained.class_names, code.get("data", ())), Explain(explained)]
        self.stages += [*refining, *asking] if first is None else [*asking, *refining]
        early = [metric for metric in metrics if metric.before_prompts]
        self.stages += [Quality(metric, explained, after=self.heatmap_stage) for metric in early]

    @property
    def recipe(self) -> list[str]:
        """List each stage's digest of settings, source code and library versions, images not included."""
        return [stage.recipe for stage in self.stages]

    @property
    def heatmap_stage(self) -> str:
        """Names the stage that the heatmaps come from, by its label."""
        return "refined" if any(stage.label == "refined" for stage in self.stages) else "heatmaps"

    def __call__(
        self, dataset: ExampleDataset, *, batch_size: int = 32, chunks: Iterable[list[int]] | None = None
    ) -> Iterator[Prepared]:
        """Prepare chunk by chunk; at most ``batch_size`` images are in a network at a time.

        Args:
            chunks: some of those that `missing` names; None: all. Where several processes prepare the same images,
                those that another has in hand come last.
        """
        self.batch_size = batch_size
        places = {"images": "images", "heatmaps": self.heatmap_stage} if self.store.root is not None else {}
        for chunk in self._made(dataset, self.stages, batch_size, chunks):
            stored = {what: f"{stage}/{chunk.keys[stage]}" for what, stage in places.items()}
            parts = (chunk.batch, chunk.heatmaps, chunk.embeddings, chunk.predicted, chunk.quality)
            yield Prepared(*parts, stored, () if self.everything is None else chunk.everything[self.everything])

    def explain(self, dataset: ExampleDataset, *, batch_size: int = 32) -> Iterator[tuple[ExampleBatch, Heatmaps]]:
        """Prepare images and heatmaps alone; the segmenter need not be loaded, unless the refiner needs it."""
        labels = [stage.label for stage in self.stages]
        stages = self.stages[: labels.index(self.heatmap_stage) + 1]
        for chunk in self._made(dataset, stages, batch_size):
            yield chunk.batch, chunk.heatmaps

    def explain_again(self, images: Images, targets: Int[Tensor, " batch"]) -> Heatmaps:
        """Explain pictures of a strategy's making as those of the data set are, one class each."""
        batches = AdaptiveBatch("explain", self.batch_size, hint=_HINTS["explain"])
        found, mode = self.explained.of_classes(images, targets, batches), self.refine.refiner.everything
        masks: list[MaskSet] = []
        if mode is not None:
            assert self.segmenter is not None  # it has made the masks of the data set's images
            masks = [find_everything(self.segmenter, self.segmenter.encode(image[None]), mode) for image in images]
        return self.refine.refiner(images, found, **self.refine.needed(images, masks, batches))

    def images(
        self, dataset: ExampleDataset, *, chunks: Iterable[list[int]] | None = None
    ) -> Iterator[ExampleBatch]:
        """Prepare the images alone, in the same chunks; ``chunks`` as of `__call__`."""
        for chunk in self._made(dataset, self.stages[:1], 1, chunks):
            yield chunk.batch

    def missing(self, dataset: ExampleDataset, among: Iterable[list[int]] | None = None) -> list[list[int]]:
        """List the chunks of which the store lacks something, as indices of their images.

        Args:
            among: some of the chunks; None: all.
        """
        chunks, source = _chunks(dataset) if among is None else among, dataset.store_digest
        missing = []
        for indices in chunks:
            keys = self._keys(source, indices)
            if not all(self.store.has(stage.name, keys[stage.label]) for stage in self.stages):
                missing.append(list(indices))
        return missing

    def places(self, dataset: ExampleDataset) -> Iterator[tuple[Stage, str, int]]:
        """Yield, chunk by chunk, each stage, its key in the store, and the number of the chunk's images."""
        source = dataset.store_digest
        for indices in _chunks(dataset):
            keys = self._keys(source, indices)
            yield from ((stage, keys[stage.label], len(indices)) for stage in self.stages)

    @contextmanager
    def claimed(self, dataset: ExampleDataset, indices: Sequence[int]) -> Iterator[bool]:
        """Try to reserve a chunk for this process; yields False if another one has it in hand."""
        with self.store.claim(self._keys(dataset.store_digest, indices)["images"]) as free:
            yield free

    def stored_bytes(self, dataset: ExampleDataset, indices: Sequence[int]) -> int:
        """Return how many bytes the store has of a chunk."""
        keys = self._keys(dataset.store_digest, indices)
        return sum(self.store.size(stage.name, keys[stage.label]) for stage in self.stages)

    def _keys(self, source: str, indices: Sequence[int]) -> dict[str, str]:
        """The store's key of what each stage makes of a chunk, by the stage's label."""
        keys: dict[str, str] = {}
        for stage in self.stages:
            before: list[Any] = [keys[label] for label in stage.after]
            keys[stage.label] = stage.key(before or [source, list(indices)])
        return keys

    def _made(
        self,
        dataset: ExampleDataset,
        stages: Sequence[Stage],
        batch_size: int,
        chunks: Iterable[list[int]] | None = None,
    ) -> Iterator[Chunk]:
        """Chunk by chunk, with what these stages give."""
        clocks = dict.fromkeys(stage.clock for stage in stages)
        batches = {clock: AdaptiveBatch(clock, batch_size, hint=_HINTS.get(clock, "")) for clock in clocks}
        source = dataset.store_digest  # reads all backgrounds
        for number, indices in enumerate(self._in_turn(dataset) if chunks is None else chunks):
            if number % TRIM_EVERY == TRIM_EVERY - 1:
                return_freed_memory()
            chunk = Chunk(dataset, indices, self._keys(source, indices))
            for stage in stages:
                self._prepare(stage, chunk, batches[stage.clock])
            yield chunk

    def _prepare(self, stage: Stage, chunk: Chunk, batches: AdaptiveBatch) -> None:
        counted = len(chunk.indices) if stage.counted else 0
        with self.stopwatch.time(stage.clock, counted) as count:
            batches.on_done = count if stage.counted else lambda rows: None
            make = partial(stage.make, chunk, batches)
            usable = partial(stage.is_usable, chunk)
            stage.take(chunk, *self.store.get(stage.name, chunk.keys[stage.label], make, usable))

    def _in_turn(self, dataset: ExampleDataset) -> Iterator[list[int]]:
        """All chunks; those that another process has in hand come last, and are then likely to be stored."""
        later = []
        for indices in _chunks(dataset):
            with self.claimed(dataset, indices) as free:
                if free:
                    yield indices
                else:
                    later.append(indices)
        yield from later


def _chunks(dataset: ExampleDataset) -> SizeBuckets:
    return SizeBuckets(dataset, CHUNK, pixels=CHUNK_PIXELS)
