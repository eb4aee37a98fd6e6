"""This module says where an image's objects are: what a truth is, and those that are mask files."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from gradsam_exp.data.base import Example
from gradsam_exp.data.masks import MaskFile, MaskValues, read_mask
from gradsam_exp.data.pictures import MAX_PIXELS, FileProblem

_NAMED = 20  # classes in a message


@dataclass(frozen=True)
class TruthFacts:
    """What a `Truth` says without its masks.

    Attributes:
        labels: class ids of the image's examples.
        notes: what was done that their owner may not expect.
        values: all that occur in a mask file.
        lone: the only value of a mask file, which others of the data set must show to be the object's.
        covers_corners: the object covers all four corners of the image.
        empty: there is no object.
    """

    labels: tuple[int, ...]
    notes: tuple[str, ...] = ()
    values: tuple[int | str, ...] = ()
    lone: int | str | None = None
    covers_corners: bool = False
    empty: bool = False


class Truth(ABC):
    """A truth says where an image's objects are: in a mask file, or in an annotation.

    Attributes:
        files: whose content it depends on, besides ``depends_on``.
        depends_on: plain values.
    """

    files: tuple[Path, ...] = ()
    depends_on: Any = None

    @abstractmethod
    def examples(self, size: tuple[int, int]) -> Sequence[Example]:
        """Read the image's examples, none if it has no object that is asked for.

        Args:
            size: ``(width, height)`` px of the image.

        Raises:
            FileProblem: a file cannot be read, or is not of this size.
        """

    def facts(self, size: tuple[int, int]) -> TruthFacts:
        """Read all and say what is known without the masks.

        Raises:
            FileProblem: as `examples`.
        """
        examples = self.examples(size)
        empty = all(one.mask is None or not bool(one.mask.any()) for one in examples)
        return TruthFacts(tuple(one.label for one in examples), empty=empty)


@dataclass(frozen=True)
class FileTruth(Truth):
    """A truth that is one picture file, beside its image.

    Attributes:
        path: the file.
        max_pixels: larger files are refused.
    """

    path: Path
    max_pixels: int = field(default=MAX_PIXELS, kw_only=True)

    @property
    def files(self) -> tuple[Path, ...]:  # type: ignore[override]
        """The file."""
        return (self.path,)

    def read(self, size: tuple[int, int], meaning: MaskValues) -> MaskFile:
        """Read the file as a mask of an image of ``size``, (width, height) px.

        Raises:
            FileProblem: as `read_mask`, or it is not of this size.
        """
        mask = read_mask(self.path, meaning, max_pixels=self.max_pixels)
        require_size(self.path, mask.shape, size)
        return mask


@dataclass(frozen=True)
class MaskTruth(FileTruth):
    """A mask file whose values mean what a configuration says.

    Attributes:
        label: class id of the image's object; −1 unknown.
        meaning: what the file's values mean.
        classes: for ``meaning.object=classes``: name and class id of each value.
    """

    label: int = -1
    meaning: MaskValues = field(default_factory=MaskValues)
    classes: Mapping[int | str, tuple[str, int]] = field(default_factory=dict, hash=False)

    @property
    def depends_on(self) -> Any:
        """What the file's values mean."""
        named = {str(value): name for value, (name, _) in self.classes.items()}
        return [repr(self.meaning), named, self.label]

    def examples(self, size: tuple[int, int]) -> list[Example]:
        """See `Truth.examples`."""
        return self._examples(self.read(size, self.meaning))

    def facts(self, size: tuple[int, int]) -> TruthFacts:
        """See `Truth.facts`."""
        mask = self.read(size, self.meaning)
        regions = [one.mask for one in mask.regions]
        corners = [bool(one[[0, 0, -1, -1], [0, -1, 0, -1]].all()) for one in regions]
        return TruthFacts(
            tuple(one.label for one in self._examples(mask)),
            mask.notes,
            mask.values,
            mask.values[0] if mask.lone else None,
            any(corners),
            not any(one.any() for one in regions),
        )

    def _examples(self, mask: MaskFile) -> list[Example]:
        kind = self.meaning.object
        examples = []
        for region in mask.regions:
            name, label = "", self.label
            if kind == "classes":
                assert region.value is not None
                if region.value not in self.classes:
                    known = ", ".join(str(value) for value in list(self.classes)[:_NAMED])
                    what = f"has the value {region.value}, which names no class (known: {known})"
                    raise FileProblem(self.path, what, "name it in data.class_list, or data.mask.ignore it")
                name, label = self.classes[region.value]
            elif kind == "instances":
                name = str(region.value)
            examples.append(Example(label, mask_tensor(region.mask), mask_tensor(mask.counted), name))
        return examples


def require_size(path: Path, shape: tuple[int, ...], size: tuple[int, int]) -> None:
    """Check that a mask of ``(height, width)`` px has its image's ``(width, height)``.

    Raises:
        FileProblem: naming both.
    """
    if shape != size[::-1]:
        what = f"is {shape[1]}×{shape[0]} px but its image is {size[0]}×{size[1]} px"
        if shape == size:
            what += " as its EXIF orientation turns it"
        raise FileProblem(path, what, "a mask must have its image's size")


def mask_tensor(array: Bool[np.ndarray, "height width"] | None) -> Bool[Tensor, "height width"] | None:
    """Make a tensor of an array; None stays None."""
    return None if array is None else torch.from_numpy(np.ascontiguousarray(array))
