"""What a segmenter is: encode images once, then answer any number of prompts about them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsam_exp.registry import Registry
from gradsam_exp.types import Prompts, Segmentation


@dataclass(frozen=True)
class Embeddings:
    """Encoded images of one size.

    Attributes:
        values: one embedding per image.
        input_size: ``(height, width)`` in pixels of the resized image inside SAM's square input.
        original_size: ``(height, width)`` in pixels of the image as it came.
    """

    values: Float[Tensor, "batch channels rows columns"]
    input_size: tuple[int, int]
    original_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> Embeddings:
        """Some of the images."""
        return replace(self, values=self.values[rows])


@runtime_checkable
class Segmenter(Protocol):
    """A promptable segmentation model."""

    digest: str
    """Identifies the weights."""

    @property
    def accepts(self) -> frozenset[str]:
        """Which of ``points``, ``boxes``, ``masks`` it can be asked with."""

    @property
    def device(self) -> torch.device:
        """Where it runs; the CPU before it is loaded."""

    def load(self, device: torch.device) -> None:
        """Read the weights; nothing expensive happens before. Calling it again does nothing."""

    def encode(self, images: Tensor) -> Embeddings:
        """Encode uint8 RGB images ``(B, 3, H, W)``."""

    def decode(self, embeddings: Embeddings, prompts: Prompts) -> Segmentation:
        """Answer every query; ``prompts.image_index`` says which embedding it is about."""

    def to_original(
        self, logits: Float[Tensor, "masks low low"], embeddings: Embeddings
    ) -> Bool[Tensor, "masks height width"]:
        """Masks in the original frame from low-resolution logits."""

    def to_low_res(
        self, values: Float[Tensor, "maps height width"], embeddings: Embeddings
    ) -> Float[Tensor, "maps low low"]:
        """Maps of the original frame on the low-resolution grid; 0 on padding."""


SEGMENTERS: Registry[Segmenter] = Registry("sam", "gradsam_exp.segmenters")


def distinct_shapes(prompts: Prompts) -> list[Int[Tensor, " group"]]:
    """Rows of ``prompts`` grouped by their number of real points: what can be decoded together unpadded."""
    counts = (prompts.labels >= 0).sum(1)
    return [torch.nonzero(counts == count).flatten() for count in counts.unique()]
