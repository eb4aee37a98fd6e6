"""One run: prepare heatmaps and embeddings, evaluate prompts and masks, keep every image's numbers.

Heatmaps and embeddings depend on the data and the weights alone; prompts and masks on everything else.
`Experiment.prepare` is the first half, `Experiment.evaluate` the second. Knows nothing of configs,
files or W&B.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from pycocotools import mask as coco

from gradsam_exp.data.base import ImageDataset
from gradsam_exp.memory import Portion
from gradsam_exp.metrics.base import PerImageMetric
from gradsam_exp.metrics.heatmaps import (
    HeatmapQuality,
    best_threshold_iou,
    energy_pointing_game,
    pointing_game,
    sparsity,
)
from gradsam_exp.metrics.masks import MeanMaskIoU
from gradsam_exp.metrics.points import PointDistance, PointHitRate
from gradsam_exp.pipeline import Pipeline, PipelineResult
from gradsam_exp.preparation import CHUNK, Preparation, Prepared
from gradsam_exp.types import BACKGROUND, FOREGROUND, PromptContext, Prompts

LOGITS_BYTES = 2**29  # of the masks of images that are segmented together; selectors need a few times this
Observer = Callable[[Prepared, PipelineResult], None]


@dataclass(frozen=True)
class Evaluation:
    """What a run found.

    Attributes:
        per_image: one row per image, by name.
        predictions: prompts (JSON) and mask (COCO RLE) of every image, in the same order.
        seconds: time by stage.
    """

    per_image: pd.DataFrame
    predictions: pd.DataFrame
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
        self._portion = Portion("segment", CHUNK, first=8)  # how many queries an image needs is not known yet

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
        rows: list[dict[str, Any]] = []
        predictions: list[dict[str, Any]] = []
        for item in prepared:
            for part, result in self._parts(item):
                with self.stopwatch.time("score"):
                    metrics.update(result, part)
                    rows += _facts(part, result, names)
                    predictions += _predictions(part, result)
                if on_batch is not None:
                    on_batch(part, result)
        per_image = pd.concat([pd.DataFrame(rows), metrics.per_image()], axis=1)
        return Evaluation(
            per_image=_in_order(per_image),
            predictions=_in_order(pd.DataFrame(predictions)),
            seconds=dict(self.stopwatch.seconds),
        )

    def _parts(self, item: Prepared) -> Iterator[tuple[Prepared, PipelineResult]]:
        """The chunk in portions whose logits fit into memory, with what the pipeline made of them."""
        for part, result in self._portion.slices(len(item.batch), lambda rows: self._segmented(item[rows])):
            largest = int(torch.bincount(result.prompts.image_index, minlength=1).max())
            logits = largest * result.segmentation.logits[:1].nbytes
            self._portion.fit(LOGITS_BYTES // max(1, logits))
            yield part, result

    def _segmented(self, item: Prepared) -> tuple[Prepared, PipelineResult]:
        ctx = PromptContext(
            item.batch.images,
            item.heatmaps,
            item.batch.image_ids,
            seed=self.seed,
            masks=item.batch.masks if self.pipeline.needs_truth else None,
        )
        with self.stopwatch.time("segment"):
            return item, self.pipeline(ctx, item.embeddings)


class _Metrics:
    """The torchmetrics of a run; columns of the per-image table."""

    def __init__(self) -> None:
        self.masks = {"iou": MeanMaskIoU()}
        self.points = {
            "fg_hit_rate": PointHitRate(FOREGROUND),
            "bg_hit_rate": PointHitRate(BACKGROUND),
            "distance_px": PointDistance(),
        }
        self.heatmaps = {
            "pointing_game": HeatmapQuality(pointing_game),
            "energy_in_mask": HeatmapQuality(energy_pointing_game),
            "best_threshold_iou": HeatmapQuality(best_threshold_iou),
            "sparsity": HeatmapQuality(lambda heatmaps, _: sparsity(heatmaps)),
        }
        self.all: dict[str, PerImageMetric] = {**self.masks, **self.points, **self.heatmaps}

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
        for heatmap_metric in self.heatmaps.values():
            heatmap_metric.update(item.heatmaps.values, truth)

    def per_image(self) -> pd.DataFrame:
        return pd.DataFrame({name: metric.per_image().numpy() for name, metric in self.all.items()})


def _facts(item: Prepared, result: PipelineResult, names: Sequence[str]) -> list[dict[str, Any]]:
    """Columns that are no metrics."""
    truth = item.batch.masks
    labels = result.prompts.labels
    asked = result.prompts.image_index
    return [
        {
            "image_id": image_id,
            "class_name": names[label] if (label := int(item.batch.labels[k])) >= 0 else None,
            "predicted_class": names[int(item.predicted[k])],
            "correct": bool(item.predicted[k] == label) if label >= 0 else None,
            "score": float(result.scores[k]),
            "token": int(result.choice.token[k]),
            "rounds": int(result.rounds[k]),
            "fg_points": int((labels[asked == k] == FOREGROUND).sum()),
            "bg_points": int((labels[asked == k] == BACKGROUND).sum()),
            "empty_heatmap": bool(item.heatmaps.empty[k]),
            "empty_truth": bool(~truth[k].any()) if truth is not None else None,
            "mask_px": int(result.masks[k].sum()),
            **{name: float(values[k]) for name, values in item.faithfulness.items()},
        }
        for k, image_id in enumerate(item.batch.image_ids)
    ]


def _predictions(item: Prepared, result: PipelineResult) -> list[dict[str, Any]]:
    rows = []
    for k, image_id in enumerate(item.batch.image_ids):
        encoded = coco.encode(np.asfortranarray(result.masks[k].numpy().astype(np.uint8)))
        own = result.prompts[result.prompts.image_index == k]
        rows.append(
            {
                "image_id": image_id,
                "height": encoded["size"][0],
                "width": encoded["size"][1],
                "mask_rle": encoded["counts"].decode("ascii"),
                "prompts": json.dumps(_prompts_as_lists(own)),
            }
        )
    return rows


def _prompts_as_lists(prompts: Prompts) -> list[dict[str, Any]]:
    queries = []
    for q in range(len(prompts)):
        real = prompts.labels[q] >= 0
        query: dict[str, Any] = {
            "points": [[round(float(v), 3) for v in xy] for xy in prompts.points[q][real]],
            "labels": prompts.labels[q][real].tolist(),
        }
        if prompts.boxes is not None:
            query["box"] = [round(float(v), 3) for v in prompts.boxes[q]]
        queries.append(query)
    return queries


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by image name: batches come by image size."""
    return table.sort_values("image_id", kind="stable").reset_index(drop=True)
