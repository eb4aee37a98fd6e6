"""This module reads CUB-200-2011: birds of 200 species, with masks by five people each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ImageOps
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from gradsam_exp.data.base import DATASETS, Example
from gradsam_exp.data.files import Entry, FileDataset
from gradsam_exp.data.lists import NO_OFFICIAL_VAL, in_split, number_in, read_rows
from gradsam_exp.data.pictures import FileProblem, opened
from gradsam_exp.data.truths import FileTruth, require_size
from gradsam_exp.errors import InputError

_FAINTEST = 51  # of 255: one person of five


@plain_dataclass(frozen=True)
class MeanMask(FileTruth):
    """A mean mask is a grey picture from 0 to 255: the mean of masks by five people, 51 for each of them.

    Attributes:
        label: class id of the bird.
        threshold: what is at least this bright is the bird.
    """

    label: int
    threshold: int = 128

    @property
    def depends_on(self) -> Any:
        """The class and the threshold."""
        return ["mean mask", self.label, self.threshold]

    def examples(self, size: tuple[int, int]) -> list[Example]:
        """See `Truth.examples`."""
        grey = _grey(self.path, self.max_pixels)
        require_size(self.path, grey.shape, size)
        brightest = int(grey.max(initial=0))
        if 0 < brightest < _FAINTEST:
            what = f"has no value above {brightest}, but segmentations go to 255, {_FAINTEST} for each person"
            raise FileProblem(self.path, what, "take the official files, or multiply its values")
        mask = torch.from_numpy(grey >= self.threshold)
        return [Example(self.label, mask)] if bool(mask.any()) else []


def _grey(path: Path, max_pixels: int) -> UInt8[np.ndarray, "height width"]:
    """The values of a grey picture, however it is stored.

    Raises:
        FileProblem: it has colours, transparent parts or more than 8 bits.
    """
    with opened(path, max_pixels=max_pixels) as picture:
        if picture.mode not in {"1", "L", "LA", "P", "PA", "RGB", "RGBA"}:
            raise FileProblem(path, f"has pixels of the kind {picture.mode}", "save it in grey with 8 bits")
        pixels = np.asarray(ImageOps.exif_transpose(picture).convert("RGBA"))
    if pixels[..., 3].min(initial=255) < 255:
        raise FileProblem(path, "has transparent parts", "save it in grey with 8 bits")
    if (pixels[..., :3] != pixels[..., :1]).any():
        raise FileProblem(path, "has colours, though segmentations are grey", "save it in grey with 8 bits")
    return np.ascontiguousarray(pixels[..., 0])


@DATASETS.register("cub")
@dataclass(kw_only=True, eq=False, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class Cub(FileDataset):
    """CUB-200-2011 is four lists, ``images/<class>/*.jpg``, and ``segmentations/<class>/*.png``.

    Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, 2011; https://www.vision.caltech.edu/datasets/cub_200_2011.
    The lists are ``images.txt``, ``image_class_labels.txt``, ``train_test_split.txt`` and ``classes.txt``; the
    segmentations are an archive of their own. The official split has no ``val``: a tenth of its training images,
    see `in_split`. Classes are named without number and with blanks for underscores.

    Attributes:
        root: the folder that holds the lists, ``CUB_200_2011``.
        segmentations: their folder, from the root.
        threshold: a pixel this bright is the bird; 128 takes what three of five people or more have marked.

    Raises:
        InputError: a missing folder or list, a line that is not as it should be, files that cannot be used.
    """

    root: Path
    segmentations: Path = Path("segmentations")
    threshold: Annotated[int, Field(ge=1, le=255)] = 128

    def find(self) -> tuple[list[Entry], Sequence[str]]:
        """See `FileDataset.find`."""
        base = self._base()
        masks = base / self.segmentations.expanduser()
        if not masks.is_dir():
            beside = base.parent / "segmentations"
            hint = "it is an archive of its own, segmentations.tgz"
            if beside.is_dir():
                hint = f"did you mean data.segmentations={beside}?"
            raise InputError(f"data.segmentations: the folder {masks} does not exist; {hint}")
        names = {number: _class_name(name) for number, name in read_rows(base / "classes.txt", ("id", "class"))}
        if len(set(names.values())) < len(names):
            raise InputError(f"{base / 'classes.txt'}: two classes have the same name but for their numbers")
        label_of = {number: label for label, number in enumerate(names)}
        listed = base / "images.txt"
        images = dict(read_rows(listed, ("id", "path")))
        classes = _values_of(images, base / "image_class_labels.txt", "class")
        training = _values_of(images, base / "train_test_split.txt", "is-training-image")
        entries = []
        known: set[str] = set()
        for number, path in images.items():
            name = PurePosixPath(path).with_suffix("").as_posix()
            if name in known or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise InputError(f"{listed}: {path} is listed twice, or lies outside the folder images")
            known.add(name)
            where = base / "train_test_split.txt"
            is_training = bool(number_in(training[number], (0, 1), where, "split; 1 is training, 0 is test"))
            if not in_split(self.split, name, training=is_training):
                continue
            if classes[number] not in label_of:
                where = base / "image_class_labels.txt"
                raise InputError(f"{where}: image {number} has the class {classes[number]!r}, not in classes.txt")
            label = label_of[classes[number]]
            truth = MeanMask(masks / f"{name}.png", label, self.threshold, max_pixels=self.max_pixels)
            entries.append(Entry(name, base / "images" / path, truth, label))
        if not entries:
            raise InputError(f"data.root: {base / 'train_test_split.txt'} has no image of split {self.split!r}")
        return entries, tuple(names.values())

    def remarks(self) -> Sequence[str]:
        """See `FileDataset.remarks`."""
        return () if self.split == "test" else (NO_OFFICIAL_VAL,)

    def _base(self) -> Path:
        base = self.root.expanduser()
        if not base.is_dir():
            raise InputError(f"data.root={base} does not exist; give the folder CUB_200_2011")
        inner = base / "CUB_200_2011"
        if not (base / "images.txt").is_file() and inner.is_dir():
            raise InputError(f"data.root={base} lacks images.txt; did you mean data.root={inner}?")
        if not (base / "images").is_dir():
            raise InputError(f"data.root={base} lacks the folder 'images'")
        return base


def _class_name(given: str) -> str:
    """``001.Black_footed_Albatross`` is ``Black footed Albatross``."""
    return re.sub(r"^\d+\.", "", given).replace("_", " ")


def _values_of(images: dict[str, str], path: Path, what: str) -> dict[str, str]:
    """What a list says of every image.

    Raises:
        InputError: it says nothing of one, or something of an image that is not there.
    """
    values = dict(read_rows(path, ("id", what)))
    lacking = [number for number in images if number not in values]
    strange = [number for number in values if number not in images]
    if lacking or strange:
        what = f"lacks the image {lacking[0]}" if lacking else f"has the image {strange[0]}, not in images.txt"
        raise InputError(f"{path} {what}")
    return values
