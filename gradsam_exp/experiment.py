"""One run: prepare heatmaps and embeddings, evaluate prompts and masks, keep every image's numbers.

Heatmaps and embeddings depend on the data and the weights alone; prompts and masks on everything else.
`Experiment.prepare` is the first half, `Experiment.evaluate` the second. Knows nothing of configs,
files or W&B.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from pycocotools import mask as coco
from torch import Tensor

from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.data.base import ImageDataset, loader
from gradsam_exp.errors import InputError, did_you_mean
from gradsam_exp.explainers.base import Explainer, evaluation_mode, network_input, to_frame
from gradsam_exp.metrics.base import PerImageMetric
from gradsam_exp.metrics.heatmaps import (
    HeatmapQuality,
    best_threshold_iou,
    energy_pointing_game,
    faithfulness,
    pointing_game,
    sparsity,
)
from gradsam_exp.metrics.masks import MeanMaskIoU
from gradsam_exp.metrics.points import PointDistance, PointHitRate
from gradsam_exp.pipeline import Pipeline, PipelineResult
from gradsam_exp.refinement.base import Refiner
from gradsam_exp.segmenters.base import Embeddings
from gradsam_exp.types import BACKGROUND, FOREGROUND, Heatmaps, ImageBatch, PromptContext, Prompts

Target = Literal["predicted", "label"]
_ROWS = 8  # batches are filled up to a multiple of this, see `_filled`


@dataclass(frozen=True)
class Prepared:
    """One batch with all that does not depend on prompts.

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


Observer = Callable[[Prepared, PipelineResult], None]


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
        classifier: loaded, in eval mode.
        explainer: explains ``classifier``.
        refiner: applied to its heatmaps.
        pipeline: its segmenter is loaded.
        target: explain the ``predicted`` class, or the true one (``label``).
        seed: of random prompt strategies.
        faithful: measure as well how the classifier reacts when what the heatmaps mark is taken away.
        device: where the classifier runs.
    """

    def __init__(
        self,
        classifier: ImageClassifier,
        explainer: Explainer,
        refiner: Refiner,
        pipeline: Pipeline,
        *,
        target: Target = "predicted",
        seed: int = 0,
        faithful: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.classifier = classifier.to(device)
        self.explainer, self.refiner, self.pipeline = explainer, refiner, pipeline
        self.target, self.seed, self.faithful, self.device = target, seed, faithful, device
        self.stopwatch = Stopwatch()

    def run(
        self,
        dataset: ImageDataset,
        *,
        batch_size: int = 32,
        on_batch: Observer | None = None,
    ) -> Evaluation:
        """Evaluate every image of ``dataset``; ``on_batch`` sees each batch that is done."""
        return self.evaluate(self.prepare(dataset, batch_size=batch_size), on_batch=on_batch)

    def prepare(self, dataset: ImageDataset, *, batch_size: int = 32) -> Iterator[Prepared]:
        """Heatmaps and embeddings, batch by batch; every batch has images of one size."""
        class_ids = align_classes(dataset.class_names, self.classifier.class_names)
        batches = iter(loader(dataset, batch_size))
        while True:
            with self.stopwatch.time("data"):
                batch = next(batches, None)
            if batch is None:
                return
            labels = torch.where(batch.labels >= 0, class_ids[batch.labels], -1)
            with self.stopwatch.time("explain"):
                heatmaps = self.refiner(batch.images, self._explain(batch.images, labels))
            with self.stopwatch.time("encode"):
                embeddings = self.pipeline.segmenter.encode(batch.images)
            with self.stopwatch.time("faithfulness") if self.faithful else nullcontext():
                faithful = self._faithfulness(batch.images, heatmaps) if self.faithful else {}
            predicted = heatmaps.targets if heatmaps.logits is None else heatmaps.logits.argmax(1)
            yield Prepared(replace(batch, labels=labels), heatmaps, embeddings, predicted, faithful)

    def _explain(self, images: Tensor, labels: Tensor) -> Heatmaps:
        count = len(images)
        images = _filled(images).to(self.device)
        targets = _filled(labels).to(self.device) if self.target == "label" else None
        if targets is not None and (labels < 0).any():
            raise InputError(
                "explainer.target=label needs a label for every image; use explainer.target=predicted"
            )
        maps = self.explainer(images, targets)
        return Heatmaps(
            maps.values[:count].cpu(),
            maps.empty[:count].cpu(),
            maps.targets[:count].cpu(),
            None if maps.logits is None else maps.logits[:count].cpu(),
        )

    def _faithfulness(self, images: Tensor, heatmaps: Heatmaps) -> dict[str, Tensor]:
        """Of the heatmaps that are used, at the network's resolution; NaN for an empty one."""
        pixels = network_input(self.classifier, images)

        def predict(changed: Tensor) -> Tensor:
            return self.classifier(_filled(changed).to(self.device))[: len(changed)].cpu()

        with evaluation_mode(self.classifier):
            maps = to_frame(heatmaps.values, (pixels.shape[-2], pixels.shape[-1]))
            found = faithfulness(predict, pixels, maps, heatmaps.targets)
        return {name: torch.where(heatmaps.empty, torch.nan, values) for name, values in found.items()}

    def evaluate(
        self,
        prepared: Iterable[Prepared],
        *,
        on_batch: Observer | None = None,
    ) -> Evaluation:
        """Prompt, segment and score what was prepared."""
        names = self.classifier.class_names
        metrics = _Metrics()
        rows: list[dict[str, Any]] = []
        predictions: list[dict[str, Any]] = []
        for item in prepared:
            ctx = PromptContext(
                item.batch.images,
                item.heatmaps,
                item.batch.image_ids,
                seed=self.seed,
                masks=item.batch.masks if self.pipeline.needs_truth else None,
            )
            with self.stopwatch.time("segment"):
                result = self.pipeline(ctx, item.embeddings)
            with self.stopwatch.time("score"):
                metrics.update(result, item)
                rows += _facts(item, result, names)
                predictions += _predictions(item, result)
            if on_batch is not None:
                on_batch(item, result)
        per_image = pd.concat([pd.DataFrame(rows), metrics.per_image()], axis=1)
        return Evaluation(
            per_image=_in_order(per_image),
            predictions=_in_order(pd.DataFrame(predictions)),
            seconds=dict(self.stopwatch.seconds),
        )


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


def _filled(rows: Tensor) -> Tensor:
    """Repeat the last row up to a multiple of `_ROWS`.

    Matrix kernels round differently for one or two rows than for many; with this the results do not
    depend on the batch size.
    """
    missing = -len(rows) % _ROWS
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows


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
