"""This module makes what W&B shows of images: masks to switch on and off, heatmap, prompts, every metric."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import wandb
from jaxtyping import UInt8
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gradsam_exp.reports.colours import HEAT
from gradsam_exp.reports.figures import draw_prompts, styled
from gradsam_exp.reports.gallery import Example

DRAWN_SIDE = 256  # px at least, of the longer side of the picture with the prompts
_DPI = 150
_MARGIN = 8  # px; points at the image's edge are whole


def examples_table(
    examples: Sequence[Example], reasons: Mapping[str, str], per_image: pd.DataFrame, class_names: Sequence[str]
) -> wandb.Table:
    """Make one row per example: name, why it is shown, pictures, and every column of the per-image table.

    An empty heatmap has no picture.
    """
    facts = {row["example_id"]: row for row in per_image.to_dict("records")}
    columns = [str(column) for column in per_image if column != "example_id"]
    table = wandb.Table(columns=["example_id", "shown_as", "image", "heatmap", "prompts", *columns])
    for example, drawn in zip(examples, drawn_prompts(examples), strict=True):
        name, heat = example.example_id, None
        if example.heatmap.any():
            heat = wandb.Image((colormaps[HEAT](example.heatmap)[:, :, :3] * 255).round().astype(np.uint8))
        pictures = masked_image(example, class_names), heat, wandb.Image(drawn)
        table.add_data(name, reasons[name], *pictures, *(plain(facts[name][column]) for column in columns))
    return table


def masked_image(example: Example, class_names: Sequence[str]) -> wandb.Image:
    """Lay prediction and ground truth over an image, as masks in their class's colour; 0 is background."""
    labels = dict(enumerate(["background", *class_names]))
    ids = {name: k for k, name in labels.items()}

    def layer(mask: np.ndarray, name: str) -> dict[str, Any]:
        return {"mask_data": (mask * ids[name]).astype(np.uint8), "class_labels": labels}

    masks = {"prediction": layer(example.mask, example.predicted_class)}
    if example.truth is not None:
        masks["ground truth"] = layer(example.truth, example.class_name)
    return wandb.Image(example.image, masks=masks, caption=f"{example.example_id}  IoU {example.iou:.2f}")


def drawn_prompts(examples: Sequence[Example]) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    """Draw the images with their points and boxes, enlarged so that they can be told apart."""
    pictures = []
    with styled():
        canvas = FigureCanvasAgg(Figure(dpi=_DPI))
        axes = canvas.figure.add_axes((0, 0, 1, 1))  # one for all: making it takes longer than drawing
        axes.set_axis_off()
        for example in examples:
            height, width = example.image.shape[:2]
            scale = max(DRAWN_SIDE / max(height, width), 1.0)
            wide, high = width * scale + 2 * _MARGIN, height * scale + 2 * _MARGIN
            canvas.figure.set_size_inches(wide / _DPI, high / _DPI)
            axes.set_position((_MARGIN / wide, _MARGIN / high, 1 - 2 * _MARGIN / wide, 1 - 2 * _MARGIN / high))
            axes.imshow(example.image, interpolation="nearest", aspect="auto")
            draw_prompts(axes, example)
            canvas.draw()
            pictures.append(np.asarray(canvas.buffer_rgba())[:, :, :3].copy())
            for artist in (*axes.images, *axes.lines):
                artist.remove()
    return pictures


def numbers_table(per_image: pd.DataFrame) -> wandb.Table:
    """Show the per-image table; a column's type is the same in all runs, also if one run has no value in it."""
    kinds = per_image.convert_dtypes().dtypes  # True and None are a column of objects
    table = wandb.Table(list(map(str, per_image)), dtype=[_type(kind) for kind in kinds], optional=True)
    # add_data would find out the types anew with each row, in twenty times as long.
    table.data.extend([plain(value) for value in row] for row in per_image.itertuples(index=False))
    return table


def _type(kind: Any) -> type:
    if pd.api.types.is_bool_dtype(kind):
        return bool
    return float if pd.api.types.is_numeric_dtype(kind) else str


def plain(value: Any) -> Any:
    """Return a table's cell as W&B takes it."""
    if hasattr(value, "item"):
        value = value.item()
    return None if value != value else value  # noqa: PLR0124  (NaN is not itself)
