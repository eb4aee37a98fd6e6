"""This module reads ImageNet-S: images of ImageNet with a semantic segmentation into the classes of a subset."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from gradsam_exp.data.base import DATASETS, Example
from gradsam_exp.data.files import Entry, FileDataset, is_hidden
from gradsam_exp.data.lists import read_lines
from gradsam_exp.data.pictures import FileProblem, opened
from gradsam_exp.data.truths import FileTruth, require_size
from gradsam_exp.errors import InputError, did_you_mean

FOLDERS = {"train": "train-semi", "val": "validation", "test": "test"}
"""The official folder of each split; that of ``test`` is published without segmentations."""
IGNORED = 1000
"""The class id of pixels that do not count."""
_WNID = re.compile(r"(n\d{8})(?:\s+(.*))?")


@plain_dataclass(frozen=True)
class ClassIds(FileTruth):
    """Class ids are the pixels of an RGB picture: R + 256·G; 0 is anything else, 1000 does not count.

    Attributes:
        names: the name of each class; the first has the id 1.
    """

    names: tuple[str, ...]

    @property
    def depends_on(self) -> Any:
        """How a pixel is read; the names of the classes are the data set's."""
        return "R + 256 G"

    def __hash__(self) -> int:
        return hash((self.path, len(self.names)))  # names are many, and the same for all files

    def examples(self, size: tuple[int, int]) -> list[Example]:
        """See `Truth.examples`."""
        ids = _ids(self.path, self.max_pixels)
        require_size(self.path, ids.shape, size)
        counted = torch.from_numpy(ids != IGNORED)
        examples = []
        for value in np.unique(ids):
            if value in (0, IGNORED):
                continue
            if value > len(self.names):
                what = f"has the class id {value}, but data.class_list has {len(self.names)} lines"
                raise FileProblem(self.path, what, "give the list of its subset (50, 300 or 919 classes)")
            label = int(value) - 1
            mask = torch.from_numpy(ids == value)
            examples.append(Example(label, mask, None if bool(counted.all()) else counted, self.names[label]))
        return examples


def _ids(path: Path, max_pixels: int) -> Int[np.ndarray, "height width"]:
    with opened(path, max_pixels=max_pixels) as picture:
        if picture.mode != "RGB":
            what = f"has pixels of the kind {picture.mode}, but class ids are stored as RGB: R + 256·G"
            raise FileProblem(path, what, "take the official file")
        pixels = np.asarray(picture).astype(np.int32)
    if pixels[..., 2].any():
        raise FileProblem(path, "has blue parts, but class ids are R + 256·G", "take the official file")
    return pixels[..., 0] + 256 * pixels[..., 1]


@DATASETS.register("imagenet_s")
@dataclass(kw_only=True, eq=False, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class ImageNetS(FileDataset):
    """ImageNet-S is ``<folder>/<wnid>/*.JPEG`` and ``<folder>-segmentation/<wnid>/*.png`` for each split.

    Gao et al., Large-scale Unsupervised Semantic Segmentation, TPAMI 2022; https://github.com/LUSSeg/ImageNet-S.
    Images are those that have a segmentation; each class in one is an example, whose mask is all its pixels.

    Attributes:
        root: the folder of a subset, such as ``ImageNetS50``.
        class_list: the subset's ``ImageNetS_categories_im50.txt``, from the root: line n is class id n. A line is
            a WordNet id, a WordNet id and a name, or a name; WordNet ids must be sorted, since they are numbered
            in that order, and a published copy of the list for 919 classes is not.
        images: where images are, from the root; ``{folder}`` stands for the split's folder.
        folders: the folder of each split.

    Raises:
        InputError: a missing folder or list, a segmentation without image, files that cannot be used.
    """

    root: Path
    class_list: Path
    images: str = "{folder}"
    folders: Mapping[str, str] = field(default_factory=lambda: dict(FOLDERS))

    def find(self) -> tuple[list[Entry], Sequence[str]]:
        """See `FileDataset.find`."""
        base = self.root.expanduser()
        if not base.is_dir():
            raise InputError(f"data.root={base} does not exist; give the folder of a subset, such as ImageNetS50")
        names = _class_names(base / self.class_list.expanduser())
        unknown = sorted(set(self.folders) - set(FOLDERS))
        if unknown:
            raise InputError(f"data.folders: {unknown[0]!r} is no split{did_you_mean(unknown[0], FOLDERS)}")
        if self.split not in self.folders:
            raise InputError(f"data.folders names no folder for split {self.split!r}")
        folder = self.folders[self.split]
        masks = base / f"{folder}-segmentation"
        images = base / Path(self.images.replace("{folder}", folder)).expanduser()
        if not masks.is_dir():
            hint = ""
            if folder == FOLDERS["test"]:
                hint = "; those of test are not published: data.folders.test=validation takes others"
            raise InputError(f"data.root: the folder {masks} does not exist{hint}")
        if not images.is_dir():
            raise InputError(f"data.images: the folder {images} does not exist")
        entries = []
        for category in sorted(path for path in masks.iterdir() if path.is_dir() and not is_hidden(path)):
            for path in sorted(category.iterdir()):
                if is_hidden(path) or path.suffix.lower() != ".png":
                    continue
                image = images / category.name / f"{path.stem}.JPEG"
                truth = ClassIds(path, names, max_pixels=self.max_pixels)
                entries.append(Entry(f"{category.name}/{path.stem}", image, truth))
        if not entries:
            raise InputError(f"data.root: {masks} holds no folder of a class with PNG files")
        return entries, names


def _class_names(path: Path) -> tuple[str, ...]:
    """The names in a list of categories.

    Raises:
        InputError: it cannot be read, an empty line, two equal names, or WordNet ids that are not sorted.
    """
    lines = read_lines(path, "data.class_list")
    if not all(lines):
        raise InputError(f"data.class_list={path}: line {lines.index('') + 1} is empty, but line n is class id n")
    parts = [_WNID.fullmatch(line) for line in lines]
    if all(parts):
        wnids = [part[1] for part in parts if part]
        if wnids != sorted(wnids):
            what = "its WordNet ids are not sorted, but class ids are numbered in their order"
            raise InputError(f"data.class_list={path}: {what}; sort the file")
        lines = [part[2] or part[1] for part in parts if part]
    twice = {line for line in lines if lines.count(line) > 1} if len(set(lines)) < len(lines) else set()
    if twice:
        raise InputError(f"data.class_list={path}: {min(twice)!r} stands in two lines; make their names differ")
    return tuple(lines)
