"""This module reads a report's pictures: images, heatmaps and true masks of finished runs, small, each only once.

They are read from the store, where the runs say that they left them; nothing is computed or fetched for a report.
"""

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool
from PIL import Image

from gradsam_exp.digest import digest
from gradsam_exp.engine.predictions import decode_prediction, encode_mask
from gradsam_exp.engine.store import Store
from gradsam_exp.errors import InputError, first_line
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.stored import stored_heatmaps, stored_images

SIDE = 160  # px; larger images are made smaller
BUDGET = 8_000_000  # bytes of pictures, masks and prompts in a page
MOST_PIXELS = 300_000_000  # read in all
_QUALITY = 90


@dataclass
class Pictures:
    """Holds what a page shows of some images of a data set.

    Attributes:
        ids: the images' names.
        sizes: ``(width, height)`` px as they are here.
        scales: what their sides were multiplied with, at most 1.
        images: as ``data:`` URLs.
        truths: true masks as COCO RLE of this size; None where there is none.
        heats: heatmaps by source, grey, as ``data:`` URLs.
        notes: what is missing, and why.
    """

    ids: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    truths: list[str | None] = field(default_factory=list)
    heats: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def heat_source(run: Run) -> str:
    """Return an id of a run's heatmaps: runs with equal ids have equal heatmaps of the same images."""
    try:
        return digest([chunk["stored"].get("heatmaps", str(run.folder)) for chunk in run.prepared])
    except InputError:  # of an earlier version, which did not say
        return digest(str(run.folder))


def wanted_images(ious: pd.DataFrame, pixels: float, sources: int) -> list[str]:
    """Name the images whose pictures are worth their place: those that the runs disagree on, worst and best.

    Args:
        ious: images by runs.
        pixels: of a picture.
        sources: how many different heatmaps each image has.
    """
    each = pixels * (0.5 + 0.12 * sources) + 250 * ious.shape[1]
    most = max(int(BUDGET / each), 1)
    mean = ious.mean(axis=1)
    orders = [(ious.max(axis=1) - ious.min(axis=1)).sort_values(ascending=False, kind="stable").index]
    orders += [mean.sort_values(kind="stable").index, mean.sort_values(ascending=False, kind="stable").index]
    ranked = dict.fromkeys(str(name) for together in zip(*orders, strict=True) for name in together)
    return list(ranked)[:most]


def read_pictures(runs: Mapping[str, Run], ious: pd.DataFrame, store: Store | None) -> Pictures:
    """Read the pictures for runs on the same images.

    Args:
        runs: one run for each source of heatmaps.
        ious: images by runs.
        store: the reader's.
    """
    found = Pictures()
    if store is None:
        found.notes.append("there are no pictures: store.enabled=false, where they would be read from")
        return found
    for name, run in runs.items():
        try:
            if not found.ids:
                _read_images(found, run, ious, len(runs), store)
            found.heats[name] = _heats(found, run, store)
        except InputError as error:
            found.notes.append(f"{first_line(error)}; this makes them again: {run.command}")
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:  # sizes that are none
            found.notes.append(f"{run.folder}: no pictures ({type(error).__name__}: {error})")
    return found


def _read_images(found: Pictures, run: Run, ious: pd.DataFrame, sources: int, store: Store) -> None:
    """Fill in everything but the heatmaps."""
    if not any(chunk["stored"] for chunk in run.prepared):
        raise InputError(f"{run.folder}: no pictures were kept (store.enabled=false)")
    first = fitting((int(run.predictions["width"].iloc[0]), int(run.predictions["height"].iloc[0])), SIDE)[0]
    wanted = set(wanted_images(ious, float(math.prod(first)), sources))
    images = stored_images(run, store, wanted, most_pixels=MOST_PIXELS)
    if not images:
        raise InputError(f"{run.folder}: the pictures are not in the store {store.root}")
    for name, (image, truth) in images.items():
        size, scale = fitting((image.shape[1], image.shape[0]), SIDE)
        found.ids.append(name)
        found.sizes.append(size)
        found.scales.append(scale)
        found.images.append(as_url(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)))
        found.truths.append(None if truth is None else encode_mask(shrunk_mask(truth, size)))
    if len(found.ids) < len(ious):
        found.notes.append(
            f"{run.folder}: pictures of {len(found.ids)} of {len(ious)} images are in this page, to keep it small"
            if len(wanted) < len(ious)
            else f"{run.folder}: pictures of {len(found.ids)} of {len(ious)} images are in the store {store.root}"
        )


def _heats(found: Pictures, run: Run, store: Store) -> list[str]:
    """One heatmap for each picture, in its order."""
    maps = stored_heatmaps(run, store, found.ids)
    heats = []
    for name, size in zip(found.ids, found.sizes, strict=True):
        if name not in maps:
            raise InputError(f"{run.folder}: the heatmaps are not in the store {store.root}")
        grey = Image.fromarray((maps[name] * 255).round().astype(np.uint8))
        heats.append(as_url(grey.resize(size, Image.Resampling.BOX)))
    return heats


def fitting(size: tuple[int, int], side: int) -> tuple[tuple[int, int], float]:
    """Return the size, and the scale, at most 1, of a picture that is made at most ``side`` px wide and high."""
    scale = min(1.0, side / max(size))
    width, height = (max(round(length * scale), 1) for length in size)
    return (width, height), scale


def as_url(picture: Image.Image) -> str:
    """Write a picture as a ``data:`` URL."""
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=_QUALITY, method=2)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def shrunk_mask(mask: Bool[np.ndarray, "height width"], size: tuple[int, int]) -> Bool[np.ndarray, "_ _"]:
    """Make a mask as small as its picture, which has this ``(width, height)``."""
    if mask.shape == size[::-1]:
        return mask
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)) > 127


def small_predictions(run: Run, found: Pictures) -> tuple[list[str | None], list[list[Any]]]:
    """Shrink a run's masks (COCO RLE) and prompts to each picture's pixels.

    Returns:
        Masks, and for each image ``[x, y, x, y, …]``, a string of the points' labels, and
        ``[x0, y0, x1, y1, …]`` of the boxes. Where the file is missing or damaged there are neither, and a note
        says so.
    """
    masks: list[str | None] = []
    prompts: list[list[Any]] = []
    try:
        rows = run.predictions.reindex(found.ids).to_dict("records")
        for row, size, scale in zip(rows, found.sizes, found.scales, strict=True):
            own = decode_prediction(row)
            # Coordinates name pixel centres.
            xy, boxes = (((at + 0.5) * scale - 0.5).ravel().tolist() for at in (own.points, own.boxes))
            labels = "".join(map(str, own.labels.tolist()))
            masks.append(encode_mask(shrunk_mask(own.mask, size)))
            prompts.append([[round(at, 1) for at in xy], labels, [round(at, 1) for at in boxes]])
    except InputError as error:
        problem = str(error).removeprefix(f"{run.folder}/")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"predictions.parquet cannot be read ({first_line(error)})"
    else:
        return masks, prompts
    found.notes.append(f"{run.folder}: no masks and prompts, {problem}")
    return [None for _ in found.ids], [[[], "", []] for _ in found.ids]
