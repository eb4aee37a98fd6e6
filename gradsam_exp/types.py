"""The values that flow between the five interfaces. Data only: no model, no file, no config.

Coordinates are ``(x, y)`` in pixels of the original image; integer coordinates name pixel *centres*.
A point hits a mask if the pixel it rounds to is set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

FOREGROUND, BACKGROUND, NO_POINT = 1, 0, -1


@dataclass(frozen=True)
class ImageBatch:
    """Images of one size with what is known about them.

    Attributes:
        images: RGB, 0..255, in the original frame.
        masks: the true object masks, or None where there are none.
        labels: true class ids, −1 where unknown.
        image_ids: one unique name per image.
    """

    images: UInt8[Tensor, "batch 3 height width"]
    masks: Bool[Tensor, "batch height width"] | None
    labels: Int[Tensor, " batch"]
    image_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` of every image, in pixels."""
        return self.images.shape[-2], self.images.shape[-1]

    def to(self, device: torch.device | str) -> ImageBatch:
        """The same batch with its tensors on ``device``."""
        masks = None if self.masks is None else self.masks.to(device)
        return replace(self, images=self.images.to(device), masks=masks, labels=self.labels.to(device))


@dataclass(frozen=True)
class Heatmaps:
    """Where the classifier looked.

    Attributes:
        values: saliency in the original frame, min–max scaled to [0, 1] per image.
        empty: the map was zero everywhere (after the ReLU); ``values`` is then all zero.
        targets: the class id that was explained.
        logits: the class scores of the same forward pass; None from explainers that have none.
    """

    values: Float[Tensor, "batch height width"]
    empty: Bool[Tensor, " batch"]
    targets: Int[Tensor, " batch"]
    logits: Float[Tensor, "batch classes"] | None = None

    def __len__(self) -> int:
        return len(self.empty)


@dataclass(frozen=True)
class Prompts:
    """What SAM is asked, one row per query; an image can have several queries, or none.

    Attributes:
        image_index: which image of the batch each query belongs to.
        points: ``(x, y)`` in pixels of the original frame.
        labels: 1 foreground, 0 background, −1 "no point here" (padding, never shown to SAM).
        boxes: ``x0, y0, x1, y1`` in pixels of the original frame.
        mask_logits: low-resolution logits in SAM's input frame.
    """

    image_index: Int[Tensor, " queries"]
    points: Float[Tensor, "queries points 2"]
    labels: Int[Tensor, "queries points"]
    boxes: Float[Tensor, "queries 4"] | None = None
    mask_logits: Float[Tensor, "queries 1 low low"] | None = None

    def __len__(self) -> int:
        return len(self.image_index)

    @property
    def kinds(self) -> frozenset[str]:
        """Which of ``points``, ``boxes``, ``masks`` are used."""
        used = {"points"} if (self.labels != NO_POINT).any() else set()
        used |= {"boxes"} if self.boxes is not None else set()
        used |= {"masks"} if self.mask_logits is not None else set()
        return frozenset(used)

    def __getitem__(self, rows: Tensor) -> Prompts:
        """The given queries (bool mask or indices)."""
        return Prompts(
            self.image_index[rows],
            self.points[rows],
            self.labels[rows],
            None if self.boxes is None else self.boxes[rows],
            None if self.mask_logits is None else self.mask_logits[rows],
        )


@dataclass(frozen=True)
class Segmentation:
    """What SAM answered, per query.

    Attributes:
        logits: low-resolution mask logits of SAM's four mask tokens in its padded input frame;
            token 0 is the single-mask output, tokens 1–3 are the three candidates.
        scores: predicted IoU of each mask.
        image_index: which image of the batch each query belongs to.
    """

    logits: Float[Tensor, "queries 4 low low"]
    scores: Float[Tensor, "queries 4"]
    image_index: Int[Tensor, " queries"]


def stack_points(rows: Sequence[Sequence[tuple[float, float, int]]]) -> tuple[Tensor, Tensor]:
    """Stack lists of ``(x, y, label)`` of unequal length into ``points (Q, N, 2)`` and ``labels (Q, N)``.

    Short rows are filled up with label −1.
    """
    longest = max((len(row) for row in rows), default=0)
    points = torch.zeros(len(rows), longest, 2)
    labels = torch.full((len(rows), longest), NO_POINT)
    for q, row in enumerate(rows):
        for n, (x, y, label) in enumerate(row):
            points[q, n] = torch.tensor([x, y])
            labels[q, n] = label
    return points, labels
