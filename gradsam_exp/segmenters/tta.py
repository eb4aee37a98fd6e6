"""This module is test-time augmentation: masks are means over an image, its mirror images and transposed ones."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from gradsam_exp.segmenters.base import CELL, Embeddings, Segmenter
from gradsam_exp.types import Prompts, Segmentation

Tta = Literal[1, 2, 4, 8]


@dataclass(frozen=True)
class View:
    """A view is a way to look at an image: mirrored, transposed or as it is.

    Attributes:
        across, down: mirrored from left to right, from top to bottom.
        transposed: rows and columns exchanged, after that.
    """

    across: bool = False
    down: bool = False
    transposed: bool = False

    def of_images(self, images: Tensor) -> Tensor:
        """Show images ``(B, 3, H, W)`` seen this way."""
        seen = images.flip([dim for dim, flipped in ((-1, self.across), (-2, self.down)) if flipped])
        return seen.mT if self.transposed else seen

    def of_embeddings(self, embeddings: Embeddings, levels: tuple[Tensor, ...]) -> Embeddings:
        """Make one view's ``levels`` of ``embeddings``, whose sizes are the plain image's."""
        sizes = (embeddings.input_sizes, embeddings.original_sizes)
        seen = [size.flip(1) if self.transposed else size for size in sizes]
        return Embeddings(levels, seen[0], seen[1], embeddings.image_of)

    def of_prompts(self, prompts: Prompts, embeddings: Embeddings, cell: float = CELL) -> Prompts:
        """Transform prompts from the plain image's coordinates to this view's; ``cell``: see `Segmenter`."""
        points, boxes, masks = prompts.points, prompts.boxes, prompts.mask_logits
        images = embeddings.images_asked(prompts)
        height, width = embeddings.original_sizes[images].T
        for axis, side, flipped in ((0, width, self.across), (1, height, self.down)):
            if flipped:
                points = _reflected(points, [axis], [axis], side)
                boxes = None if boxes is None else _reflected(boxes, [axis, axis + 2], [axis + 2, axis], side)
        if masks is not None:
            masks = self._mirrored(masks, embeddings.input_sizes[images], cell)
        if self.transposed:
            points = points.flip(-1)
            boxes = None if boxes is None else boxes[:, [1, 0, 3, 2]]
            masks = None if masks is None else masks.mT
        return replace(prompts, points=points, boxes=boxes, mask_logits=masks)

    def back(self, logits: Tensor, input_sizes: Tensor, cell: float = CELL) -> Tensor:
        """Bring this view's low-resolution logits ``(queries, …)`` back to the plain image's frame.

        Args:
            input_sizes: ``(height, width)`` px of each query's resized image, as `Embeddings.input_sizes`.
            cell: see `Segmenter`.
        """
        return self._mirrored(logits.mT if self.transposed else logits, input_sizes, cell)

    def _mirrored(self, maps: Tensor, input_sizes: Tensor, cell: float) -> Tensor:
        """Mirror low-resolution maps as the image is mirrored; what they say of SAM's padding stays."""
        if not (self.across or self.down):
            return maps
        mirrored = maps.clone()
        for size in input_sizes.unique(dim=0):
            height, width = size.tolist()
            rows = (input_sizes == size).all(1).nonzero().flatten().to(maps.device)
            own = maps[rows]
            if self.across:
                own = own @ _mirror(maps.shape[-1], width / cell).to(maps).T
            if self.down:
                own = _mirror(maps.shape[-2], height / cell).to(maps) @ own
            mirrored[rows] = own
        return mirrored


EIGHT = [
    View(across, down, transposed)
    for transposed in (False, True)
    for down in (False, True)
    for across in (False, True)
]
"""The views are: as it is, mirrored from left to right, from top to bottom, both; and all of that transposed."""


class Augmented:
    """Augmented asks a segmenter about several views of an image, and averages mask logits and predicted IoU.

    The single-mask candidate is that of the image as it is. The views' embeddings are one embedding with as many
    times the channels: encoding, decoding and the store take as many times as much.

    Args:
        segmenter: any.
        tta: how many of `EIGHT`: 2 with the mirror image, 4 with all flips, 8 with these transposed.
    """

    def __init__(self, segmenter: Segmenter, tta: Tta) -> None:
        self.segmenter, self.views = segmenter, EIGHT[:tta]
        self.accepts, self.provides = segmenter.accepts, segmenter.provides
        self.digest, self.cell = segmenter.digest, segmenter.cell
        self.load, self.to_original, self.to_low_res = segmenter.load, segmenter.to_original, segmenter.to_low_res

    @property
    def device(self) -> torch.device:
        """Return where it runs, see `Segmenter.device`."""
        return self.segmenter.device

    def encode(self, images: Tensor) -> Embeddings:
        """Encode every view; the sizes are those of the image as it is."""
        encoded = [self.segmenter.encode(view.of_images(images)) for view in self.views]
        levels = zip(*(one.levels for one in encoded), strict=True)
        return replace(encoded[0], levels=tuple(torch.cat(level, 1) for level in levels))

    def decode(self, embeddings: Embeddings, prompts: Prompts) -> Segmentation:
        """Answer every query by the mean of what is answered for each view."""
        answers, single = [], None
        sizes = embeddings.input_sizes[embeddings.images_asked(prompts)]
        seen = (level.chunk(len(self.views), 1) for level in embeddings.levels)
        for view, levels in zip(self.views, zip(*seen, strict=True), strict=True):
            own = view.of_embeddings(embeddings, levels)
            answer = self.segmenter.decode(own, view.of_prompts(prompts, embeddings, self.cell))
            answers.append((view.back(answer.logits, sizes, self.cell), answer.predicted_iou))
            single = answer.single if view == EIGHT[0] else single
        logits, predicted_iou = (sum(part[1:], start=part[0]) / len(part) for part in zip(*answers, strict=True))
        return Segmentation(logits, predicted_iou, prompts.example_index, single)


def augmented(segmenter: Segmenter, tta: Tta) -> Segmenter:
    """Make an `Augmented`, or return the segmenter itself if there is only one view."""
    return segmenter if tta == 1 else Augmented(segmenter, tta)


def _reflected(xy: Tensor, of: list[int], into: list[int], sides: Tensor) -> Tensor:
    """Count coordinates, in pixels where 0 is the first pixel's centre, from the axis' other end in each query."""
    reflected = xy.clone()
    reflected[..., into] = sides.view(-1, *[1] * (xy.ndim - 1)) - 1 - xy[..., of]
    return reflected


@lru_cache(maxsize=64)
def _mirror(low: int, cells: float) -> Float[Tensor, "low low"]:
    """Compute the matrix that mirrors one axis of a low-resolution map, ``cells`` of which are no padding.

    Where cells do not end with the image, it interpolates linearly between two of them.
    """
    rows = torch.arange(math.ceil(cells))
    at = (cells - 1 - rows).clamp(min=0)
    before, share = at.floor().long(), at % 1
    matrix = torch.eye(low)
    matrix[rows] = 0
    matrix[rows, before] = 1 - share
    matrix[rows, (before + 1).clamp(max=low - 1)] += share
    return matrix
