"""This module says what a segmenter is, and holds the registry of them.

Prompts come on the CPU, embeddings from anywhere; segmentations are on the segmenter's device.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from gradsam_exp.registry import Registry
from gradsam_exp.types import LowRes, Maps, Masks, Prompts, Segmentation


@dataclass(frozen=True)
class Embeddings:
    """Embeddings are encoded images of one size: on the CPU from the store, else where ``encode`` made them.

    Attributes:
        levels: one tensor for each resolution that the segmenter's decoder looks at, a row per image.
        input_size: ``(height, width)`` in pixels of the resized image inside SAM's square input.
        original_size: ``(height, width)`` in pixels of the image as it came.
    """

    levels: tuple[Float[Tensor, "batch _ _ _"], ...]
    input_size: tuple[int, int]
    original_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.levels[0])

    def __getitem__(self, rows: slice) -> "Embeddings":
        """Return some of the images."""
        return replace(self, levels=tuple(level[rows] for level in self.levels))

    @staticmethod
    def joined(parts: Sequence["Embeddings"]) -> "Embeddings":
        """Join the embeddings of several batches of images of one size, one after the other, on the CPU."""
        levels = zip(*(part.levels for part in parts), strict=True)
        return replace(parts[0], levels=tuple(torch.cat([value.cpu() for value in level]) for level in levels))


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
        """Answer every query; ``prompts.image_index`` says which embedding it is about."""

    def to_original(self, logits: LowRes, embeddings: Embeddings) -> Masks:
        """Make masks in the original frame from low-resolution logits, on their own device."""

    def to_low_res(self, values: Maps, embeddings: Embeddings) -> LowRes:
        """Bring maps of the original frame to the low-resolution grid, on their own device; 0 on padding."""


CELL = 4
"""A cell of the low-resolution mask spans 4×4 pixels of the input frame, in SAM and its descendants."""

SEGMENTERS: Registry[Segmenter] = Registry("sam", "gradsam_exp.segmenters")
