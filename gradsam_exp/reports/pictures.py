"""The pictures of a report: images, heatmaps and true masks of finished runs, small and each only once.

They are read again by a run's configuration, from the store where it has them, so this works for any run whose
data are still there.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from pyarrow import ArrowException
from pycocotools import mask as coco

from gradsam_exp.config import Config, check
from gradsam_exp.digest import digest
from gradsam_exp.engine.plan import Plan, plan
from gradsam_exp.engine.session import Job
from gradsam_exp.errors import InputError, first_line

SIDE = 160  # px; larger images are made smaller
BUDGET = 8_000_000  # bytes of pictures, masks and prompts in a page
MOST_PIXELS = 300_000_000  # read in all
_QUALITY = 90


class NotStoredError(Exception):
    """A heatmap would have to be computed."""


@dataclass
class Pictures:
    """Of some images of a data set.

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


def heat_source(config: Mapping[str, Any], run: Path) -> str:
    """A name for where a run's heatmaps come from: equal names, equal heatmaps of the same images.

    Args:
        config: the run's, resolved.
        run: its folder; its provenance says what the classifier's weights were, wherever they lay.
    """
    parts = (config.get(key) for key in ("explainer", "refine"))
    return digest([*parts, _digests(run).get("classifier")])


def _digests(run: Path) -> dict[str, str]:
    """Of the data and the weights that a run was made with."""
    return json.loads((run / "provenance.json").read_text(encoding="utf-8"))["digests"]


def wanted_images(ious: pd.DataFrame, pixels: float, sources: int) -> list[str]:
    """The images whose pictures are worth their place, by name: those that the runs disagree on, worst and best.

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


def read_pictures(runs: Mapping[str, Path], ious: pd.DataFrame, *, explain: bool) -> Pictures:
    """The pictures for runs on the same images.

    Args:
        runs: one run for each source of heatmaps.
        ious: images by runs.
        explain: compute heatmaps that the store does not have.
    """
    found = Pictures()
    for name, run in runs.items():
        try:
            planned = _planned(run)
            if not found.ids:
                _read_images(found, planned, ious, len(runs), run)
            found.heats[name] = _heats(found, planned, explain=explain)
        except NotStoredError:
            found.notes.append(f"{run}: the heatmaps are not in the store; task=report makes them again")
        except (InputError, OmegaConfBaseException, OSError) as error:
            found.notes.append(f"{run}: {' '.join(str(error).split())}")
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # the configuration of another version
            found.notes.append(f"{run}: its configuration is not understood ({type(error).__name__}: {error})")
    return found


def _planned(run: Path) -> Plan:
    """The run's plan.

    Raises:
        InputError: if data or weights are not what they were.
    """
    composed = OmegaConf.load(run / ".hydra" / "config.yaml")
    assert isinstance(composed, DictConfig)
    config = check(composed)
    planned = plan(_without_missing_store(config), Job(run))
    digests = _digests(run)
    for what, now in (("data", "data have"), ("classifier", "classifier has")):
        if planned.digests[what] != digests.get(what):
            raise InputError(f"the {now} changed since this run was made")
    return planned


def _without_missing_store(config: Config) -> Config:
    """A store that is no longer there is not made anew for a report."""
    root = config.store.get("root")
    there = root is not None and Path(str(root)).expanduser().is_dir()
    return config if there else replace(config, store={**config.store, "enabled": False})


def _read_images(found: Pictures, planned: Plan, ious: pd.DataFrame, sources: int, run: Path) -> None:
    """Fill in everything but the heatmaps."""
    width, height = planned.dataset.image_size(0)
    pixels = width * height * min(1.0, SIDE / max(width, height)) ** 2
    wanted = set(wanted_images(ious, pixels, sources))
    read = 0
    for batch in planned.preparation().images(planned.dataset):
        for k, name in enumerate(batch.image_ids):
            if name not in wanted:
                continue
            picture, scale = smaller(Image.fromarray(batch.images[k].permute(1, 2, 0).numpy()))
            found.ids.append(name)
            found.sizes.append(picture.size)
            found.scales.append(scale)
            found.images.append(as_url(picture))
            found.truths.append(None if batch.masks is None else encoded(batch.masks[k].numpy(), picture.size))
        read += batch.images.numel() // 3
        if read > MOST_PIXELS:
            break
    if len(found.ids) < len(ious):
        found.notes.append(
            f"{run}: pictures of {len(found.ids)} of {len(ious)} images are in this page, to keep it small"
        )


def _heats(found: Pictures, planned: Plan, *, explain: bool) -> list[str]:
    """One for each picture, in its order."""
    preparation = planned.preparation()
    if not explain:
        preparation.explained.load = _refuse
    size_of = dict(zip(found.ids, found.sizes, strict=True))
    heats: dict[str, str] = {}
    for batch, heatmaps in preparation.explain(planned.dataset, batch_size=planned.config.batch_size):
        greys = (heatmaps.values.numpy() * 255).round().astype(np.uint8)
        for name, values in zip(batch.image_ids, greys, strict=True):
            if name in size_of:
                grey = Image.fromarray(values)
                heats[name] = as_url(grey.resize(size_of[name], Image.Resampling.BOX))
        if len(heats) == len(found.ids):
            break
    return [heats[name] for name in found.ids]


def _refuse() -> Any:
    raise NotStoredError


def smaller(picture: Image.Image) -> tuple[Image.Image, float]:
    """At most `SIDE` px wide and high, and by how much it was scaled."""
    scale = min(1.0, SIDE / max(picture.size))
    if scale == 1:
        return picture, scale
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    return picture.resize(size, Image.Resampling.LANCZOS), scale


def as_url(picture: Image.Image) -> str:
    """A ``data:`` URL."""
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=_QUALITY, method=2)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def encoded(mask: Bool[np.ndarray, "height width"], size: tuple[int, int]) -> str:
    """A mask as COCO RLE, made as small as its picture."""
    if mask.shape != (size[1], size[0]):
        grey = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
        mask = np.asarray(grey) > 127
    return str(coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode("ascii"))


def small_predictions(run: Path, found: Pictures) -> tuple[list[str | None], list[list[Any]]]:
    """A run's masks (COCO RLE) and prompts, for each picture and in its pixels.

    Returns:
        Masks, and for each image ``[x, y, x, y, …]``, a string of the points' labels, and
        ``[x0, y0, x1, y1, …]`` of the boxes. Where the file is missing or damaged there are neither, and a note
        says so.
    """
    try:
        return _predictions(run, found)
    except (OSError, ValueError, KeyError, ArrowException) as error:
        problem = f"predictions.parquet cannot be read ({first_line(error)})"
        found.notes.append(f"{run}: no masks and prompts, {problem}")
        return [None for _ in found.ids], [[[], "", []] for _ in found.ids]


def _predictions(run: Path, found: Pictures) -> tuple[list[str | None], list[list[Any]]]:
    table = pd.read_parquet(run / "predictions.parquet")
    rows = {str(row["image_id"]): row for row in table.to_dict("records")}
    masks: list[str | None] = []
    prompts: list[list[Any]] = []
    for name, size, scale in zip(found.ids, found.sizes, found.scales, strict=True):
        row = rows[name]
        masks.append(str(row["mask_rle"]) if scale == 1 else _shrunk(row, size))
        xy, labels, boxes = [], "", []
        for query in json.loads(row["prompts"]):
            xy += [_scaled(value, scale) for point in query["points"] for value in point]
            labels += "".join(map(str, query["labels"]))
            boxes += [_scaled(value, scale) for value in query.get("box", [])]
        prompts.append([xy, labels, boxes])
    return masks, prompts


def _shrunk(row: Mapping[Any, Any], size: tuple[int, int]) -> str:
    given = {"size": [int(row["height"]), int(row["width"])], "counts": row["mask_rle"].encode("ascii")}
    return encoded(coco.decode(given).astype(bool), size)


def _scaled(value: float, scale: float) -> float:
    """A coordinate that names pixel centres."""
    return round((value + 0.5) * scale - 0.5, 1)
