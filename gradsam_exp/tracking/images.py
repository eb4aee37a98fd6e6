"""The images worth looking at: image with masks to switch on and off, heatmap, prompts, every metric."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, UInt8
from pycocotools import mask as coco

from gradsam_exp.assembly import Plan
from gradsam_exp.gallery import Example

if TYPE_CHECKING:
    import wandb

DRAWN_SIDE = 256  # px at least, of the longer side of the picture with the prompts
_DPI = 150
PICTURES = ("image", "heatmap", "prompts")
"""Columns of pictures, before the metrics."""


class _NotStoredError(Exception):
    """A heatmap would have to be computed."""


def chosen_images(per_image: pd.DataFrame, images: int | Literal["all"]) -> dict[str, str]:
    """Names of the images to show, and why: ``worst``, ``median`` or ``best`` by IoU, or ``all``.

    Where there is no truth, SAM's own score stands for the IoU. Of few images, each is shown once.
    """
    by = "iou" if per_image["iou"].notna().any() else "score"
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

    A heatmap that is not in the store is all zero, rather than computed anew.
    """
    facts = _rows(pd.read_parquet(run / "per_image.parquet"))
    predictions = _rows(pd.read_parquet(run / "predictions.parquet"))
    found = {
        name: _example(name, image, truth, heat, facts[name], predictions[name])
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


def examples_table(
    examples: Sequence[Example], reasons: Mapping[str, str], per_image: pd.DataFrame, class_names: Sequence[str]
) -> wandb.Table:
    """One row per example: ``image_id``, why it is shown, pictures, and every column of the per-image table.

    An empty heatmap has no picture.
    Prediction and truth are masks of the image, in the colour of the class; W&B switches each on and off.
    """
    import wandb  # noqa: PLC0415

    facts = _rows(per_image)
    columns = [str(column) for column in per_image if column != "image_id"]
    table = wandb.Table(columns=["image_id", "shown_as", *PICTURES, *columns])
    for example, drawn in zip(examples, drawn_prompts(examples), strict=True):
        heat = _coloured(example.heatmap) if example.heatmap.any() else None
        row = facts[example.image_id]
        pictures = (
            masked_image(example, str(row["predicted_class"]), class_names),
            None if heat is None else wandb.Image(heat),
            wandb.Image(drawn),
        )
        table.add_data(
            example.image_id, reasons[example.image_id], *pictures, *(plain(row[column]) for column in columns)
        )
    return table


def _coloured(heatmap: Float[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    from matplotlib import colormaps  # noqa: PLC0415

    return (colormaps["magma"](heatmap)[:, :, :3] * 255).round().astype(np.uint8)


def masked_image(example: Example, predicted_class: str, class_names: Sequence[str]) -> wandb.Image:
    """The image with ``prediction`` and ``ground truth`` as mask layers; 0 is background, classes follow."""
    import wandb  # noqa: PLC0415

    labels = {0: "background", **{k + 1: name for k, name in enumerate(class_names)}}
    ids = {name: k for k, name in labels.items()}

    def layer(mask: np.ndarray, name: str) -> dict[str, Any]:
        return {"mask_data": (mask * ids[name]).astype(np.uint8), "class_labels": labels}

    masks = {"prediction": layer(example.mask, predicted_class)}
    if example.truth is not None:
        masks["ground truth"] = layer(example.truth, example.class_name)
    return wandb.Image(example.image, masks=masks, caption=f"{example.image_id}  IoU {example.iou:.2f}")


def drawn_prompts(examples: Sequence[Example]) -> list[UInt8[np.ndarray, "height width 3"]]:
    """The images with their points and boxes, enlarged so that they can be told apart."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    from gradsam_exp.figures import draw_prompts, styled  # noqa: PLC0415

    pictures = []
    with styled():
        canvas = FigureCanvasAgg(Figure(dpi=_DPI))
        axes = canvas.figure.add_axes((0, 0, 1, 1))  # one for all: making it takes longer than drawing
        axes.set_axis_off()
        for example in examples:
            height, width = example.image.shape[:2]
            scale = max(DRAWN_SIDE / max(height, width), 1.0) / _DPI
            canvas.figure.set_size_inches(width * scale, height * scale)
            axes.imshow(example.image, interpolation="nearest", aspect="auto")
            draw_prompts(axes, example)
            canvas.draw()
            pictures.append(np.asarray(canvas.buffer_rgba())[:, :, :3].copy())
            for artist in (*axes.images, *axes.lines):
                artist.remove()
    return pictures


def _rows(table: pd.DataFrame) -> dict[str, dict[Any, Any]]:
    """By image."""
    return {row["image_id"]: row for row in table.to_dict("records")}


def plain(value: Any) -> Any:
    """A table's cell as W&B takes it."""
    if hasattr(value, "item"):
        value = value.item()
    return None if value != value else value  # noqa: PLR0124  (NaN is not itself)
