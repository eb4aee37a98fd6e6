"""One run: prepare heatmaps and embeddings, evaluate prompts and masks, keep every image's numbers.

Heatmaps and embeddings depend on the data and the weights alone; prompts and masks on everything else.
`Experiment.prepare` is the first half, `Experiment.evaluate` the second. Knows nothing of configs,
files or W&B.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from gradsam_exp.batching import AdaptiveBatch
from gradsam_exp.data.base import ImageDataset
from gradsam_exp.engine.pipeline import Pipeline, PipelineResult
from gradsam_exp.engine.predictions import encode_predictions
from gradsam_exp.engine.preparation import CHUNK, Preparation, Prepared
from gradsam_exp.metrics.base import ExampleMetric
from gradsam_exp.metrics.masks import MeanMaskIoU
from gradsam_exp.metrics.points import PointDistance, PointHitRate
from gradsam_exp.types import BACKGROUND, FOREGROUND, PromptContext, Prompts

LOGITS_BYTES = 2**29  # of the masks of images that are segmented together; selectors need a few times this
_FIRST = 8  # images, as it is not known how many queries each needs
Observer = Callable[[Prepared, PipelineResult], None]


@dataclass(frozen=True)
class Evaluation:
    """What a run found.

    Attributes:
        per_image: one row per image, by name.
        predictions: prompts (JSON) and mask (COCO RLE) of every image, in the same order.
        prepared: of each chunk its ``image_ids``, and in ``stored`` where the store keeps it.
        seconds: time by stage.
    """

    per_image: pd.DataFrame
    predictions: pd.DataFrame
    prepared: list[dict[str, Any]]
    seconds: dict[str, float]


class Experiment:
    """Everything that stands behind one run.

    Args:
        preparation: heatmaps and embeddings.
        pipeline: prompts and masks; its segmenter is the one that encodes.
        seed: of random prompt strategies.
    """

    def __init__(self, preparation: Preparation, pipeline: Pipeline, *, seed: int = 0) -> None:
        self.prepare, self.pipeline, self.seed = preparation, pipeline, seed
        self.stopwatch = preparation.stopwatch
        self._batches = AdaptiveBatch("segment", CHUNK)

    def run(
        self,
        dataset: ImageDataset,
        *,
        batch_size: int = 32,
        on_batch: Observer | None = None,
    ) -> Evaluation:
        """Evaluate every image of ``dataset``; ``on_batch`` sees each chunk that is done."""
        return self.evaluate(self.prepare(dataset, batch_size=batch_size), on_batch=on_batch)

    def evaluate(
        self,
        prepared: Iterable[Prepared],
        *,
        on_batch: Observer | None = None,
    ) -> Evaluation:
        """Prompt, segment and score what was prepared."""
        names = self.prepare.explained.class_names
        metrics = _Metrics()
        facts: list[pd.DataFrame] = []
        predictions: list[pd.DataFrame] = []
        chunks: list[dict[str, Any]] = []
        for item in prepared:
            chunks.append({"image_ids": list(item.batch.image_ids), "stored": dict(item.stored)})
            for part, result in self._parts(item):
                with self.stopwatch.time("score", len(part.batch)):
                    metrics.update(result, part)
                    facts.append(pd.DataFrame(_facts(part, result, names)))
                    encoded = encode_predictions(part.batch.image_ids, result.masks, result.prompts)
                    predictions.append(pd.DataFrame(encoded))
                if on_batch is not None:
                    on_batch(part, result)
        per_image = pd.concat([pd.concat(facts, ignore_index=True), metrics.per_image()], axis=1)
        return Evaluation(
            per_image=_in_order(per_image),
            predictions=_in_order(pd.concat(predictions)),
            prepared=chunks,
            seconds=dict(self.stopwatch.seconds),
        )

    def _parts(self, item: Prepared) -> Iterator[tuple[Prepared, PipelineResult]]:
        """The chunk in portions whose logits fit into memory, with what the pipeline made of them."""
        self._batches.fit(_FIRST)  # in every chunk, so that no result depends on which came before
        for part, result in self._batches.slices(len(item.batch), lambda rows: self._segmented(item[rows])):
            largest = int(torch.bincount(result.prompts.image_index, minlength=1).max())
            logits = largest * result.segmentation.logits[:1].nbytes
            self._batches.fit(LOGITS_BYTES // max(1, logits))
            yield part, result

    def _segmented(self, item: Prepared) -> tuple[Prepared, PipelineResult]:
        ctx = PromptContext(
            item.batch.images,
            item.heatmaps,
            item.batch.image_ids,
            seed=self.seed,
            masks=item.batch.masks if self.pipeline.needs_truth else None,
        )
        with self.stopwatch.time("segment") as count:
            result = self.pipeline(ctx, item.embeddings)
            count(len(item.batch))  # not if memory runs out
        return item, result


class _Metrics:
    """The torchmetrics of a run; columns of the per-image table."""

    def __init__(self) -> None:
        self.masks = {"iou": MeanMaskIoU()}
        self.points = {
            "fg_hit_rate": PointHitRate(FOREGROUND),
            "bg_hit_rate": PointHitRate(BACKGROUND),
            "distance_px": PointDistance(),
        }
        self.all: dict[str, ExampleMetric] = {**self.masks, **self.points}

    def update(self, result: PipelineResult, item: Prepared) -> None:
        truth = item.batch.masks
        if truth is None:
            for metric in self.all.values():
                metric.record(torch.full((len(item.batch),), torch.nan))
            return
        for mask_metric in self.masks.values():
            mask_metric.update(result.masks, truth)
        for point_metric in self.points.values():
            point_metric.update(result.prompts, truth)

    def per_image(self) -> pd.DataFrame:
        return pd.DataFrame({name: metric.per_image().numpy() for name, metric in self.all.items()})


def _facts(item: Prepared, result: PipelineResult, names: Sequence[str]) -> dict[str, Any]:
    """Columns that are no metrics of masks and prompts."""
    labels, predicted, truth = item.batch.labels.tolist(), item.predicted.tolist(), item.batch.masks
    return {
        "image_id": list(item.batch.image_ids),
        "class_name": [names[label] if label >= 0 else None for label in labels],
        "predicted_class": [names[label] for label in predicted],
        "correct": [
            guess == label if label >= 0 else None for guess, label in zip(predicted, labels, strict=True)
        ],
        "predicted_iou": result.predicted_iou.tolist(),
        "candidate": result.candidates.tolist(),
        "rounds": result.rounds.tolist(),
        "fg_points": _points(result.prompts, FOREGROUND, len(item.batch)),
        "bg_points": _points(result.prompts, BACKGROUND, len(item.batch)),
        "empty_heatmap": item.heatmaps.empty.tolist(),
        "empty_truth": [None] * len(item.batch) if truth is None else (~truth.flatten(1).any(1)).tolist(),
        "mask_px": result.masks.flatten(1).sum(1).tolist(),
        **{name: values.tolist() for name, values in item.quality.items()},
    }


def _points(prompts: Prompts, label: int, images: int) -> list[int]:
    """How many points of this label every image has."""
    counts = torch.zeros(images, dtype=torch.long)
    return counts.index_add(0, prompts.image_index, (prompts.labels == label).sum(1)).tolist()


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by image name: batches come by image size."""
    return table.sort_values("image_id", kind="stable").reset_index(drop=True)
