"""This module describes what became of an image for the page: pictures, prompts, masks and figures.

Everything comes out as plain values: masks as COCO run lengths, pictures as ``data:`` URLs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gradsam_exp.engine.predictions import encode_mask
from gradsam_exp.explorer.outcomes import Outcome
from gradsam_exp.explorer.recent import Recent
from gradsam_exp.prompts.thresholds import at_least
from gradsam_exp.reports.pictures import as_url, fitting, shrunk_mask
from gradsam_exp.types import PromptContext

SIDE = 640  # px; larger images are shown smaller
BEST = 5  # classes that are named with their probabilities


class Descriptions:
    """Describes outcomes; pictures are encoded once."""

    def __init__(self) -> None:
        self._urls: Recent[str] = Recent(64)

    def of(self, outcome: Outcome, *, by_hand: bool) -> dict[str, Any]:
        """Describe one example, in pixels of the picture as it is shown.

        Args:
            by_hand: whether its prompts are not the strategy's.
        """
        planned, prepared, result, row = outcome.plan, outcome.prepared, outcome.result, outcome.example
        batch, heatmaps = prepared.batch, prepared.heatmaps
        height, width = batch.size
        size, scale = fitting((width, height), SIDE)
        image = batch.images[batch.image_of[row]]
        names = planned.classifier.class_names
        truth = None if batch.masks is None else batch.masks[row]

        def mask(values: Tensor | None) -> str | None:
            return None if values is None else encode_mask(shrunk_mask(values.numpy(), size))

        own = torch.nonzero(result.prompts.example_index == row).flatten()
        prompts = result.prompts[own]
        real = prompts.labels.flatten() >= 0
        points = (prompts.points.flatten(0, 1)[real] + 0.5) * scale - 0.5
        boxes = torch.zeros(0, 4) if prompts.boxes is None else (prompts.boxes + 0.5) * scale - 0.5
        warm, cold = self._regions(outcome)
        logits = heatmaps.logits
        shares = None if logits is None else logits[row].float().softmax(0)
        best = [] if shares is None else shares.argsort(descending=True)[:BEST].tolist()
        label = int(batch.labels[row])
        return {
            "image": {
                "key": batch.example_ids[row],
                "name": batch.image_id_of[row],
                "examples": list(batch.example_ids),
                "size": size,
                "scale": scale,
                "pixels": [width, height],
                "url": self._url("image", batch.image_id_of[row], lambda: image.permute(1, 2, 0).numpy(), size),
            },
            "class_name": names[label] if label >= 0 else None,
            "class_names": list(names),
            "predicted": names[int(prepared.predicted[row])],
            "explained": names[int(heatmaps.targets[row])],
            "ranked": [] if shares is None else [[names[k], round(float(shares[k]), 4)] for k in best],
            "heat": self._heat(heatmaps.values[row], size),
            "empty": bool(heatmaps.empty[row]),
            "warm": mask(warm),
            "cold": mask(cold),
            "prompts": [
                [round(at, 2) for at in points.flatten().tolist()],
                "".join(str(one) for one in prompts.labels.flatten()[real].tolist()),
                [round(at, 2) for at in boxes.flatten().tolist()],
            ],
            "candidates": self._candidates(outcome, own, mask),
            "queries": len(own),
            "mask": mask(result.masks[row]),
            "iou": outcome.iou,
            "predicted_iou": rounded(float(result.predicted_iou[row])),
            "rounds": int(result.rounds[row]),
            "truth": mask(truth),
            "upper_bound": planned.upper_bound and not by_hand,
            "notes": planned.notes,
        }

    @staticmethod
    def _candidates(outcome: Outcome, own: Tensor, mask: Callable[[Tensor], str | None]) -> list[dict[str, Any]]:
        """The masks that the segmenter offers for one query: the kept one, or the first."""
        if not len(own):
            return []
        choice, segmentation = outcome.result.choice, outcome.result.segmentation
        kept = [(q, c) for q, c in zip(choice.query.tolist(), choice.candidate.tolist(), strict=True) if q in own]
        query = kept[0][0] if kept else int(own[0])
        embeddings = outcome.prepared.embeddings
        masks = outcome.segmenter.to_original(segmentation.logits[query], embeddings).cpu()
        predicted = segmentation.predicted_iou[query].tolist()
        alone = len(masks) == 1
        return [
            {
                "name": "mask" if alone else "single" if number == 0 else f"mask {number}",
                "mask": mask(one),
                "predicted_iou": rounded(predicted[number]),
                "iou": outcome.quality(one),
                "kept": (query, number) in kept,
            }
            for number, one in enumerate(masks)
        ]

    @staticmethod
    def _regions(outcome: Outcome) -> tuple[Tensor | None, Tensor | None]:
        """The strategy's warm and cold pixels, where it parts them by thresholds of its own."""
        prepared, row = outcome.prepared, outcome.example
        strategy, own = outcome.plan.pipeline.strategy, prepared.heatmaps[torch.tensor([row])]
        ctx = PromptContext(prepared.batch.own_images[row : row + 1], own)
        names = [name for name in vars(strategy) if name.endswith("threshold")]
        warm = next((getattr(strategy, name) for name in names if not name.startswith("bg")), None)
        cold = getattr(strategy, "cold_pixels", None)
        return (
            None if warm is None or own.empty[0] else at_least(own.values, warm)[0],
            None if cold is None or "bg_threshold" in strategy.ignored else cold(ctx)[0],
        )

    def _heat(self, values: Tensor, size: tuple[int, int]) -> str:
        grey = (values * 255).round().byte().numpy()
        return self._url("heat", hash(grey.tobytes()), lambda: grey, size)

    def _url(self, kind: str, key: Any, make: Callable[[], np.ndarray], size: tuple[int, int]) -> str:
        """A picture as a ``data:`` URL, made once."""

        def made() -> str:
            resampling = Image.Resampling.LANCZOS if kind == "image" else Image.Resampling.BOX
            return as_url(Image.fromarray(make()).resize(size, resampling))

        return self._urls.made((kind, key, size), made)


def rounded(value: float) -> float | None:
    """Round for JSON, which has no NaN: that is None."""
    return None if math.isnan(value) else round(value, 6)
