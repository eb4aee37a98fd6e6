"""The few images of a run that are worth drawing, kept while the others pass by."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from gradsam_exp.engine.pipeline import PipelineResult
from gradsam_exp.engine.preparation import Prepared
from gradsam_exp.overlap import iou


@dataclass(frozen=True)
class Example:
    """One image with everything that happened to it, as arrays.

    Attributes:
        class_name: the true one; the predicted one where that is not known.
        points: ``(x, y)`` px, of all of the image's queries.
        labels: 1 foreground, 0 background.
        boxes: ``x0, y0, x1, y1`` px.
        truth: None where there is none; ``iou`` is then NaN.
        predicted_class: what the classifier sees, which the heatmap explains; empty if that is not said.
    """

    image_id: str
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


class Gallery:
    """Sees every batch of a run, in any order; keeps the first images by name, and the worst.

    Of the first, one of each class comes before a second of any.

    Args:
        class_names: the classifier's.
        first, worst: how many to keep.
    """

    def __init__(self, class_names: Sequence[str], *, first: int, worst: int) -> None:
        self.class_names, self.first, self.worst = class_names, first, worst
        self._by_class: dict[int, list[Example]] = {}
        self._worst: list[Example] = []

    def __call__(self, item: Prepared, result: PipelineResult) -> None:
        """Look at one batch."""
        truth = item.batch.masks
        ious = iou(result.masks, truth).tolist() if truth is not None else [float("nan")] * len(item.batch)
        for k, value in enumerate(ious):
            name = item.batch.image_ids[k]
            of_class = self._by_class.setdefault(int(item.batch.labels[k]), [])
            is_first = _belongs((name,), of_class, self.first, _by_name)
            is_worst = truth is not None and _belongs((value, name), self._worst, self.worst, _by_iou)
            if is_first or is_worst:
                example = self._example(item, result, k, value)
                if is_first:
                    _insert(example, of_class, self.first, _by_name)
                if is_worst:
                    _insert(example, self._worst, self.worst, _by_iou)

    def first_examples(self) -> list[Example]:
        """The first image of each class, then the second of each, …, in the classes' order."""
        rounds = [
            [examples[turn] for _, examples in sorted(self._by_class.items()) if turn < len(examples)]
            for turn in range(self.first)
        ]
        return [example for chosen in rounds for example in chosen][: self.first]

    def worst_examples(self) -> list[Example]:
        """The images with the lowest IoU, worst first."""
        return list(self._worst)

    def _example(self, item: Prepared, result: PipelineResult, k: int, iou: float) -> Example:
        prompts = result.prompts[result.prompts.image_index == k]
        label, predicted = int(item.batch.labels[k]), self.class_names[int(item.predicted[k])]
        real = prompts.labels >= 0
        truth = item.batch.masks
        boxes = np.zeros((0, 4), dtype=np.float32) if prompts.boxes is None else prompts.boxes.numpy()
        return Example(
            image_id=item.batch.image_ids[k],
            class_name=self.class_names[label] if label >= 0 else predicted,
            image=item.batch.images[k].permute(1, 2, 0).numpy(),
            heatmap=item.heatmaps.values[k].numpy(),
            points=prompts.points[real].numpy(),
            labels=prompts.labels[real].numpy(),
            boxes=boxes,
            mask=result.masks[k].numpy(),
            truth=None if truth is None else truth[k].numpy(),
            iou=iou,
            predicted_class=predicted,
        )


Key = Callable[[Example], tuple[Any, ...]]


def _by_name(example: Example) -> tuple[Any, ...]:
    return (example.image_id,)


def _by_iou(example: Example) -> tuple[Any, ...]:
    return example.iou, example.image_id


def _belongs(key: tuple[Any, ...], kept: Sequence[Example], most: int, by: Key) -> bool:
    """Whether an example is one of the first ``most``, as far as is known."""
    return len(kept) < most or (most > 0 and key < by(kept[-1]))


def _insert(example: Example, kept: list[Example], most: int, by: Key) -> None:
    insort(kept, example, key=by)
    del kept[most:]
