"""This stage computes the metrics that need heatmaps but no prompts, such as pointing game or deletion AUC."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradsam_exp.batching import AdaptiveBatch
from gradsam_exp.engine.stages.base import Chunk, Stage
from gradsam_exp.engine.stages.heatmaps import Explained
from gradsam_exp.explainers.base import to_frame
from gradsam_exp.explainers.layers import frame_of
from gradsam_exp.explainers.network import evaluation_mode, network_input
from gradsam_exp.metrics.base import ExampleMetric
from gradsam_exp.types import Tensors


class Quality(Stage):
    """Measures one metric of the heatmaps or the classifier.

    Args:
        explained: the classifier, for metrics that ask it.
        after: label of the stage that the heatmaps come from.
    """

    name = "quality"
    counted = False
    finite = False  # a metric may have no value

    def __init__(self, metric: ExampleMetric, explained: Explained, *, after: str) -> None:
        super().__init__([metric.name, metric.arguments], [type(metric).__module__])
        self.metric, self.explained, self.after = metric, explained, (after,)
        self.label = f"quality {metric.name}"
        self.clock = "faithfulness" if "network" in metric.needs else "score"

    def make(self, chunk: Chunk, batches: AdaptiveBatch) -> tuple[Tensors, Any]:
        """See `Stage.make`."""
        known = {
            "heatmaps": chunk.heatmaps,
            "truth": chunk.batch.masks,
            "images": chunk.batch.own_images,
            "counted": chunk.batch.counted,
            "labels": chunk.batch.labels,
            "predicted": chunk.predicted,
            "network": _Network(self.explained, batches),
        }
        return {"values": self.metric.measure_known(known, len(chunk.batch))}, None

    def take(self, chunk: Chunk, tensors: Tensors, facts: Any) -> None:
        """See `Stage.take`."""
        chunk.quality[self.metric.name] = tensors["values"]


@dataclass(frozen=True)
class _Network:
    """The classifier as metrics can ask it (`gradsam_exp.metrics.base.Network`); read when it is first asked."""

    explained: Explained
    batches: AdaptiveBatch

    def pixels(self, images: Tensor) -> Tensor:
        return network_input(self.explained.classifier, images)

    def resized(self, maps: Tensor, pixels: Tensor) -> Tensor:
        return to_frame(maps, frame_of(pixels))

    def logits(self, pixels: Tensor) -> Tensor:
        with evaluation_mode(self.explained.classifier):
            return self.explained.predict(pixels, self.batches)

    def explain(self, pixels: Tensor, targets: Tensor) -> Tensor:
        return self.explained.of_classes(pixels, targets, self.batches).values
