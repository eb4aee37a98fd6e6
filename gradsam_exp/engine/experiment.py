"""This module makes one run: it prepares heatmaps and embeddings, evaluates prompts and masks, keeps all numbers.

`Experiment.prepare` makes what depends on the data and the weights alone, `Experiment.evaluate` all else. Knows
nothing of configs, files or W&B.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from gradsam_exp.batching import AdaptiveBatch
from gradsam_exp.data.base import ExampleDataset
from gradsam_exp.engine.pipeline import Pipeline, PipelineResult
from gradsam_exp.engine.predictions import encode_predictions
from gradsam_exp.engine.preparation import CHUNK, CHUNK_PIXELS, Preparation, Prepared
from gradsam_exp.errors import InputError
from gradsam_exp.metrics.base import DatasetMetric, ExampleMetric
from gradsam_exp.metrics.class_miou import merge_scores
from gradsam_exp.overlap import only_counted
from gradsam_exp.types import BACKGROUND, FOREGROUND, PromptContext, Prompts

LOGITS_BYTES = 2**29  # of the masks of images that are segmented together; selectors need a few times this
CORRECT = "correct"  # the column of the accuracy, which is there in every run, as true and false
_FIRST = 8  # images, as it is not known how many queries each needs
Observer = Callable[[Prepared, PipelineResult], None]


@dataclass(frozen=True)
class Evaluation:
    """Holds what a run found.

    Attributes:
        metrics: with the values of all images, in no particular order.
        per_image: one row per example, by name; a column for each metric, and facts.
        predictions: prompts (JSON) and mask (COCO RLE) of every example, in the same order.
        counts: what data-set metrics counted: rows of ``metric``, ``image_id``, ``part`` and numbers.
        prepared: of each chunk its ``image_ids``, ``example_ids`` with their ``image_of``, and in ``stored`` where
            the store keeps it.
        seconds: time by stage.
    """

    metrics: tuple[ExampleMetric, ...]
    per_image: pd.DataFrame
    predictions: pd.DataFrame
    counts: pd.DataFrame
    prepared: list[dict[str, Any]]
    seconds: dict[str, float]


class Experiment:
    """Evaluates images by one preparation and one pipeline.

    Args:
        preparation: heatmaps, embeddings, and the metrics that are measured.
        pipeline: prompts and masks; its segmenter is the one that encodes.
        seed: of random prompt strategies.
    """

    def __init__(self, preparation: Preparation, pipeline: Pipeline, *, seed: int = 0) -> None:
        self.prepare, self.pipeline, self.seed = preparation, pipeline, seed
        self.stopwatch = preparation.stopwatch
        self._batches = AdaptiveBatch("segment", CHUNK)

    def run(
        self, dataset: ExampleDataset, *, batch_size: int = 32, on_batch: Observer | None = None
    ) -> Evaluation:
        """Evaluate every image of ``dataset``; ``on_batch`` sees each chunk that is done."""
        return self.evaluate(self.prepare(dataset, batch_size=batch_size), on_batch=on_batch)

    def evaluate(self, prepared: Iterable[Prepared], *, on_batch: Observer | None = None) -> Evaluation:
        """Prompt, segment and score what was prepared."""
        names = self.prepare.explained.class_names
        metrics = deepcopy(self.prepare.metrics)
        for metric in metrics:
            metric.reset()
        facts: list[pd.DataFrame] = []
        predictions: list[pd.DataFrame] = []
        chunks: list[dict[str, Any]] = []
        for group in _gathered(prepared):
            for item in group:
                batch = item.batch
                chunks.append(
                    {
                        "image_ids": list(batch.image_ids),
                        "example_ids": list(batch.example_ids),
                        "image_of": batch.image_of.tolist(),
                        "stored": dict(item.stored),
                    }
                )
            for part, result in self._parts(group):
                with self.stopwatch.time("score", len(part.batch.images)):
                    scores = merge_scores(result.masks, part.heatmaps, result.predicted_iou)
                    facts.append(pd.DataFrame(_facts(part, result, names, scores)))
                    if len(facts) == 1:  # the columns are the same of every part
                        _check_columns(metrics, facts[0])
                    _measure(metrics, part, result, names, scores)
                    batch = part.batch
                    encoded = encode_predictions(
                        batch.example_ids, batch.image_id_of, result.masks, result.prompts
                    )
                    predictions.append(pd.DataFrame(encoded))
                if on_batch is not None:
                    on_batch(part, result)
        own = [metric for metric in metrics if metric.column not in ("", CORRECT)]
        values = {metric.column: metric.per_example().numpy() for metric in own}
        per_image = pd.concat([pd.concat(facts, ignore_index=True), pd.DataFrame(values)], axis=1)
        return Evaluation(
            metrics=metrics,
            per_image=_in_order(per_image),
            predictions=_in_order(pd.concat(predictions)),
            counts=_counts(metrics),
            prepared=chunks,
            seconds=dict(self.stopwatch.seconds),
        )

    def _parts(self, group: Sequence[Prepared]) -> Iterator[tuple[Prepared, PipelineResult]]:
        """The chunks in portions whose logits fit into memory, with what the pipeline made of them."""
        self._batches.fit(_FIRST)  # in every group, so that no result depends on which came before
        count = sum(len(item.batch.images) for item in group)
        for portion in self._batches.slices(count, lambda rows: self._segmented(_cut(group, rows))):
            largest = 1.0
            for part, result in portion:
                of_image = part.batch.image_of[result.prompts.example_index]
                queries = int(torch.bincount(of_image, minlength=1).max())
                largest = max(largest, queries * result.segmentation.logits[:1].nbytes)
                yield part, result
            self._batches.fit(int(LOGITS_BYTES // largest))

    def _segmented(self, parts: Sequence[Prepared]) -> list[tuple[Prepared, PipelineResult]]:
        needs = self.pipeline.strategy.needs
        asked = [
            (
                PromptContext(
                    part.batch.own_images,
                    part.heatmaps,
                    part.batch.example_ids,
                    seed=self.seed,
                    masks=part.batch.masks if self.pipeline.needs_truth else None,
                    counted=part.batch.counted if self.pipeline.needs_truth else None,
                    everything=[
                        part.everything[image] for image in part.batch.image_of.tolist() if part.everything
                    ],
                    explain=self.prepare.explain_again if "classifier" in needs else None,
                ),
                part.embeddings,
            )
            for part in parts
        ]
        with self.stopwatch.time("segment") as count:
            results = self.pipeline.together(asked)
            count(sum(len(part.batch.images) for part in parts))  # not if memory runs out
        return list(zip(parts, results, strict=True))


def _gathered(prepared: Iterable[Prepared]) -> Iterator[list[Prepared]]:
    """Chunks of few images, which are of different sizes, in groups that are decoded together."""
    group: list[Prepared] = []
    images = pixels = 0
    for item in prepared:
        own = len(item.batch.images)
        own_pixels = own * item.batch.size[0] * item.batch.size[1]
        if group and (images + own > CHUNK or pixels + own_pixels > CHUNK_PIXELS):
            yield group
            group, images, pixels = [], 0, 0
        group.append(item)
        images, pixels = images + own, pixels + own_pixels
    if group:
        yield group


def _cut(group: Sequence[Prepared], rows: slice) -> list[Prepared]:
    """Some of the images of a group, counted across its chunks."""
    parts, start = [], 0
    for item in group:
        count = len(item.batch.images)
        first, last = max(rows.start - start, 0), min(rows.stop - start, count)
        if first < last:
            parts.append(item if (first, last) == (0, count) else item[first:last])
        start += count
    return parts


def _measure(
    metrics: Sequence[ExampleMetric],
    item: Prepared,
    result: PipelineResult,
    names: Sequence[str],
    scores: Float[Tensor, " batch"],
) -> None:
    """Record every metric's values of a chunk, those that are stored as well."""
    known = {
        "masks": result.masks,
        "truth": item.batch.masks,
        "prompts": result.prompts,
        "heatmaps": item.heatmaps,
        "predicted": item.predicted,
        "labels": item.batch.labels,
        "images": item.batch.own_images,
        "counted": item.batch.counted,
        "round_ious": result.round_ious,
    }
    for metric in metrics:
        if isinstance(metric, DatasetMetric):
            metric.add({**known, "scores": scores, "image_ids": item.batch.image_id_of, "class_names": names})
            continue
        stored = item.quality.get(metric.name)
        metric.record(metric.measure_known(known, len(item.batch)) if stored is None else stored)


def _counts(metrics: Sequence[ExampleMetric]) -> pd.DataFrame:
    """What data-set metrics counted, by image."""
    rows = [
        {"metric": metric.name, **row}
        for metric in metrics
        if isinstance(metric, DatasetMetric)
        for row in metric.rows
    ]
    table = pd.DataFrame(rows, columns=None if rows else ["metric", "image_id", "part"])
    return table.sort_values(["metric", "image_id", "part"], kind="stable").reset_index(drop=True)


def _check_columns(metrics: Sequence[ExampleMetric], facts: pd.DataFrame) -> None:
    """Refuse, by an `InputError`, a metric whose values would stand in the column of something else."""
    taken = set(facts) - {CORRECT}
    for metric in metrics:
        if isinstance(metric, DatasetMetric):
            continue
        if metric.column in taken:
            raise InputError(f"metrics.{metric.name}: per_image.parquet has a column {metric.column} already")
        taken.add(metric.column)


def _facts(
    item: Prepared, result: PipelineResult, names: Sequence[str], scores: Float[Tensor, " batch"]
) -> dict[str, Any]:
    """The columns that every run has, whatever is measured."""
    labels, predicted, truth = item.batch.labels.tolist(), item.predicted.tolist(), item.batch.masks
    (masks,) = only_counted(result.masks, counted=item.batch.counted)
    if truth is not None:
        (truth,) = only_counted(truth, counted=item.batch.counted)
    return {
        "example_id": list(item.batch.example_ids),
        "image_id": item.batch.image_id_of,
        "group": item.batch.group_of,
        "class_name": [names[label] if label >= 0 else None for label in labels],
        "predicted_class": [names[label] for label in predicted],
        CORRECT: [guess == label if label >= 0 else None for guess, label in zip(predicted, labels, strict=True)],
        "explained_class": [names[target] for target in item.heatmaps.targets.tolist()],
        "predicted_iou": result.predicted_iou.tolist(),
        "merge_score": scores.tolist(),
        "candidate": result.candidates.tolist(),
        "rounds": result.rounds.tolist(),
        "fg_points": _points(result.prompts, FOREGROUND, len(item.batch)),
        "bg_points": _points(result.prompts, BACKGROUND, len(item.batch)),
        "empty_heatmap": item.heatmaps.empty.tolist(),
        "empty_truth": [None] * len(item.batch) if truth is None else (~truth.flatten(1).any(1)).tolist(),
        "truth_px": [None] * len(item.batch) if truth is None else truth.flatten(1).sum(1).tolist(),
        "mask_px": masks.flatten(1).sum(1).tolist(),
    }


def _points(prompts: Prompts, label: int, images: int) -> list[int]:
    """How many points of this label every image has."""
    counts = torch.zeros(images, dtype=torch.long)
    return counts.index_add(0, prompts.example_index, (prompts.labels == label).sum(1)).tolist()


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by example: batches come by image size."""
    return table.sort_values("example_id", kind="stable").reset_index(drop=True)
