"""The images of a finished run that are worth looking at, from the run's files and the store."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from PIL import Image

from gradsam_exp.engine.plan import Plan
from gradsam_exp.engine.predictions import Prediction, decode_prediction
from gradsam_exp.errors import InputError
from gradsam_exp.reports.gallery import Example
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.stored import Picture, stored_heatmaps, stored_images

MOST_SIDE = 512  # px; larger images are made smaller


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


def examples_of(planned: Plan, run: Run, names: Sequence[str]) -> list[Example]:
    """Some images of a finished run, in this order, from the run's files and the store.

    Large ones are made smaller, see `fitted`. An image that is not in the store is read from the data; a heatmap
    that is not there is all zero rather than computed anew.
    """
    images: dict[str, Picture] = {}
    heats: dict[str, np.ndarray] = {}
    with suppress(InputError):  # an earlier version did not say where they are
        images = stored_images(run, planned.store, names, most_pixels=sys.maxsize)
        heats = stored_heatmaps(run, planned.store, names)
    if set(names) - set(images):
        images |= _from_data(planned, set(names) - set(images))
    facts = run.images.loc[list(names)].to_dict("records")
    predictions = run.predictions.loc[list(names)].to_dict("records")
    return [
        fitted(_example(name, images[name], heats.get(name), own, decode_prediction(prediction)))
        for name, own, prediction in zip(names, facts, predictions, strict=True)
    ]


def _from_data(planned: Plan, names: set[str]) -> dict[str, Picture]:
    """Image and true mask of each."""
    return {
        name: (
            batch.images[k].permute(1, 2, 0).numpy(),
            None if batch.masks is None else batch.masks[k].numpy(),
        )
        for batch in planned.preparation().images(planned.dataset)
        for k, name in enumerate(batch.image_ids)
        if name in names
    }


def _example(
    name: str, picture: Picture, heat: np.ndarray | None, facts: Mapping[Any, Any], prediction: Prediction
) -> Example:
    image, truth = picture
    class_name = facts["class_name"] if isinstance(facts["class_name"], str) else facts["predicted_class"]
    return Example(
        image_id=name,
        class_name=class_name,
        image=image,
        heatmap=np.zeros(prediction.mask.shape, dtype=np.float32) if heat is None else heat,
        points=prediction.points.astype(np.float32),
        labels=prediction.labels,
        boxes=prediction.boxes.astype(np.float32),
        mask=prediction.mask,
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
