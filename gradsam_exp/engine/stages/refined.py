"""This stage refines heatmaps, so that their borders follow the edges in the image."""

from collections.abc import Sequence
from typing import Any

from gradsam_exp.batching import AdaptiveBatch
from gradsam_exp.engine.stages.base import Chunk, Stage
from gradsam_exp.refiners.base import Refiner
from gradsam_exp.types import Heatmaps, Tensors


class Refine(Stage):
    """Refines the heatmaps; without ``depends_on``, they depend on the refiner's fields."""

    name = "refined"
    clock = "explain"
    after = ("heatmaps",)
    counted = False

    def __init__(self, refiner: Refiner, depends_on: Any = None, modules: Sequence[str] = ()) -> None:
        known = repr(refiner) if depends_on is None else depends_on
        super().__init__(known, [*modules, type(refiner).__module__])
        self.refiner = refiner

    def make(self, chunk: Chunk, batches: AdaptiveBatch) -> tuple[Tensors, Any]:
        """See `Stage.make`."""
        return self.refiner(chunk.batch.own_images, chunk.heatmaps).as_tensors(), None

    def take(self, chunk: Chunk, tensors: Tensors, facts: Any) -> None:
        """See `Stage.take`."""
        chunk.heatmaps = Heatmaps(**tensors)
