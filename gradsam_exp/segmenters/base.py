"""This module says what a segmenter is, and holds the registry of them.

Prompts come on the CPU, embeddings from anywhere; segmentations are on the segmenter's device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from gradsam_exp.errors import InputError
from gradsam_exp.registry import Registry
from gradsam_exp.types import BACKGROUND, FOREGROUND, NO_POINT, LowRes, Maps, Masks, Prompts, Segmentation

CELL = 4.0
"""A cell of the low-resolution mask spans 4×4 pixels of the input frame, in SAM and most of its descendants."""
PROVIDED = frozenset({"embeddings", "everything", "predicted_iou"})
"""What segmenters have besides masks: features of the image, everything mode, an estimate of each mask's IoU."""


@dataclass(frozen=True)
class Embeddings:
    """Embeddings are encoded images, and which of them each example is about.

    On the CPU from the store, else where ``encode`` made them; sizes and numbers are on the CPU.

    Attributes:
        levels: one tensor for each resolution that the segmenter's decoder looks at, a row per image; the images
            themselves for segmenters without a network.
        input_sizes: ``(height, width)`` in pixels of each resized image inside SAM's square input.
        original_sizes: ``(height, width)`` in pixels of each image as it came.
        image_of: the image of each example.
    """

    levels: tuple[Real[Tensor, "images _ _ _"], ...]
    input_sizes: Int[Tensor, "images 2"]
    original_sizes: Int[Tensor, "images 2"]
    image_of: Int[Tensor, " batch"]

    @classmethod
    def of_one_size(
        cls,
        levels: Sequence[Real[Tensor, "images _ _ _"]],
        input_size: tuple[int, int],
        original_size: tuple[int, int],
    ) -> Embeddings:
        """Make the embeddings of images of one size, each with one example."""
        images = len(levels[0])
        sizes = [torch.tensor([size]).expand(images, 2) for size in (input_size, original_size)]
        return cls(tuple(levels), sizes[0], sizes[1], torch.arange(images))

    def __len__(self) -> int:
        return len(self.levels[0])

    @property
    def input_size(self) -> tuple[int, int]:
        """Return the ``(height, width)`` px of all resized images, where these are of one size."""
        return _only(self.input_sizes)

    @property
    def original_size(self) -> tuple[int, int]:
        """Return the ``(height, width)`` px of all images as they came, where these are of one size."""
        return _only(self.original_sizes)

    def images_asked(self, prompts: Prompts) -> Int[Tensor, " queries"]:
        """Return the image that each query is about."""
        return self.image_of[prompts.example_index]

    def of_images(self, rows: slice, image_of: Int[Tensor, " batch"] | None = None) -> Embeddings:
        """Return some of the images; ``image_of`` says which of them examples are about, by default one each."""
        levels = tuple(level[rows] for level in self.levels)
        own = torch.arange(len(levels[0])) if image_of is None else image_of
        return Embeddings(levels, self.input_sizes[rows], self.original_sizes[rows], own)

    @property
    def features(self) -> Float[Tensor, "batch _ _ _"]:
        """Return each example's coarsest level without padding, on the CPU; of images of one size."""
        level = min(self.levels, key=lambda level: level.shape[-2] * level.shape[-1])
        rows, columns = (
            math.ceil(cells * side / max(self.input_size))
            for cells, side in zip(level.shape[-2:], self.input_size, strict=True)
        )
        return level[self.image_of.to(level.device), :, :rows, :columns].cpu().float()

    @staticmethod
    def joined(parts: Sequence[Embeddings]) -> Embeddings:
        """Join the embeddings of several batches, one after the other, on the CPU."""
        levels = zip(*(part.levels for part in parts), strict=True)
        starts = np.cumsum([0, *(len(part) for part in parts)])
        return Embeddings(
            tuple(torch.cat([value.cpu() for value in level]) for level in levels),
            torch.cat([part.input_sizes for part in parts]),
            torch.cat([part.original_sizes for part in parts]),
            torch.cat([part.image_of + int(start) for part, start in zip(parts, starts[:-1], strict=True)]),
        )


def check_prompts(prompts: Prompts, embeddings: Embeddings, asker: str) -> None:
    """Refuse prompts that no image can have been meant by, before they are decoded.

    Args:
        asker: who made them, named in the error, such as ``pipeline=fg``.

    Raises:
        InputError: a query about an example that there is not; a label other than −1, 0, 1; a point or a box that
            is not finite or lies outside of the image, whose pixels reach from −0.5 to its sides less 0.5; a box
            whose second corner comes before its first; mask logits that are not finite.
    """
    count, index = len(embeddings.image_of), prompts.example_index
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < count:
        raise InputError(f"{asker} asks about example {int(index.max())}, but there are {count}")
    if not torch.isin(prompts.labels, torch.tensor([NO_POINT, BACKGROUND, FOREGROUND])).all():
        found = sorted(set(prompts.labels.flatten().tolist()) - {NO_POINT, BACKGROUND, FOREGROUND})
        raise InputError(
            f"{asker} gives a point the label {found[0]}; labels are 1 (foreground), 0 (background), -1 (none)"
        )
    sizes = embeddings.original_sizes[embeddings.images_asked(prompts)].flip(1)
    _check_places(prompts.points[prompts.labels != NO_POINT], "point", _repeated(sizes, prompts.labels), asker)
    if prompts.boxes is not None:
        for corner in prompts.boxes.unflatten(1, (2, 2)).unbind(1):
            _check_places(corner, "box", sizes, asker)
        x0, y0, x1, y1 = prompts.boxes.unbind(1)
        wrong = (x1 < x0) | (y1 < y0)
        if wrong.any():
            box = [round(value, 2) for value in prompts.boxes[wrong][0].tolist()]
            raise InputError(f"{asker} gives the box {box}, but boxes are x0, y0, x1, y1 with x0 ≤ x1 and y0 ≤ y1")
    if prompts.mask_logits is not None and not prompts.mask_logits.isfinite().all():
        raise InputError(f"{asker} gives mask logits that are NaN or infinite")


def _repeated(sizes: Int[Tensor, "queries 2"], labels: Int[Tensor, "queries points"]) -> Int[Tensor, "places 2"]:
    """The image size of each query's points that are there."""
    return sizes.repeat_interleave((labels != NO_POINT).sum(1), dim=0)


def _check_places(
    places: Float[Tensor, "places 2"], what: str, sizes: Int[Tensor, "places 2"], asker: str
) -> None:
    """Refuse an (x, y) px outside of its image, of which ``sizes`` says (width, height)."""
    wrong = ~((places >= -0.5) & (places <= sizes - 0.5)).all(1)  # NaN is nowhere
    if wrong.any():
        x, y = places[wrong][0].tolist()
        width, height = sizes[wrong][0].tolist()
        raise InputError(
            f"{asker} gives a {what} at x={x:g}, y={y:g} px, outside of an image of {width}×{height} px; "
            "give pixels of the image itself, x before y"
        )


def _only(sizes: Int[Tensor, "images 2"]) -> tuple[int, int]:
    if not len(sizes) or (sizes != sizes[0]).any():
        raise ValueError(f"images of {len(sizes.unique(dim=0))} sizes have no size in common")
    return int(sizes[0, 0]), int(sizes[0, 1])


@runtime_checkable
class Segmenter(Protocol):
    """A segmenter encodes images once, then answers any number of prompts about them with masks."""

    digest: str
    """Equal digests mean equal weights."""

    cell: float = CELL
    """A cell of the masks' grid spans so many pixels of the input frame each way."""

    provides: frozenset[str] = PROVIDED
    """What it has of `PROVIDED`."""

    @property
    def accepts(self) -> frozenset[str]:
        """Name which of ``points``, ``boxes``, ``masks`` it can be asked with."""

    @property
    def device(self) -> torch.device:
        """Return where it runs; the CPU before it is loaded."""

    def load(self, device: torch.device) -> None:
        """Read the weights onto ``device``; nothing expensive happens before. Calling it again does nothing."""

    def encode(self, images: Tensor) -> Embeddings:
        """Encode uint8 RGB images ``(B, 3, H, W)``, which may be on any device."""

    def decode(self, embeddings: Embeddings, prompts: Prompts) -> Segmentation:
        """Answer every query; images may differ in size, see `Embeddings.images_asked`."""

    def to_original(self, logits: LowRes, embeddings: Embeddings) -> Masks:
        """Make masks in the original frame of images of one size from logits, on their own device."""

    def to_low_res(self, values: Maps, embeddings: Embeddings) -> LowRes:
        """Bring maps of the original frame to the masks' grid, on their own device; 0 on padding."""


SEGMENTERS: Registry[Segmenter] = Registry("sam", "gradsam_exp.segmenters")
