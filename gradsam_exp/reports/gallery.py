"""This module picks the few images of a run that are drawn: the first by name, and those of the lowest IoU."""

import math
from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor

from gradsam_exp.engine.pipeline import PipelineResult
from gradsam_exp.engine.preparation import Prepared
from gradsam_exp.metrics.masks import MeanMaskIoU
from gradsam_exp.reports.pictures import fitting, shrunk_mask

MOST_SIDE = 512  # px; larger images are made smaller


@dataclass(frozen=True)
class Example:
    """Holds one example with everything that happened to it, as arrays.

    Attributes:
        class_name: the true one; the predicted one where that is not known.
        points: ``(x, y)`` px, of all of the example's queries.
        labels: 1 foreground, 0 background.
        boxes: ``x0, y0, x1, y1`` px.
        truth: None where there is none; ``iou`` is then NaN.
        predicted_class: what the classifier sees, which the heatmap explains; empty if that is not said.
    """

    example_id: str
    class_name: str
    image: UInt8[np.ndarray, "height width 3"]
    heatmap: Float[np.ndarray, "height width"]
    points: Float[np.ndarray, "points 2"]
    labels: Int[np.ndarray, " points"]
    boxes: Float[np.ndarray, "boxes 4"]
    mask: Bool[np.ndarray, "height width"]
    truth: Bool[np.ndarray, "height width"] | None
    iou: float
    predicted_class: str = ""


Ranked = tuple[tuple[Any, ...], Example]  # with what it is ranked by


def ious_of(item: Prepared, result: PipelineResult) -> Float[Tensor, " examples"]:
    """Compute the IoU of each example of a chunk, over the pixels that count; NaN without a true mask."""
    known = {"masks": result.masks, "truth": item.batch.masks, "counted": item.batch.counted}
    return MeanMaskIoU().measure_known(known, len(item.batch))


class Gallery:
    """Keeps the first images of a run by name, and the worst, of batches that come in any order.

    Of the first, one of each class comes before a second of any.

    Args:
        class_names: the classifier's.
        first, worst: how many to keep.
        max_side: px; larger images are made smaller to be drawn. None keeps them as they are.
    """

    def __init__(
        self, class_names: Sequence[str], *, first: int, worst: int, max_side: int | None = MOST_SIDE
    ) -> None:
        self.class_names, self.first, self.worst, self.max_side = class_names, first, worst, max_side
        self._by_class: dict[int, list[Ranked]] = {}
        self._worst: list[Ranked] = []

    def __call__(self, item: Prepared, result: PipelineResult) -> None:
        """Look at one batch, and keep what belongs to the first or the worst."""
        for k, value in enumerate(ious_of(item, result).tolist()):
            name, make = item.batch.example_ids[k], partial(self._example, item, result, k, value)
            of_class = self._by_class.setdefault(int(item.batch.labels[k]), [])
            _offer(of_class, (name,), self.first, make)
            if not math.isnan(value):
                _offer(self._worst, (value, name), self.worst, make)

    def first_examples(self) -> list[Example]:
        """Return the first image of each class, then the second of each, …, in the classes' order."""
        classes = [ranked for _, ranked in sorted(self._by_class.items())]
        longest = max(map(len, classes), default=0)
        turns = [ranked[turn] for turn in range(longest) for ranked in classes if turn < len(ranked)]
        return [example for _, example in turns[: self.first]]

    def worst_examples(self) -> list[Example]:
        """Return the images with the lowest IoU, worst first."""
        return [example for _, example in self._worst]

    def _example(self, item: Prepared, result: PipelineResult, k: int, iou: float) -> Example:
        prompts, truth = result.prompts[result.prompts.example_index == k], item.batch.masks
        label, predicted = int(item.batch.labels[k]), self.class_names[int(item.predicted[k])]
        real = prompts.labels >= 0
        example = Example(
            example_id=item.batch.example_ids[k],
            class_name=self.class_names[label] if label >= 0 else predicted,
            image=item.batch.images[item.batch.image_of[k]].permute(1, 2, 0).numpy(),
            heatmap=item.heatmaps.values[k].numpy(),
            points=prompts.points[real].numpy(),
            labels=prompts.labels[real].numpy(),
            boxes=np.zeros((0, 4), dtype=np.float32) if prompts.boxes is None else prompts.boxes.numpy(),
            mask=result.masks[k].numpy(),
            truth=None if truth is None else truth[k].numpy(),
            iou=iou,
            predicted_class=predicted,
        )
        return example if self.max_side is None else fitted(example, self.max_side)


def _offer(kept: list[Ranked], key: tuple[Any, ...], most: int, make: Callable[[], Example]) -> None:
    """Keep an example if it is one of the first ``most`` by its key, as far as is known."""
    if len(kept) < most or (most > 0 and key < kept[-1][0]):
        insort(kept, (key, make()), key=itemgetter(0))
        del kept[most:]


def fitted(example: Example, side: int = MOST_SIDE) -> Example:
    """Make an example at most ``side`` px wide and high; coordinates keep naming pixel centres."""
    height, width = example.image.shape[:2]
    size, scale = fitting((width, height), side)
    if scale == 1:
        return example
    ratio = np.array([size[0] / width, size[1] / height], dtype=np.float32)

    def shrunk(values: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX))

    return replace(
        example,
        image=shrunk(example.image),
        heatmap=shrunk(example.heatmap),
        points=(example.points + 0.5) * ratio - 0.5,
        boxes=(example.boxes + 0.5) * np.tile(ratio, 2) - 0.5,
        mask=shrunk_mask(example.mask, size),
        truth=None if example.truth is None else shrunk_mask(example.truth, size),
    )
