"""This module decodes queries of different images together, for segmenters that descend from Segment Anything.

Coordinates reach the input frame by pixel *centres*, ``(x + 0.5)·s − 0.5``, or by pixel *corners*, ``x·s``, as
`SamPredictor` and transformers' processors scale them, which on small images shifts every prompt by up to half an
original pixel.
"""

import math
from abc import ABC, abstractmethod
from functools import lru_cache, partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from gradsam_exp.batching import AdaptiveBatch, filled
from gradsam_exp.segmenters.base import CELL, PROVIDED, Embeddings, check_prompts
from gradsam_exp.types import NO_POINT, LowRes, Maps, Masks, Prompts, Segmentation

Precision = Literal["fp32", "bf16"]
Coordinates = Literal["centres", "corners"]
MaxQueries = Annotated[int, Field(ge=1)]
ACCEPTED = frozenset({"points", "boxes", "masks"})
ENCODED_TOKENS = 2**13  # a CPU encodes so many image tokens together
CACHED_VALUES = 2**21  # a CPU decodes queries together whose image tokens have so many values


class BatchedSegmenter(ABC):
    """BatchedSegmenter answers queries of several images in one call of the decoder.

    Args:
        digest: identifies the weights.
        max_queries: most queries decoded in one call; bounds memory.
        precision: ``bf16`` runs the image encoder under autocast; embeddings then differ by about 1 % of
            their standard deviation.
        coordinates: what keeps its place when prompts are scaled to the input frame: the ``centres`` of pixels,
            or, as in `SamPredictor`, their ``corners``.
    """

    accepts = ACCEPTED
    candidates = 4  # masks of each query
    cell: float = CELL
    provides = PROVIDED

    def __init__(
        self,
        digest: str,
        *,
        max_queries: int = 256,
        precision: Precision = "fp32",
        coordinates: Coordinates = "centres",
    ) -> None:
        self.digest = digest
        self.max_queries, self.precision, self.coordinates = max_queries, precision, coordinates
        self._batch = AdaptiveBatch("decode", max_queries, row="query")

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Return where it runs, see `Segmenter.device`."""

    @property
    @abstractmethod
    def _size(self) -> int:
        """Return the side of the square input frame, in pixels."""

    @property
    @abstractmethod
    def _grid(self) -> tuple[int, int, int]:
        """Return the rows, columns and channels of the embedding that prompts look at."""

    @property
    def _low(self) -> int:
        """Return the side of low-resolution masks, in cells."""
        return round(self._size / self.cell)

    def _images_at_once(self, count: int) -> int:
        """Bound memory on a CPU, where large inputs gain nothing from being encoded together."""
        if self.device.type != "cpu":
            return count
        rows, columns, _ = self._grid
        return max(1, ENCODED_TOKENS // (rows * columns))

    def _rows_at_once(self) -> int:
        """Compute how many queries fit a CPU's cache: 64 of ``compact`` are twice as fast as 256."""
        if self.device.type != "cpu":
            return self.max_queries
        return min(self.max_queries, max(8, CACHED_VALUES // math.prod(self._grid)))

    @abstractmethod
    def _predict(
        self,
        levels: list[Tensor],
        points: tuple[Tensor, Tensor] | None,
        boxes: Float[Tensor, "queries 4"] | None,
        masks: Float[Tensor, "queries 1 low low"] | None,
    ) -> tuple[Tensor, Tensor]:
        """Compute logits ``(queries, candidates, low, low)`` and predicted IoU ``(queries, candidates)``.

        Args:
            levels: of each query's own image.
            points: their input-frame coordinates and labels, equally many for each query.
            boxes, masks: in the input frame.
        """

    @torch.no_grad()
    def decode(self, embeddings: Embeddings, prompts: Prompts) -> Segmentation:
        """Answer every query, see `Segmenter.decode`; those of equally many points together.

        SAM attends to padding points, so queries are padded with nothing that upstream does not pad.

        Raises:
            InputError: prompts that cannot be meant, see `check_prompts`.
        """
        check_prompts(prompts, embeddings, "a caller of decode")
        logits = torch.zeros(len(prompts), self.candidates, self._low, self._low, device=self.device)
        scores = torch.zeros(len(prompts), self.candidates, device=self.device)
        self._batch.fit(self._rows_at_once())
        points = (prompts.labels != NO_POINT).sum(1)
        for count in points.unique():
            group = torch.nonzero(points == count).flatten()
            decode = partial(self._decode_some, embeddings, prompts, group)
            for rows, answer_logits, answer_scores in self._batch.slices(len(group), decode):
                logits[rows], scores[rows] = answer_logits[: len(rows)], answer_scores[: len(rows)]
        return Segmentation(logits, scores, prompts.example_index)

    def _decode_some(
        self, embeddings: Embeddings, prompts: Prompts, group: Tensor, some: slice
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode some rows of a group; repetitions of the last one may follow their masks."""
        rows = group[some]
        return rows, *self._decode_alike(embeddings, prompts[filled(rows, self._batch.most)])

    def _decode_alike(self, embeddings: Embeddings, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """Decode queries that all have the same number of real points."""
        images, real = embeddings.images_asked(prompts), prompts.labels != NO_POINT
        count = int(real[0].sum())
        points = None
        if count:
            order = (~real).int().argsort(dim=1, stable=True)[:, :count]  # the real points, in their order
            xy = prompts.points.gather(1, order[..., None].expand(-1, -1, 2))
            labels = prompts.labels.gather(1, order)
            points = (self.to_input(xy, embeddings, images).to(self.device), labels.float().to(self.device))
        boxes = prompts.boxes
        if boxes is not None:
            boxes = self.to_input(boxes.unflatten(1, (2, 2)), embeddings, images).flatten(1).to(self.device)
        masks = None if prompts.mask_logits is None else prompts.mask_logits.to(self.device)
        return self._predict([level[images].to(self.device) for level in embeddings.levels], points, boxes, masks)

    def to_input(
        self, xy: Float[Tensor, "queries points 2"], embeddings: Embeddings, images: Int[Tensor, " queries"]
    ) -> Float[Tensor, "queries points 2"]:
        """Convert coordinates of the ``images``' original frames to the input frame, see ``coordinates``."""
        scale = (embeddings.input_sizes[images].double() / embeddings.original_sizes[images]).flip(1)
        scale = scale[:, None].to(xy.device)
        if self.coordinates == "corners":
            return (xy * scale).float()  # in double precision, as upstream
        return (xy + 0.5) * scale.float() - 0.5

    @torch.no_grad()
    def to_original(self, logits: LowRes, embeddings: Embeddings) -> Masks:
        """Make masks as upstream does, its two bilinear resizings being one matrix product an axis."""
        sizes = zip(embeddings.input_size, embeddings.original_size, strict=True)
        down, across = (_resizing(self._size, self._low, *side).to(logits.device) for side in sizes)
        return down @ logits @ across.T > 0

    def to_low_res(self, values: Maps, embeddings: Embeddings) -> LowRes:
        """Resize bilinearly to the low-resolution grid; pixel centres stay in place."""
        rows, columns = (math.ceil(side / self.cell) for side in embeddings.input_size)
        inside = F.interpolate(values[:, None].float(), (rows, columns), mode="bilinear", align_corners=False)
        return F.pad(inside[:, 0], (0, self._low - columns, 0, self._low - rows))


def check_images(images: Tensor) -> None:
    """Refuse images that are not uint8 by a `ValueError`: what is white would have to be guessed."""
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, 0..255, but are {images.dtype}")


@lru_cache(maxsize=64)
def _resizing(size: int, low: int, input_side: int, original_side: int) -> Float[Tensor, "original low"]:
    """Compute what `Sam.postprocess_masks` does to an axis: to SAM's input, padding cut off, to the original."""
    wide = _enlarging(size, low)[..., :input_side]
    return F.interpolate(wide, original_side, mode="linear", align_corners=False)[0].T.contiguous()


@lru_cache
def _enlarging(size: int, low: int) -> Float[Tensor, "1 low input"]:
    """Compute what enlarging low-resolution logits to SAM's square input does to an axis."""
    return F.interpolate(torch.eye(low)[None], size, mode="linear", align_corners=False)
