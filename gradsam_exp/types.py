"""This module holds the values that pass between plug-ins. They are data only: no model, no file, no config;
`logits_of` reads the first of them out of a classifier's output.

Coordinates are ``(x, y)`` in pixels of the original image; integer coordinates name pixel *centres*.
A point hits a mask if the pixel it rounds to is set.

Devices: images, true masks, heatmaps, prompts, choices and final masks are on the CPU. Only what a network has
just made is on its device: an explainer's `Heatmaps`, an encoder's embeddings, and a `Segmentation`'s logits and
predicted IoU. `PromptContext` brings images, heatmaps and true masks to the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from gradsam_exp.errors import InputError

FOREGROUND, BACKGROUND, NO_POINT = 1, 0, -1
Tensors = Mapping[str, Tensor]
Images = UInt8[Tensor, "batch 3 height width"]
Maps = Float[Tensor, "batch height width"]
Masks = Bool[Tensor, "batch height width"]
PerImage = Float[Tensor, " batch"]
Chosen = Bool[Tensor, " batch"]
LowRes = Float[Tensor, "batch rows columns"]
_Rows = TypeVar("_Rows", bound="TensorRows")
_NO_LOGITS = "give a network, or a wrapper around it, whose output is logits (images, classes)"


@dataclass(frozen=True)
class TensorRows:
    """Base class of containers of tensors that share their first dimension: index, move and join them."""

    def as_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that are there, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def _changed(self: _Rows, change: Callable[[Tensor], Tensor]) -> _Rows:
        return replace(self, **{name: change(value) for name, value in self.as_tensors().items()})

    def __len__(self) -> int:
        return len(next(iter(self.as_tensors().values())))

    def __getitem__(self: _Rows, rows: slice | Tensor) -> _Rows:
        """Return some of the rows (a slice, a bool mask or indices)."""
        return self._changed(lambda value: value[rows])

    def to(self: _Rows, device: torch.device | str) -> _Rows:
        """Return the same rows on ``device``."""
        return self._changed(lambda value: value.to(device))

    @classmethod
    def joined(cls: type[_Rows], parts: Sequence[_Rows]) -> _Rows:
        """Join the rows of several parts, one after the other; a tensor that one of them lacks is left out."""
        tensors = [part.as_tensors() for part in parts]
        shared = [name for name in tensors[0] if all(name in part for part in tensors)]
        return cls(**{name: torch.cat([part[name] for part in tensors]) for name in shared})


@dataclass(frozen=True)
class ExampleBatch:
    """An example batch holds different images of one size and what is to be found in them; on the CPU.

    An example is an image with a class, or with one object in it. Examples of one image are never in two batches,
    and follow each other.

    Attributes:
        images: RGB, 0..255, in the original frame; network input in trainings that fix its size.
        image_of: the image of each example.
        labels: true class ids of the examples, −1 where unknown.
        masks: the examples' true masks, or None where there are none.
        counted: the pixels that count for each example; None: all.
        ranks: the class to explain, by its rank among the classifier's scores (0: the best); None: not asked for.
        image_ids: one unique name per image.
        example_ids: one unique name per example; the image's where it has no other.
        groups: per image, the name of what it shares with others, such as a photograph; empty: nothing known.
    """

    images: UInt8[Tensor, "images 3 height width"] | Float[Tensor, "images 3 height width"]
    image_of: Int[Tensor, " batch"]
    labels: Int[Tensor, " batch"]
    masks: Masks | None
    image_ids: tuple[str, ...]
    example_ids: tuple[str, ...]
    counted: Masks | None = None
    ranks: Int[Tensor, " batch"] | None = None
    groups: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def one_each(
        cls, images: Images, masks: Masks | None, labels: Int[Tensor, " batch"], image_ids: Sequence[str]
    ) -> ExampleBatch:
        """Make a batch in which every image is one example."""
        names = tuple(image_ids)
        return cls(images, torch.arange(len(images)), labels, masks, names, names)

    def to(self, device: torch.device | str) -> ExampleBatch:
        """Return the same batch on ``device``."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in tensors.items()}
        return replace(self, **moved)

    def of_images(self, rows: slice) -> ExampleBatch:
        """Return some of the images with their examples."""
        kept = torch.arange(len(self.images))[rows]
        examples = self.examples_of(rows)
        return ExampleBatch(
            images=self.images[rows],
            image_of=torch.searchsorted(kept, self.image_of[examples]),
            labels=self.labels[examples],
            masks=None if self.masks is None else self.masks[examples],
            image_ids=self.image_ids[rows],
            example_ids=tuple(self.example_ids[row] for row in examples),
            counted=None if self.counted is None else self.counted[examples],
            ranks=None if self.ranks is None else self.ranks[examples],
            groups=self.groups[rows],
        )

    def examples_of(self, rows: slice) -> Int[Tensor, " rows"]:
        """Return the numbers of the examples of some images."""
        return torch.isin(self.image_of, torch.arange(len(self.images))[rows]).nonzero().flatten()

    @property
    def size(self) -> tuple[int, int]:
        """Return ``(height, width)`` of every image, in pixels."""
        return self.images.shape[-2], self.images.shape[-1]

    @property
    def image_id_of(self) -> list[str]:
        """Return the name of each example's image."""
        return [self.image_ids[image] for image in self.image_of.tolist()]

    @property
    def group_of(self) -> list[str]:
        """Return the group of each example's image; an image of no known group is one of its own."""
        named = self.groups or self.image_ids
        groups = [group or image for group, image in zip(named, self.image_ids, strict=True)]
        return [groups[image] for image in self.image_of.tolist()]

    @property
    def own_images(self) -> Tensor:
        """Return each example's image: those of several examples are repeated."""
        return self.images if len(self) == len(self.images) else self.images[self.image_of]


@dataclass(frozen=True)
class Heatmaps(TensorRows):
    """Heatmaps say where the classifier looked, one map per example; on the CPU, or as an explainer makes them.

    Attributes:
        values: saliency in the original frame, min–max scaled to [0, 1] per image.
        empty: the map was zero everywhere (after the ReLU); ``values`` is then all zero.
        targets: the class id that was explained.
        logits: the class scores of the same forward pass; None from explainers that have none.
    """

    values: Maps
    empty: Bool[Tensor, " batch"]
    targets: Int[Tensor, " batch"]
    logits: Float[Tensor, "batch classes"] | None = None

    @property
    def zeros_empty(self) -> Heatmaps:
        """Return the same heatmaps, of which those that are zero everywhere are marked as empty."""
        if not len(self.values):
            return self
        return replace(self, empty=self.empty | (self.values.flatten(1).amax(1) <= 0))


@dataclass(frozen=True)
class Prompts(TensorRows):
    """Prompts are what a segmenter is asked, one row per query; on the CPU. An example can have several, or none.

    Attributes:
        example_index: which example of the batch each query belongs to.
        points: ``(x, y)`` in pixels of the original frame.
        labels: 1 foreground, 0 background, −1 "no point here" (padding, never shown to SAM).
        boxes: ``x0, y0, x1, y1`` in pixels of the original frame.
        mask_logits: logits at the resolution of the segmenter's masks: low, in SAM's input frame.
        candidate: the mask that is kept of each query, whatever the selector says; None: the selector chooses.
    """

    example_index: Int[Tensor, " queries"]
    points: Float[Tensor, "queries points 2"]
    labels: Int[Tensor, "queries points"]
    boxes: Float[Tensor, "queries 4"] | None = None
    mask_logits: Float[Tensor, "queries 1 rows columns"] | None = None
    candidate: Int[Tensor, " queries"] | None = None

    @property
    def kinds(self) -> frozenset[str]:
        """Name which of ``points``, ``boxes``, ``masks`` are used."""
        used = {"points"} if (self.labels != NO_POINT).any() else set()
        used |= {"boxes"} if self.boxes is not None else set()
        used |= {"masks"} if self.mask_logits is not None else set()
        return frozenset(used)

    @classmethod
    def joined(cls, parts: Sequence[Prompts]) -> Prompts:
        """Join the queries of several prompts, one after the other.

        What only some of them use (points beyond the others', boxes, masks) is filled up with "no point here" and
        zeros: where some lack boxes, masks or candidates that others have, the joined prompts are for the record,
        and not for decoding.
        """
        longest = max(part.labels.shape[1] for part in parts)
        optional = {
            name: value
            for part in parts
            for name, value in part.as_tensors().items()
            if name in {"boxes", "mask_logits", "candidate"}
        }

        def filled(part: Prompts) -> Prompts:
            missing = longest - part.labels.shape[1]
            lacking = {
                name: value.new_zeros(len(part), *value.shape[1:])
                for name, value in optional.items()
                if getattr(part, name) is None
            }
            points, labels = (
                F.pad(part.points, (0, 0, 0, missing)),
                F.pad(part.labels, (0, missing), value=NO_POINT),
            )
            return replace(part, points=points, labels=labels, **lacking)

        return super().joined([filled(part) for part in parts])


@dataclass(frozen=True)
class Segmentation(TensorRows):
    """A segmentation holds the masks that a segmenter offers for each query, on its device (not the index).

    Attributes:
        logits: mask logits of every candidate at the segmenter's own resolution: low, in its padded input frame,
            for networks; candidate 0 is its answer when it is asked for a single mask, the others are its
            alternatives.
        predicted_iou: the segmenter's own estimate of each candidate's IoU with the object; NaN from segmenters
            that make none.
        example_index: which example of the batch each query belongs to; on the CPU.
        single: the candidate that the segmenter's own single-mask rule gives for each query; None stands for
            candidate 0.
    """

    logits: Float[Tensor, "queries candidates rows columns"]
    predicted_iou: Float[Tensor, "queries candidates"]
    example_index: Int[Tensor, " queries"]
    single: Int[Tensor, " queries"] | None = None


@dataclass(frozen=True)
class EverythingMode:
    """Everything mode asks a segmenter about a grid of single clicks, and keeps the masks that it is sure of.

    The parameters of segment_anything's `SamAutomaticMaskGenerator` (Kirillov et al., ICCV 2023, section 5), with
    its defaults.

    Attributes:
        points_per_side: clicks along each side of the image.
        pred_iou_thresh: masks of no larger predicted IoU are left out.
        stability_score_thresh: masks are left out whose IoU at logits above 1 and above −1 is smaller.
        box_nms_thresh: of two masks whose boxes have a larger IoU, that of the lower predicted IoU is left out.
    """

    points_per_side: int = 32
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    box_nms_thresh: float = 0.7


@dataclass(frozen=True)
class MaskSet(TensorRows):
    """A mask set holds what a segmenter finds in an image in `EverythingMode`, the surest mask first; on the CPU.

    Attributes:
        packed: the masks' bits, row by row of the image, eight a byte.
        points: the click ``(x, y)`` px that gave each mask.
        candidate: which of its masks it is.
        predicted_iou, stability: the segmenter's estimate, and the mask's IoU at logits above 1 and above −1.
        size: ``(height, width)`` px of the image.
    """

    packed: UInt8[Tensor, "masks bytes"]
    points: Float[Tensor, "masks 2"]
    candidate: Int[Tensor, " masks"]
    predicted_iou: Float[Tensor, " masks"]
    stability: Float[Tensor, " masks"]
    size: tuple[int, int]

    @property
    def masks(self) -> Masks:
        """Return the masks, unpacked."""
        height, width = self.size
        bits = np.unpackbits(self.packed.numpy(), axis=1, count=height * width)
        return torch.from_numpy(bits.astype(bool).reshape(-1, height, width))

    @staticmethod
    def pack(masks: Masks) -> UInt8[Tensor, "masks bytes"]:
        """Pack masks as ``packed`` has them."""
        return torch.from_numpy(np.packbits(masks.flatten(1).numpy(), axis=1))


@dataclass(frozen=True)
class Choice(TensorRows):
    """A choice says which candidate masks are kept; on the CPU. An example's rows are united; it may have none.

    Attributes:
        example_index: which example of the batch each row is about.
        query: row of the `Segmentation`.
        candidate: which of that query's masks.
        predicted_iou: the segmenter's own estimate of that mask's IoU.
    """

    example_index: Int[Tensor, " rows"]
    query: Int[Tensor, " rows"]
    candidate: Int[Tensor, " rows"]
    predicted_iou: Float[Tensor, " rows"]


@runtime_checkable
class Frames(Protocol):
    """Frames converts maps and masks between image size and a segmenter's grid, for one batch.

    The grid has a low resolution for networks, and the image's own for segmenters without one.
    """

    def to_low_res(self, values: Maps) -> LowRes:
        """Bring maps of the original frame to the segmenter's grid, on their own device; 0 on padding."""

    def to_original(self, logits: LowRes) -> Masks:
        """Make masks in the original frame from logits on the segmenter's grid, on their own device."""


@dataclass(frozen=True)
class PromptContext:
    """A prompt context is what is known about a batch when prompts and masks are chosen, all on the CPU.

    Attributes:
        images: RGB 0..255 in the original frame; each example's, so that an image of several comes several times.
        heatmaps: where the classifier looked.
        example_ids: one name per example; numbers if left out.
        seed: what random strategies draw depends on it; see `generator`.
        masks: the true masks, for strategies and selectors that declare ``needs_truth`` only; else None. Pixels
            that do not count are in none.
        counted: the pixels that count, for the same ones; None: all, or not said.
        frames: the segmenter's frames; None where no segmenter is involved.
        features: the segmenter's image embedding, without padding, of each example, for strategies that need
            ``embeddings``.
        everything: what the segmenter finds in each example's image, for those that need ``everything``.
        explain: gives heatmaps of other images ``(B, 3, H, W)``, as those here were made, from the classes to be
            explained; for those that need the ``classifier``.
        memory: what a strategy keeps from one round to the next; empty before the first.

    Raises:
        ValueError: images, heatmaps and names of unequal number; heatmaps or masks of another size than the
            images; heatmaps that are not finite.
    """

    images: Images
    heatmaps: Heatmaps
    example_ids: Sequence[str] = ()
    seed: int = 0
    masks: Masks | None = None
    frames: Frames | None = None
    counted: Masks | None = None
    features: Float[Tensor, "batch channels rows columns"] | None = None
    everything: Sequence[MaskSet] = ()
    explain: Callable[[Images, Int[Tensor, " batch"]], Heatmaps] | None = None
    memory: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.example_ids:
            object.__setattr__(self, "example_ids", tuple(map(str, range(len(self.images)))))
        if not len(self.images) == len(self.heatmaps) == len(self.example_ids):
            raise ValueError(
                f"{len(self.images)} images, {len(self.heatmaps)} heatmaps and {len(self.example_ids)} names "
                "do not belong together"
            )
        for name in ("images", "heatmaps", "masks", "counted"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else value.to("cpu"))
        if self.masks is not None and self.counted is not None:
            object.__setattr__(self, "masks", self.masks & self.counted)
        self._check_maps()

    def _check_maps(self) -> None:
        """Check heatmaps and masks against the images; heatmaps of zeros are marked as empty."""
        values = self.heatmaps.values
        for name, maps in (("heatmaps", values), ("masks", self.masks)):
            if maps is not None and tuple(maps.shape[-2:]) != self.size:
                sides = [f"{side[1]}×{side[0]}" for side in (tuple(maps.shape[-2:]), self.size)]
                raise ValueError(f"{name} of {sides[0]} px do not belong to images of {sides[1]} px: resize them")
        if not values.isfinite().all():
            raise ValueError("heatmaps hold NaN or infinite values")
        object.__setattr__(self, "heatmaps", self.heatmaps.zeros_empty)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def low_res(self) -> Frames:
        """Return the segmenter's frames.

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
        """Return ``(height, width)`` of the images in pixels."""
        return self.images.shape[-2], self.images.shape[-1]

    @property
    def centre(self) -> Float[Tensor, " 2"]:
        """Return ``(x, y)`` px of the images' centre: where strategies click that know nothing better."""
        height, width = self.size
        return torch.tensor([(width - 1) / 2, (height - 1) / 2])

    def of_examples(self, rows: Int[Tensor, " rows"]) -> PromptContext:
        """Return the context of some of the examples, which may come several times."""
        return replace(
            self,
            images=self.images[rows],
            heatmaps=self.heatmaps[rows],
            example_ids=tuple(self.example_ids[row] for row in rows.tolist()),
            masks=None if self.masks is None else self.masks[rows],
            counted=None if self.counted is None else self.counted[rows],
            features=None if self.features is None else self.features[rows],
            everything=[self.everything[row] for row in rows.tolist()] if self.everything else (),
        )

    def generator(self, row: int) -> np.random.Generator:
        """Return the random numbers of one example, which are the same however examples are batched."""
        return np.random.default_rng([self.seed, *self.example_ids[row].encode()])


def stack_points(rows: Sequence[Sequence[tuple[float, float, int]]]) -> tuple[Tensor, Tensor]:
    """Stack lists of ``(x, y, label)`` of unequal length into ``points (Q, N, 2)`` and ``labels (Q, N)``.

    Short rows are filled up with label −1.
    """
    longest = max((len(row) for row in rows), default=0)
    padded = [[*row, *[(0.0, 0.0, NO_POINT)] * (longest - len(row))] for row in rows]
    values = torch.tensor(padded, dtype=torch.float32).view(len(rows), longest, 3)
    return values[..., :2], values[..., 2].long()


def is_finite(value: Tensor) -> bool:
    """Say whether no value is NaN or infinite."""
    # A sum that is finite has finite terms alone, and takes a thirtieth of the time.
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())


def logits_of(output: Any) -> Float[Tensor, "batch classes"]:
    """Read the logits out of a classifier's output, in float32.

    Args:
        output: logits ``(B, K)``; or what holds them: an object or mapping with ``logits`` (transformers'
            ``ModelOutput``), or a tuple or list whose first element is logits. One logit ``z`` (``(B, 1)`` or
            ``(B,)``), whose sigmoid is the probability of class 1, becomes the two logits ``(−z/2, z/2)``, whose
            softmax is the same probability; so both classes can be explained.

    Raises:
        InputError: nothing of these, such as a map of logits ``(B, K, h, w)``.
    """
    found = output
    if isinstance(found, Mapping) and "logits" in found:
        found = found["logits"]
    elif isinstance(getattr(found, "logits", None), Tensor):
        found = found.logits
    elif isinstance(found, tuple | list) and found:
        found = found[0]
    if not isinstance(found, Tensor):
        keys = f" with {', '.join(map(str, found))}" if isinstance(found, Mapping) else ""
        raise InputError(f"the classifier gives a {type(found).__name__}{keys} and no logits: {_NO_LOGITS}")
    if found.ndim == 1 and len(found):
        found = found[:, None]
    if found.ndim != 2:
        raise InputError(f"the classifier gives {tuple(found.shape)} numbers, which are not logits: {_NO_LOGITS}")
    found = found.float()
    return torch.cat([-found / 2, found / 2], 1) if found.shape[1] == 1 else found
