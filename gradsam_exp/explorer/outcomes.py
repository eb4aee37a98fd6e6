"""This module computes what becomes of images with a setting.

Heatmaps and embeddings are those of the store, as of any run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
from jaxtyping import Bool
from torch import Tensor

from gradsam_exp.data.base import ExampleDataset, Limited, SizeBuckets
from gradsam_exp.data.given import GivenPictures
from gradsam_exp.engine.experiment import Experiment
from gradsam_exp.engine.pipeline import Pipeline, PipelineResult
from gradsam_exp.engine.plan import Plan, find_dataset, plan
from gradsam_exp.engine.preparation import CHUNK, CHUNK_PIXELS, Prepared
from gradsam_exp.engine.session import Job
from gradsam_exp.engine.suitability import check_kinds
from gradsam_exp.errors import InputError
from gradsam_exp.explorer.choices import Choices, State
from gradsam_exp.explorer.desk import Steps
from gradsam_exp.explorer.hand import Handmade
from gradsam_exp.explorer.recent import Recent
from gradsam_exp.overlap import iou, only_counted
from gradsam_exp.segmenters.base import Segmenter
from gradsam_exp.types import ExampleBatch

SAMPLE = 64  # images of the live mIoU
PART = 8  # images that are prepared in one step, between which more urgent questions are answered


@dataclass(frozen=True)
class Outcome:
    """Holds one image with all that became of it; the segmenter is loaded."""

    plan: Plan
    segmenter: Segmenter
    prepared: Prepared
    result: PipelineResult
    example: int

    @property
    def iou(self) -> float | None:
        """Compares the kept mask with the true one, see `quality`."""
        return self.quality(self.result.masks[self.example])

    def quality(self, mask: Bool[Tensor, "height width"]) -> float | None:
        """Compute the IoU of a mask and the true one over the pixels that count, in [0, 1]; None without truth."""
        batch, row = self.prepared.batch, self.example
        if batch.masks is None:
            return None
        counted = None if batch.counted is None else batch.counted[row]
        return float(iou(*only_counted(mask, batch.masks[row], counted=counted)))


class Outcomes:
    """Computes what becomes of images with a setting, and keeps what the next question may need.

    Args:
        choices: how a setting becomes a configuration.
        job: its session keeps networks.
    """

    def __init__(self, choices: Choices, job: Job) -> None:
        self.choices, self.job = choices, job
        self.config = choices.config(State())
        self.dataset = find_dataset(self.config, self.config.split)
        self.uploads: list[GivenPictures] = []
        self._sample = Limited(self.dataset, min(SAMPLE, len(self.dataset)))
        self._plans: Recent[Plan] = Recent(64)
        self._prepared: Recent[Prepared] = Recent(128)
        self._scored: Recent[pd.DataFrame] = Recent(16)
        self._buckets = list(SizeBuckets(self.dataset, CHUNK, pixels=CHUNK_PIXELS))
        self._chunk_of = {index: chunk for chunk in self._buckets for index in chunk}

    def plan(self, state: State, *, sample: bool = False) -> Plan:
        """Plan what a state asks for; on the ``sample`` of the images alone.

        Raises:
            InputError: what a run with this setting would be refused for.
        """

        def make() -> Plan:
            config = self.choices.config(state)
            config = replace(config, metrics={"miou": True}, devices=1)
            job = replace(self.job, overrides=tuple(self.choices.overrides(state)))
            return plan(config, job, lambda names: self._images(state, sample, names))

        return self._plans.made((state.setting, state.upload, sample), make)

    def _images(self, state: State, sample: bool, names: Sequence[str]) -> ExampleDataset:
        if state.upload is None:
            return self._sample if sample else self.dataset
        if state.upload >= len(self.uploads):
            raise InputError("the picture that was dropped is not here any more: drop it again")
        return self.uploads[state.upload].with_classes(names)

    def of(self, state: State) -> Steps[Outcome]:
        """Compute what becomes of one image.

        Raises:
            InputError: what a run with this setting would be refused for.
        """
        planned = self.plan(state)
        if self.job.session.kept("segmenter") is None:
            yield {"now": f"reading the weights of sam={planned.segmenter_name}"}
        experiment = planned.experiment(among_others=True)
        index = 0 if state.upload is not None else min(state.image, len(self.dataset) - 1)
        prepared = yield from self._prepare(planned, experiment, index)
        example = min(state.example, len(prepared.batch) - 1)
        if state.hand is not None:
            experiment = self._by_hand(planned, experiment, Handmade(state.hand, example))
        results: list[PipelineResult] = []
        experiment.evaluate([prepared], on_batch=lambda part, result: results.append(result))
        return Outcome(planned, experiment.pipeline.segmenter, prepared, results[0], example)

    def _prepare(self, planned: Plan, experiment: Experiment, index: int) -> Steps[Prepared]:
        """Prepare one image: with its chunk where runs have put that into the store, else alone."""
        prepare, dataset = experiment.prepare, planned.dataset
        recipe = (tuple(prepare.recipe), dataset.store_digest)
        if (*recipe, index) not in self._prepared:
            chunk = [index] if len(dataset) == 1 else self._chunk_of[index]
            if not self._is_stored(planned, experiment, chunk):
                chunk = [index]
                if not self._is_stored(planned, experiment, chunk):
                    yield {"now": f"explaining and encoding the image, once (sam={planned.segmenter_name})"}
            found = self._chunk(planned, experiment, chunk)
            for place, one in enumerate(chunk):
                self._prepared[(*recipe, one)] = found[place : place + 1]
        return self._prepared[(*recipe, index)]

    @staticmethod
    def _is_stored(planned: Plan, experiment: Experiment, chunk: list[int]) -> bool:
        prepare = experiment.prepare
        return prepare.store.root is not None and not prepare.missing(planned.dataset, [chunk])

    def _by_hand(self, planned: Plan, experiment: Experiment, strategy: Handmade) -> Experiment:
        segmenter = experiment.pipeline.segmenter
        sam = planned.segmenter_name
        check_kinds(strategy.asked, segmenter.accepts, "prompts given by hand", sam)
        pipeline = Pipeline(strategy, segmenter, experiment.pipeline.selector)
        return Experiment(experiment.prepare, pipeline, seed=experiment.seed)

    def table(self, state: State, everything: bool) -> Steps[pd.DataFrame]:
        """Compute the per-example table of a setting, of the sample or of all images.

        Raises:
            InputError: the setting is refused, or the images have no true masks.
        """
        setting = State(choices=state.choices, knobs=state.knobs)
        key = (setting.setting, everything)
        if key not in self._scored:
            planned = self.plan(setting, sample=not everything)
            experiment = planned.experiment(among_others=True)
            tables, done, total = [], 0, len(planned.dataset)
            for chunk in SizeBuckets(planned.dataset, CHUNK, pixels=CHUNK_PIXELS):
                whole = self._is_stored(planned, experiment, chunk)
                parts = [chunk] if whole else [chunk[k : k + PART] for k in range(0, len(chunk), PART)]
                prepared = []
                for part in parts:
                    yield {"done": done, "total": total}
                    make = partial(self._chunk, planned, experiment, part)
                    kept = (tuple(experiment.prepare.recipe), planned.dataset.store_digest, tuple(part))
                    prepared.append(make() if everything else self._prepared.made(kept, make))
                    done += len(part)
                yield {"done": done, "total": total}
                tables.append(experiment.evaluate(prepared).per_image)
            table = pd.concat(tables).sort_values("example_id", kind="stable").reset_index(drop=True)
            if table["iou"].isna().all():
                raise InputError("the images have no true masks: there is no IoU to compute")
            self._scored[key] = table
        return self._scored[key]

    def _chunk(self, planned: Plan, experiment: Experiment, chunk: list[int]) -> Prepared:
        """Prepare some images together."""
        most = self.config.batch_size
        return next(iter(experiment.prepare(planned.dataset, batch_size=most, chunks=[chunk])))

    def batches(self) -> Iterator[tuple[list[int], ExampleBatch]]:
        """Read all images, chunk by chunk, with their numbers."""
        planned = self.plan(State())
        prepare = planned.preparation()
        for chunk in self._buckets:
            yield chunk, next(iter(prepare.images(planned.dataset, chunks=[chunk])))
