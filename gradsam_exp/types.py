"""These values flow between the five interfaces. They hold data only: no model, no file, no config.

Coordinates are ``(x, y)`` in pixels of the original image; integer coordinates name pixel *centres*.
A point hits a mask if the pixel it rounds to is set.

Devices: images, true masks, heatmaps, prompts, choices and final masks are on the CPU. Only what a network has
just made is on its device: an explainer's `Heatmaps`, an encoder's embeddings, and a `Segmentation`'s logits and
predicted IoU. `PromptContext` brings images, heatmaps and true masks to the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

FOREGROUND, BACKGROUND, NO_POINT = 1, 0, -1
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class ImageBatch:
    """Holds images of one size and what is known about them; on the CPU unless moved by `to`.

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

    def __getitem__(self, rows: slice) -> ImageBatch:
        """Returns some of the images."""
        masks = None if self.masks is None else self.masks[rows]
        return ImageBatch(self.images[rows], masks, self.labels[rows], self.image_ids[rows])

    @property
    def size(self) -> tuple[int, int]:
        """Returns ``(height, width)`` of every image, in pixels."""
        return self.images.shape[-2], self.images.shape[-1]

    def to(self, device: torch.device | str) -> ImageBatch:
        """Returns the same batch with its tensors on ``device``."""
        masks = None if self.masks is None else self.masks.to(device)
        return replace(self, images=self.images.to(device), masks=masks, labels=self.labels.to(device))


@dataclass(frozen=True)
class Heatmaps:
    """Says where the classifier looked: one map per image, on the CPU, or as an explainer makes it on its device.

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

    def as_tensors(self) -> dict[str, Tensor]:
        """Returns the tensors that are there, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def __getitem__(self, rows: slice) -> Heatmaps:
        """Returns some of the images."""
        return Heatmaps(**{name: value[rows] for name, value in self.as_tensors().items()})

    def to(self, device: torch.device | str) -> Heatmaps:
        """Returns the same heatmaps on ``device``."""
        return Heatmaps(**{name: value.to(device) for name, value in self.as_tensors().items()})

    @staticmethod
    def joined(parts: Sequence[Heatmaps]) -> Heatmaps:
        """Joins the heatmaps of several batches of images of one size, one after the other."""
        tensors = [part.as_tensors() for part in parts]
        return Heatmaps(**{name: torch.cat([part[name] for part in tensors]) for name in tensors[0]})


@dataclass(frozen=True)
class Prompts:
    """Holds what a segmenter is asked, one row per query, on the CPU; an image can have several queries, or none.

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
        """Says which of ``points``, ``boxes``, ``masks`` are used."""
        used = {"points"} if (self.labels != NO_POINT).any() else set()
        used |= {"boxes"} if self.boxes is not None else set()
        used |= {"masks"} if self.mask_logits is not None else set()
        return frozenset(used)

    @staticmethod
    def joined(first: Prompts, second: Prompts) -> Prompts:
        """Joins the queries of both, one after the other.

        A part that only one of them uses (points beyond the other's, boxes, masks) is filled up with "no
        point here" and zeros, so joined prompts are for the record, not for decoding again.
        """
        longest = max(first.labels.shape[1], second.labels.shape[1])

        def padded(prompts: Prompts) -> tuple[Tensor, Tensor]:
            missing = longest - prompts.labels.shape[1]
            points = torch.cat([prompts.points, prompts.points.new_zeros(len(prompts), missing, 2)], 1)
            nothing = torch.full((len(prompts), missing), NO_POINT, dtype=prompts.labels.dtype)
            return points, torch.cat([prompts.labels, nothing], 1)

        def optional(one: Tensor | None, other: Tensor | None) -> Tensor | None:
            if one is None and other is None:
                return None
            known = other if one is None else one
            assert known is not None
            one = known.new_zeros(len(first), *known.shape[1:]) if one is None else one
            other = known.new_zeros(len(second), *known.shape[1:]) if other is None else other
            return torch.cat([one, other])

        (points, labels), (more_points, more_labels) = padded(first), padded(second)
        return Prompts(
            torch.cat([first.image_index, second.image_index]),
            torch.cat([points, more_points]),
            torch.cat([labels, more_labels]),
            optional(first.boxes, second.boxes),
            optional(first.mask_logits, second.mask_logits),
        )

    def __getitem__(self, rows: Tensor) -> Prompts:
        """Returns the given queries (bool mask or indices)."""
        return Prompts(
            self.image_index[rows],
            self.points[rows],
            self.labels[rows],
            None if self.boxes is None else self.boxes[rows],
            None if self.mask_logits is None else self.mask_logits[rows],
        )


@dataclass(frozen=True)
class Segmentation:
    """Holds the masks that a segmenter offers for each query, on the segmenter's device but for ``image_index``.

    Attributes:
        logits: low-resolution mask logits of every candidate, in the segmenter's padded input frame; candidate 0
            is SAM's single-mask output, the others are its alternatives.
        predicted_iou: the segmenter's own estimate of each candidate's IoU with the object.
        image_index: which image of the batch each query belongs to; on the CPU.
        single: the candidate that the segmenter's own single-mask rule gives for each query; None stands for
            candidate 0.
    """

    logits: Float[Tensor, "queries candidates low low"]
    predicted_iou: Float[Tensor, "queries candidates"]
    image_index: Int[Tensor, " queries"]
    single: Int[Tensor, " queries"] | None = None

    def __len__(self) -> int:
        return len(self.image_index)

    def __getitem__(self, rows: Tensor) -> Segmentation:
        """Returns the given queries (bool mask or indices)."""
        single = None if self.single is None else self.single[rows]
        return Segmentation(self.logits[rows], self.predicted_iou[rows], self.image_index[rows], single)

    @staticmethod
    def joined(first: Segmentation, second: Segmentation) -> Segmentation:
        """Joins the queries of both, one after the other; both are answers of one segmenter."""
        single = None
        if first.single is not None and second.single is not None:
            single = torch.cat([first.single, second.single])
        return Segmentation(
            torch.cat([first.logits, second.logits]),
            torch.cat([first.predicted_iou, second.predicted_iou]),
            torch.cat([first.image_index, second.image_index]),
            single,
        )


@dataclass(frozen=True)
class Choice:
    """Says which candidate masks are kept; on the CPU. Rows of one image are united; an image may have none.

    Attributes:
        image_index: which image of the batch each row is about.
        query: row of the `Segmentation`.
        candidate: which of that query's masks.
        predicted_iou: the segmenter's own estimate of that mask's IoU.
    """

    image_index: Int[Tensor, " rows"]
    query: Int[Tensor, " rows"]
    candidate: Int[Tensor, " rows"]
    predicted_iou: Float[Tensor, " rows"]

    def __len__(self) -> int:
        return len(self.image_index)

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the four tensors, in order."""
        return self.image_index, self.query, self.candidate, self.predicted_iou

    def __getitem__(self, rows: Tensor) -> Choice:
        """Returns the given rows (bool mask or indices)."""
        return Choice(*(part[rows] for part in self.parts))


@runtime_checkable
class Frames(Protocol):
    """Leads from the original frame to a segmenter's low-resolution grid and back, for one batch of images."""

    def to_low_res(self, values: Float[Tensor, "maps height width"]) -> Float[Tensor, "maps low low"]:
        """Brings maps of the original frame to the low-resolution grid, on their own device; 0 on padding."""

    def to_original(self, logits: Float[Tensor, "masks low low"]) -> Bool[Tensor, "masks height width"]:
        """Makes masks in the original frame from low-resolution logits, on their own device."""


@dataclass(frozen=True)
class PromptContext:
    """Holds what is known about a batch when prompts and masks are chosen. Brings its tensors to the CPU.

    Attributes:
        images: RGB 0..255 in the original frame.
        heatmaps: where the classifier looked.
        image_ids: one name per image; numbers if left out.
        seed: what random strategies draw depends on it; see `generator`.
        masks: the true masks, for strategies and selectors that declare ``needs_truth`` only; else None.
        frames: the segmenter's frames; None where no segmenter is involved.

    Raises:
        ValueError: images, heatmaps and names of unequal number.
    """

    images: UInt8[Tensor, "batch 3 height width"]
    heatmaps: Heatmaps
    image_ids: Sequence[str] = ()
    seed: int = 0
    masks: Bool[Tensor, "batch height width"] | None = None
    frames: Frames | None = None

    def __post_init__(self) -> None:
        if not self.image_ids:
            object.__setattr__(self, "image_ids", tuple(map(str, range(len(self.images)))))
        if not len(self.images) == len(self.heatmaps) == len(self.image_ids):
            raise ValueError(
                f"{len(self.images)} images, {len(self.heatmaps)} heatmaps and {len(self.image_ids)} names "
                "do not belong together"
            )
        masks = None if self.masks is None else self.masks.cpu()
        for name, value in (
            ("images", self.images.cpu()),
            ("heatmaps", self.heatmaps.to("cpu")),
            ("masks", masks),
        ):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def low_res(self) -> Frames:
        """Returns the segmenter's frames.

        Raises:
            ValueError: outside of a pipeline, where there is no segmenter.
        """
        if self.frames is None:
            raise ValueError(
                "this needs the segmenter's frames: run it in a Pipeline, or set PromptContext.frames"
            )
        return self.frames

    @property
    def size(self) -> tuple[int, int]:
        """Returns ``(height, width)`` of the images in pixels."""
        return self.images.shape[-2], self.images.shape[-1]

    @property
    def centre(self) -> Float[Tensor, " 2"]:
        """Returns ``(x, y)`` px of the images' centre: where strategies click that know nothing better."""
        height, width = self.size
        return torch.tensor([(width - 1) / 2, (height - 1) / 2])

    def generator(self, row: int) -> np.random.Generator:
        """Returns the random numbers of one image, which are the same however images are batched."""
        return np.random.default_rng([self.seed, *self.image_ids[row].encode()])


def stack_points(rows: Sequence[Sequence[tuple[float, float, int]]]) -> tuple[Tensor, Tensor]:
    """Stacks lists of ``(x, y, label)`` of unequal length into ``points (Q, N, 2)`` and ``labels (Q, N)``.

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
