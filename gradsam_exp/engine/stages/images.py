"""This stage draws or decodes images, with their true masks and labels."""

from collections.abc import Sequence
from typing import Any

import torch

from gradsam_exp.batching import AdaptiveBatch
from gradsam_exp.data.base import align_classes, collate
from gradsam_exp.engine.stages.base import Chunk, Stage
from gradsam_exp.types import ExampleBatch, Tensors

_TENSORS = ("images", "image_of", "labels", "masks", "counted", "ranks")


class Images(Stage):
    """Reads images from a data set and gives them the class ids of the classifier's ``class_names``."""

    name = "images"
    clock = "data"

    def __init__(self, class_names: Sequence[str], modules: Sequence[str] = ()) -> None:
        super().__init__(modules=modules)
        self.class_names = class_names

    def make(self, chunk: Chunk, batches: AdaptiveBatch) -> tuple[Tensors, Any]:
        """See `Stage.make`."""
        batch = collate([chunk.dataset[index] for index in chunk.indices])
        tensors = {name: getattr(batch, name) for name in _TENSORS}
        names = {"image_ids": batch.image_ids, "example_ids": batch.example_ids, "groups": batch.groups}
        return {name: value for name, value in tensors.items() if value is not None}, names

    def take(self, chunk: Chunk, tensors: Tensors, facts: Any) -> None:
        """See `Stage.take`."""
        labels = tensors["labels"]
        known = align_classes(chunk.dataset.class_names, self.class_names)
        labels = torch.where(labels >= 0, known[labels], -1) if len(known) else labels
        content: dict[str, Any] = {name: tensors.get(name) for name in _TENSORS}
        content |= {"labels": labels, **{name: tuple(ids) for name, ids in facts.items()}}
        chunk.batch = ExampleBatch(**content)
