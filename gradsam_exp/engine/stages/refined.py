"""The stage that brings heatmaps to the edges of the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradsam_exp.batching import AdaptiveBatch
from gradsam_exp.engine.stages.base import Chunk, Stage
from gradsam_exp.refiners.base import Refiner
from gradsam_exp.types import Heatmaps, Tensors


class Refine(Stage):
    """Refines the heatmaps.

    Args:
        refiner: does it.
        depends_on: plain values that say what it depends on.
        modules: import paths of its plug-in.
    """

    name = "refined"
    clock = "explain"
    after = ("heatmaps",)
    counted = False

    def __init__(self, refiner: Refiner, depends_on: Any = None, modules: Sequence[str] = ()) -> None:
        self.refiner, self._depends_on = refiner, depends_on
        self._modules = [*modules, type(refiner).__module__]

    @property
    def depends_on(self) -> Any:
        """See `Stage.depends_on`."""
        return repr(self.refiner) if self._depends_on is None else self._depends_on

    @property
    def modules(self) -> Sequence[str]:
        """See `Stage.modules`."""
        return self._modules

    def make(self, chunk: Chunk, batches: AdaptiveBatch) -> tuple[Tensors, Any]:
        """See `Stage.make`."""
        del batches
        return self.refiner(chunk.batch.images, chunk.heatmaps).as_tensors(), None

    def take(self, chunk: Chunk, tensors: Tensors, facts: Any) -> None:
        """See `Stage.take`."""
        del facts
        chunk.heatmaps = Heatmaps(**tensors)
