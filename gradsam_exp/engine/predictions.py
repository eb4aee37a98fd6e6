"""This module writes prompts (JSON) and masks (COCO RLE) as rows of ``predictions.parquet``, and reads them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask as coco
from torch import Tensor

from gradsam_exp.types import Prompts

MOST_PIXELS = 2**28  # of one mask


@dataclass(frozen=True)
class Prediction:
    """Holds the prompts and the mask of one image.

    Attributes:
        points: ``(x, y)`` px, of all queries.
        labels: 1 foreground, 0 background.
        boxes: ``x0, y0, x1, y1`` px.
    """

    points: Float[np.ndarray, "points 2"]
    labels: Int[np.ndarray, " points"]
    boxes: Float[np.ndarray, "boxes 4"]
    mask: Bool[np.ndarray, "height width"]


def encode_predictions(
    example_ids: Sequence[str],
    image_ids: Sequence[str],
    masks: Bool[Tensor, "batch height width"],
    prompts: Prompts,
) -> dict[str, Any]:
    """Make the columns ``example_id``, ``image_id``, ``height``, ``width``, ``mask_rle`` and ``prompts``."""
    stacked = np.asfortranarray(masks.permute(1, 2, 0).numpy().astype(np.uint8))
    height, width = masks.shape[1:]
    own: list[list[dict[str, Any]]] = [[] for _ in example_ids]
    for example, query in zip(prompts.example_index.tolist(), _queries(prompts), strict=True):
        own[example].append(query)
    return {
        "example_id": list(example_ids),
        "image_id": list(image_ids),
        "height": [height] * len(example_ids),
        "width": [width] * len(example_ids),
        "mask_rle": [encoded["counts"].decode("ascii") for encoded in coco.encode(stacked)],
        "prompts": [json.dumps(queries) for queries in own],
    }


def _queries(prompts: Prompts) -> Iterator[dict[str, Any]]:
    """Every query as plain values: its real points, their labels, its box."""
    boxes = [None] * len(prompts) if prompts.boxes is None else prompts.boxes.tolist()
    for points, labels, box in zip(prompts.points.tolist(), prompts.labels.tolist(), boxes, strict=True):
        real = [(xy, label) for xy, label in zip(points, labels, strict=True) if label >= 0]
        query: dict[str, Any] = {"points": [[round(x, 3), round(y, 3)] for (x, y), _ in real]}
        query["labels"] = [label for _, label in real]
        yield query if box is None else {**query, "box": [round(value, 3) for value in box]}


def decode_prediction(row: Mapping[Any, Any]) -> Prediction:
    """Read one row of the table; one that is damaged raises ValueError, KeyError or TypeError."""
    queries = json.loads(row["prompts"])
    points = [point for query in queries for point in query["points"]]
    labels = [label for query in queries for label in query["labels"]]
    boxes = [query["box"] for query in queries if "box" in query]
    return Prediction(
        points=np.array(points, dtype=np.float64).reshape(-1, 2),
        labels=np.array(labels, dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        mask=decode_mask(row["mask_rle"], int(row["height"]), int(row["width"])),
    )


def encode_mask(mask: Bool[np.ndarray, "height width"]) -> str:
    """Write a mask as COCO's compressed run lengths."""
    return str(coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode("ascii"))


def decode_mask(text: str, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """Read a mask from COCO's compressed run lengths; ValueError if they do not fill the image."""
    if not 0 < height * width <= MOST_PIXELS:
        raise ValueError(f"a mask of {height}×{width} px")
    mask = coco.decode({"size": [height, width], "counts": text.encode("ascii")})
    if coco.encode(np.asfortranarray(mask))["counts"] != text.encode("ascii"):  # pixels that no run has set
        raise ValueError("run lengths that do not fill the image")
    return mask.astype(bool)
