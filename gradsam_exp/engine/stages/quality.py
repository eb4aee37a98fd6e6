"""The stage that measures heatmaps before any prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradsam_exp.batching import AdaptiveBatch
from gradsam_exp.engine.stages.base import Chunk, Stage
from gradsam_exp.engine.stages.heatmaps import Explained
from gradsam_exp.explainers.base import evaluation_mode, network_input, to_frame
from gradsam_exp.explainers.layers import frame_of
from gradsam_exp.metrics.heatmaps import QUALITIES, faithfulness
from gradsam_exp.types import Heatmaps, Tensors


class Quality(Stage):
    """Measures one metric of the heatmaps."""

    name = "quality"
    counted = False

    def __init__(self, metric: str, explained: Explained, *, after: str) -> None:
        self.metric, self.explained, self.after = metric, explained, (after,)
        self.clock = "score" if metric in QUALITIES else "faithfulness"

    @property
    def label(self) -> str:
        """See `Stage.label`."""
        return f"quality {self.metric}"

    @property
    def depends_on(self) -> Any:
        """See `Stage.depends_on`."""
        return self.metric

    @property
    def modules(self) -> Sequence[str]:
        """See `Stage.modules`."""
        return ()

    def make(self, chunk: Chunk, batches: AdaptiveBatch) -> tuple[Tensors, Any]:
        """See `Stage.make`."""
        heatmaps, masks = chunk.heatmaps, chunk.batch.masks
        if self.metric in QUALITIES:
            if masks is None:
                values = torch.full((len(heatmaps),), torch.nan, dtype=torch.float64)
            else:
                values = QUALITIES[self.metric](heatmaps.values, masks)
        else:
            values = self._faithfulness(chunk.batch.images, heatmaps, batches)[self.metric]
        return {"values": torch.where(heatmaps.empty, torch.nan, values)}, None

    def take(self, chunk: Chunk, tensors: Tensors, facts: Any) -> None:
        """See `Stage.take`."""
        del facts
        chunk.quality[self.metric] = tensors["values"]

    def _faithfulness(self, images: Tensor, heatmaps: Heatmaps, batches: AdaptiveBatch) -> dict[str, Tensor]:
        classifier = self.explained.classifier
        pixels = network_input(classifier, images)
        with evaluation_mode(classifier):
            maps = to_frame(heatmaps.values, frame_of(pixels))
            return faithfulness(
                lambda changed: self.explained.predict(changed, batches), pixels, maps, heatmaps.targets
            )
