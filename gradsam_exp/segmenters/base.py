"""This module says what a segmenter is, and holds the registry of them.

Prompts come on the CPU, embeddings from anywhere; segmentations are on the segmenter's device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsam_exp.registry import Registry
from gradsam_exp.types import LowRes, Maps, Masks, Prompts, Segmentation


@dataclass(frozen=True)
class Embeddings:
    """Embeddings are encoded images, and which of them each example is about.

    On the CPU from the store, else where ``encode`` made them; sizes and numbers are on the CPU.

    Attributes:
        levels: one tensor for each resolution that the segmenter's decoder looks at, a row per image.
        input_sizes: ``(height, width)`` in pixels of each resized image inside SAM's square input.
        original_sizes: ``(height, width)`` in pixels of each image as it came.
        image_of: the image of each example.
    """

    levels: tuple[Float[Tensor, "images _ _ _"], ...]
    input_sizes: Int[Tensor, "images 2"]
    original_sizes: Int[Tensor, "images 2"]
    image_of: Int[Tensor, " batch"]

    @classmethod
    def of_one_size(
        cls,
        levels: Sequence[Float[Tensor, "images _ _ _"]],
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


def _only(sizes: Int[Tensor, "images 2"]) -> tuple[int, int]:
    found = sizes.unique(dim=0)
    if len(found) != 1:
        raise ValueError(f"images of {len(found)} sizes have no size in common")
    return int(found[0, 0]), int(found[0, 1])


@runtime_checkable
class Segmenter(Protocol):
    """A segmenter encodes images once, then answers any number of prompts about them with masks."""

    digest: str
    """Equal digests mean equal weights."""

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
        """Bring maps of the original frame to the low-resolution grid, on their own device; 0 on padding."""


CELL = 4
"""A cell of the low-resolution mask spans 4×4 pixels of the input frame, in SAM and its descendants."""

SEGMENTERS: Registry[Segmenter] = Registry("sam", "gradsam_exp.segmenters")
