"""The images of a finished run that are worth looking at, from the run's files and the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, UInt8
from PIL import Image
from pycocotools import mask as coco

from gradsam_exp.engine.plan import Plan
from gradsam_exp.reports.gallery import Example

MOST_SIDE = 512  # px; larger images are made smaller


class _NotStoredError(Exception):
    """A heatmap would have to be computed."""


def chosen_images(per_image: pd.DataFrame, images: int | Literal["all"]) -> dict[str, str]:
    """Names of the images to show, and why: ``worst``, ``median`` or ``best`` by IoU, or ``all``.

    Where there is no truth, SAM's predicted IoU stands for the IoU. Of few images, each is shown once.
    """
    by = "iou" if per_image["iou"].notna().any() else "predicted_iou"
    ranked = per_image.sort_values([by, "image_id"], kind="stable")["image_id"].tolist()
    if images == "all":
        return dict.fromkeys(ranked, "all")
    middle = max((len(ranked) - images) // 2, 0)
    found: dict[str, str] = {}
    for reason, names in (
        ("worst", ranked[:images]),
        ("best", ranked[::-1][:images]),
        ("median", ranked[middle : middle + images]),
    ):
        found |= {name: reason for name in names if name not in found}
    order = ("worst", "median", "best")
    return {name: found[name] for name in sorted(found, key=lambda n: (order.index(found[n]), ranked.index(n)))}


def examples_of(planned: Plan, run: Path, names: Sequence[str]) -> list[Example]:
    """Some images of a finished run, in this order, from the run's files and the store.

    Large ones are made smaller, see `fitted`. A heatmap that is not in the store is all zero rather than
    computed anew.
    """
    facts = by_image(pd.read_parquet(run / "per_image.parquet"))
    predictions = by_image(pd.read_parquet(run / "predictions.parquet"))
    found = {
        name: fitted(_example(name, image, truth, heat, facts[name], predictions[name]))
        for name, (image, truth, heat) in _read(planned, set(names)).items()
    }
    return [found[name] for name in names]


_Arrays = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]


def _read(planned: Plan, names: set[str]) -> dict[str, _Arrays]:
    """Image, truth and heatmap of each."""
    preparation = planned.preparation()
    preparation.explained.load = _refuse
    found: dict[str, _Arrays] = {}
    try:
        for batch, heatmaps in preparation.explain(planned.dataset, batch_size=planned.config.batch_size):
            for k, name in enumerate(batch.image_ids):
                if name in names:
                    truth = None if batch.masks is None else batch.masks[k].numpy()
                    found[name] = batch.images[k].permute(1, 2, 0).numpy(), truth, heatmaps.values[k].numpy()
            if len(found) == len(names):
                return found
    except _NotStoredError:
        pass
    for batch in preparation.images(planned.dataset):
        for k, name in enumerate(batch.image_ids):
            if name in names and name not in found:
                truth = None if batch.masks is None else batch.masks[k].numpy()
                found[name] = batch.images[k].permute(1, 2, 0).numpy(), truth, None
    return found


def _refuse() -> Any:
    raise _NotStoredError


def _example(
    name: str,
    image: UInt8[np.ndarray, "height width 3"],
    truth: Bool[np.ndarray, "height width"] | None,
    heat: np.ndarray | None,
    facts: Mapping[Any, Any],
    prediction: Mapping[Any, Any],
) -> Example:
    points: list[list[float]] = []
    labels: list[int] = []
    boxes: list[list[float]] = []
    for query in json.loads(prediction["prompts"]):
        points += query["points"]
        labels += query["labels"]
        boxes += [query["box"]] if "box" in query else []
    size = [int(prediction["height"]), int(prediction["width"])]
    mask = coco.decode({"size": size, "counts": prediction["mask_rle"].encode("ascii")}).astype(bool)
    class_name = facts["class_name"] if isinstance(facts["class_name"], str) else facts["predicted_class"]
    return Example(
        image_id=name,
        class_name=class_name,
        image=image,
        heatmap=np.zeros(size, dtype=np.float32) if heat is None else heat,
        points=np.array(points, dtype=np.float32).reshape(-1, 2),
        labels=np.array(labels, dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        mask=mask,
        truth=truth,
        iou=float(facts["iou"]),
    )


def fitted(example: Example, side: int = MOST_SIDE) -> Example:
    """The example with at most ``side`` px width and height; coordinates keep naming pixel centres."""
    height, width = example.image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return example
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    ratio = np.array([size[0] / width, size[1] / height], dtype=np.float32)

    def shrunk(values: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX))

    def mask(values: np.ndarray) -> np.ndarray:
        return shrunk(values.astype(np.uint8) * 255) > 127

    return replace(
        example,
        image=shrunk(example.image),
        heatmap=shrunk(example.heatmap),
        points=(example.points + 0.5) * ratio - 0.5,
        boxes=(example.boxes + 0.5) * np.tile(ratio, 2) - 0.5,
        mask=mask(example.mask),
        truth=None if example.truth is None else mask(example.truth),
    )


def by_image(table: pd.DataFrame) -> dict[str, dict[Any, Any]]:
    """A run's table, row by row."""
    return {row["image_id"]: row for row in table.to_dict("records")}
