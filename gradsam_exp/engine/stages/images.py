"""This stage draws or decodes images, with their true masks and labels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradsam_exp.batching import AdaptiveBatch
from gradsam_exp.data.base import collate
from gradsam_exp.engine.stages.base import Chunk, Stage
from gradsam_exp.errors import InputError, did_you_mean
from gradsam_exp.types import ImageBatch, Tensors


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
        masks = {} if batch.masks is None else {"masks": batch.masks}
        return {"images": batch.images, "labels": batch.labels, **masks}, batch.image_ids

    def take(self, chunk: Chunk, tensors: Tensors, facts: Any) -> None:
        """See `Stage.take`."""
        labels = tensors["labels"]
        known = align_classes(chunk.dataset.class_names, self.class_names)
        labels = torch.where(labels >= 0, known[labels], -1) if len(known) else labels
        chunk.batch = ImageBatch(tensors["images"], tensors.get("masks"), labels, tuple(facts))


def align_classes(given: Sequence[str], known: Sequence[str]) -> Tensor:
    """Find the classifier's id of each of the data set's classes; `InputError` for one that it does not know."""
    for name in given:
        if name not in known:
            raise InputError(
                f"the data set's class {name!r} is not one the classifier knows{did_you_mean(name, known)}"
            )
    return torch.tensor([list(known).index(name) for name in given])
