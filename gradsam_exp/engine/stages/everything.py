"""This stage finds everything in an image that a segmenter is sure of, whatever a classifier looks at."""

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import torch

from gradsam_exp.batching import AdaptiveBatch
from gradsam_exp.engine.stages.base import Chunk, Stage
from gradsam_exp.segmenters.base import Segmenter
from gradsam_exp.segmenters.everything import everything
from gradsam_exp.types import EverythingMode, MaskSet, Tensors


class Everything(Stage):
    """Runs a segmenter's everything mode on each image; see `everything`.

    Args:
        asked_by: plain values that say how the segmenter is asked, besides all that its embeddings depend on.
    """

    name = "everything"
    clock = "everything"
    after = ("embeddings",)

    def __init__(
        self, segmenter: Segmenter, mode: EverythingMode, asked_by: Any, modules: Sequence[str] = ()
    ) -> None:
        super().__init__([astuple(mode), asked_by], [*modules, type(segmenter).__module__])
        self.segmenter, self.mode = segmenter, mode
        self.label = f"everything {astuple(mode)}"

    def make(self, chunk: Chunk, batches: AdaptiveBatch) -> tuple[Tensors, Any]:
        """See `Stage.make`."""
        found: list[MaskSet] = []
        for row in range(len(chunk.embeddings)):
            found.append(everything(self.segmenter, chunk.embeddings.of_images(slice(row, row + 1)), self.mode))
            batches.on_done(1)
        columns = [one.as_tensors() for one in found]
        tensors = {name: torch.cat([one[name] for one in columns]) for name in columns[0]}
        return tensors, {"counts": [len(one) for one in found], "size": found[0].size}

    def take(self, chunk: Chunk, tensors: Tensors, facts: Any) -> None:
        """See `Stage.take`."""
        parts = zip(*(value.split(facts["counts"]) for value in tensors.values()), strict=True)
        size = tuple(facts["size"])
        chunk.everything[self.mode] = [
            MaskSet(**dict(zip(tensors, part, strict=True)), size=size) for part in parts
        ]
