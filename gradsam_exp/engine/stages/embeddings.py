"""This stage encodes images for the segmenter."""

from collections.abc import Sequence
from typing import Any

from gradsam_exp.batching import AdaptiveBatch
from gradsam_exp.engine.stages.base import Chunk, Stage
from gradsam_exp.errors import InputError
from gradsam_exp.segmenters.base import Embeddings, Segmenter
from gradsam_exp.types import Tensors, is_finite


class Encode(Stage):
    """Encodes the images by a segmenter, which is loaded before the first.

    ``depends_on`` includes the kind of device; None stands for the segmenter's digest and the device it is on now.
    ``half`` rounds the embeddings to half precision, with 11 bits instead of 24, also where nothing is stored.
    """

    name = "embeddings"
    clock = "encode"
    after = ("images",)

    def __init__(
        self, segmenter: Segmenter, depends_on: Any = None, modules: Sequence[str] = (), *, half: bool = False
    ) -> None:
        known = [segmenter.digest, segmenter.device.type] if depends_on is None else depends_on
        super().__init__([known, "half"] if half else known, [*modules, type(segmenter).__module__])
        self.segmenter, self.half = segmenter, half

    def make(self, chunk: Chunk, batches: AdaptiveBatch) -> tuple[Tensors, Any]:
        """See `Stage.make`."""
        images = chunk.batch.images
        parts = list(batches.slices(len(images), lambda rows: self.segmenter.encode(images[rows])))
        encoded = Embeddings.joined(parts)
        levels = [level.half() if self.half else level for level in encoded.levels]
        if not all(map(is_finite, levels)):
            if all(map(is_finite, encoded.levels)):
                raise InputError("store.half=true: the embeddings have values above 65504: leave it off")
            raise InputError("the segmenter gives embeddings that are NaN or infinite: check the weights of sam")
        sizes = {"input_size": encoded.input_size, "original_size": encoded.original_size}
        return {f"level{k}": level for k, level in enumerate(levels)}, sizes

    def take(self, chunk: Chunk, tensors: Tensors, facts: Any) -> None:
        """See `Stage.take`."""
        levels = tuple(tensors[f"level{k}"] for k in range(len(tensors)))
        if self.half:
            levels = tuple(level.float() for level in levels)
        sizes = {name: tuple(size) for name, size in facts.items()}
        embeddings = Embeddings.of_one_size(levels, **sizes)
        chunk.embeddings = embeddings.of_images(slice(None), chunk.batch.image_of)
