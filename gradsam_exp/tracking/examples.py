"""This module picks the images of a finished run that are worth looking at, from its files and the store."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import numpy as np
import pandas as pd

from gradsam_exp.engine.plan import Plan
from gradsam_exp.engine.predictions import decode_prediction
from gradsam_exp.errors import InputError
from gradsam_exp.reports.gallery import Example, fitted
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.stored import Picture, stored_heatmaps, stored_images


def chosen_images(per_image: pd.DataFrame, images: int | Literal["all"]) -> dict[str, str]:
    """Name the images to show, and why: ``worst``, ``median`` or ``best`` by IoU, or ``all``.

    Where there is no truth, SAM's predicted IoU stands for the IoU. Of few images, each is shown once.
    """
    by = "iou" if per_image["iou"].notna().any() else "predicted_iou"
    ranked = per_image.sort_values([by, "example_id"], kind="stable")["example_id"].tolist()
    if images == "all":
        return dict.fromkeys(ranked, "all")
    middle = max((len(ranked) - images) // 2, 0)
    parts = {"worst": ranked[:images], "median": ranked[middle:][:images], "best": ranked[::-1][:images]}
    found = {name: reason for reason in ("median", "best", "worst") for name in parts[reason]}
    place = {reason: k for k, reason in enumerate(parts)}
    return {name: found[name] for name in sorted(found, key=lambda n: (place[found[n]], ranked.index(n)))}


def common_images(per_image: pd.DataFrame, most: int) -> list[str]:
    """Name the images to show of every run, one of each class: the same for all runs on the same examples.

    The first of each true class (as the data name it) by name; images without a class are one class.

    Args:
        most: classes, at most.
    """
    named = per_image.sort_values("example_id", kind="stable")
    return named.groupby(named["class_name"].fillna(""), sort=True)["example_id"].first().tolist()[:most]


def examples_of(planned: Plan, run: Run, names: Sequence[str]) -> list[Example]:
    """Read some images of a finished run, in this order, from the run's files and the store.

    Large ones are made smaller, see `fitted`. An image that is not in the store is read from the data; a heatmap
    that is not there is all zero rather than computed anew.
    """
    images: dict[str, Picture] = {}
    heats: dict[str, np.ndarray] = {}
    with suppress(InputError):  # an earlier version did not say where they are
        images = stored_images(run, planned.store, names, most_pixels=sys.maxsize)
        heats = stored_heatmaps(run, planned.store, names)
    if missing := set(names) - set(images):
        for batch in planned.preparation().images(planned.dataset):
            for k, name in enumerate(batch.example_ids):
                if name in missing:
                    truth = None if batch.masks is None else batch.masks[k].numpy()
                    images[name] = batch.images[batch.image_of[k]].permute(1, 2, 0).numpy(), truth
    facts = run.images.loc[list(names)].to_dict("index")
    predictions = run.predictions.loc[list(names)].to_dict("index")
    found = []
    for name in names:
        own, prediction = facts[name], decode_prediction(predictions[name])
        image, truth = images[name]
        example = Example(
            example_id=name,
            class_name=own["class_name"] if isinstance(own["class_name"], str) else own["predicted_class"],
            image=image,
            heatmap=heats.get(name, np.zeros(prediction.mask.shape, dtype=np.float32)),
            points=prediction.points.astype(np.float32),
            labels=prediction.labels,
            boxes=prediction.boxes.astype(np.float32),
            mask=prediction.mask,
            truth=truth,
            iou=float(own["iou"]),
            predicted_class=str(own["predicted_class"]),
        )
        found.append(fitted(example))
    return found
