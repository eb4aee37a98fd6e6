"""This module reads data sets in COCO's format: photographs, and one file with the outlines of all objects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool
from pycocotools import mask as rle
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from gradsam_exp.data.base import DATASETS, Example
from gradsam_exp.data.coco_annotations import Outline, read_annotations
from gradsam_exp.data.files import Entry, FileDataset, SplitNames
from gradsam_exp.data.pictures import FileProblem
from gradsam_exp.data.truths import Truth, TruthFacts
from gradsam_exp.errors import InputError, did_you_mean


@DATASETS.register("coco")
@checked_dataclass(kw_only=True, eq=False, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class Coco(FileDataset):
    """COCO is photographs in which every object of 80 categories is outlined; other data comes in its format too.

    The layout is ``annotations/instances_{train,val}{2014,2017}.json`` beside the folders ``train2017`` and
    ``val2017``, or ``train2014`` and ``val2014``: Lin et al., *Microsoft COCO: Common Objects in Context*, ECCV
    2014; https://cocodataset.org/#format-data. Outlines are polygons, or run lengths, compressed or not;
    pycocotools makes masks of them.

    Our split ``train`` is COCO's ``train``. Our ``val`` and our ``test`` are both COCO's ``val``, since its test
    annotations are not public: what is chosen by ``val`` is then chosen on the images that ``test`` scores.

    A crowd (``iscrowd=1``) outlines an unknown number of objects: its pixels do not count for any example of its
    category, and it is no example. Images without an object that is asked for are left out, and so are objects
    without a pixel. Classes are in the order of the category ids, which need not be contiguous.

    Attributes:
        root: the folder that holds ``annotations``.
        year: takes the place of ``{year}``.
        list: takes the place of ``{split}``, for each split.
        by: ``class``: an example is a category in an image, all of its objects together; ``instance``: an example
            is an object, named by the id of its annotation.
        categories: names of those to read; None: all.
        min_area: px of an example's mask; those with fewer are left out, and their pixels count as no object.
        annotations, images: the file and the folder below ``root``, with ``{split}`` and ``{year}``.

    Raises:
        InputError: the annotation file is missing or not in this format, a category is not known, a picture is
            missing or not of the size that the file says, an outline is none.
    """

    root: Path
    year: Literal[2014, 2017] = 2017
    list: SplitNames = field(default_factory=SplitNames)
    by: Literal["class", "instance"] = "class"
    categories: tuple[str, ...] | None = None
    min_area: Annotated[int, Field(ge=0)] = 0
    annotations: str = "annotations/instances_{split}{year}.json"
    images: str = "{split}{year}"

    def __post_init__(self) -> None:
        self._without = 0
        super().__post_init__()
        if self._without:
            what = f"images without an annotation that is asked for are left out ({self._without})"
            self.notes = [*self.notes, what]

    def find(self) -> tuple[Sequence[Entry], Sequence[str]]:
        """See `FileDataset.find`."""
        root = self.root.expanduser()
        if not root.is_dir():
            raise InputError(f"data.root={root} does not exist; give the folder that holds 'annotations'")
        path, folder = root / self._filled(self.annotations), root / self._filled(self.images)
        if not path.is_file():
            raise InputError(f"data.root: {path} does not exist; see data.annotations, data.year and data.list")
        if not folder.is_dir():
            raise InputError(f"data.root: the folder {folder} does not exist; see data.images")
        state = path.stat()
        read = read_annotations(path, state.st_mtime_ns, state.st_size)
        names = self._chosen(path, tuple(read.categories.values()))
        numbers = {name: number for number, name in enumerate(names)}
        classes = {key: (name, numbers[name]) for key, name in read.categories.items() if name in numbers}
        entries = []
        for image in read.images:
            objects = tuple(one for one in image.objects if one.category in classes)
            if all(one.crowd for one in objects):
                self._without += 1
                continue
            place = folder / image.file_name
            truth = CocoTruth(place, path, (image.width, image.height), objects, classes, self.by, self.min_area)
            entries.append(Entry(PurePosixPath(image.file_name).with_suffix("").as_posix(), place, truth))
        return entries, names

    def _filled(self, pattern: str) -> str:
        return pattern.replace("{split}", self.list.of(self.split)).replace("{year}", str(self.year))

    def _chosen(self, path: Path, known: tuple[str, ...]) -> tuple[str, ...]:
        """The names of the classes, in the file's order."""
        if self.categories is None:
            return known
        for name in self.categories:
            if name not in known:
                raise InputError(f"data.categories: {path} has no {name!r}{did_you_mean(name, known)}")
        return tuple(name for name in known if name in self.categories)


@dataclass(frozen=True)
class CocoTruth(Truth):
    """The annotations of one image.

    Attributes:
        image: the picture, named in errors.
        source: the annotation file, named in errors.
        size: ``(width, height)`` px that the annotation file says.
        objects: those of the classes, crowds included.
        classes: name and class id of each category id.
        by: what an example is, a class or an object.
        min_area: px of the smallest example.
    """

    image: Path
    source: Path
    size: tuple[int, int]
    objects: tuple[Outline, ...]
    classes: Mapping[int, tuple[str, int]] = field(hash=False)
    by: Literal["class", "instance"] = "class"
    min_area: int = 0

    @property
    def depends_on(self) -> Any:
        """All outlines, and what is made of them."""
        outlines = [(one.key, self.classes[one.category], one.crowd, one.runs.decode()) for one in self.objects]
        return [self.by, self.min_area, outlines]

    def examples(self, size: tuple[int, int]) -> list[Example]:
        """See `Truth.examples`."""
        crowds: dict[int, Bool[torch.Tensor, "height width"]] = {}
        examples = []
        for name, label, runs, crowd in self._found(size):
            mask, counted = _decoded(runs), None
            if crowd is not None:
                if label not in crowds:
                    crowds[label] = ~_decoded(crowd)
                counted = crowds[label]
                mask &= counted
            examples.append(Example(label, mask, counted, name))
        return examples

    def facts(self, size: tuple[int, int]) -> TruthFacts:
        """See `Truth.facts`; no mask is decoded."""
        return TruthFacts(tuple(label for _, label, _, _ in self._found(size)))

    def _found(self, size: tuple[int, int]) -> Iterator[tuple[str, int, Any, Any]]:
        """Name, class id, mask and crowd of each example that is large enough; masks as run lengths."""
        if size != self.size:
            what = f"is {size[0]}×{size[1]} px, turned as its EXIF orientation says, but {self.source} says"
            raise FileProblem(self.image, f"{what} {self.size[0]}×{self.size[1]} px")
        single: dict[int, list[tuple[str, Any]]] = defaultdict(list)
        crowds: dict[int, list[Any]] = defaultdict(list)
        for one in self.objects:
            if one.wrong:
                raise FileProblem(self.image, f"has annotation {one.key} in {self.source}, which {one.wrong}")
            runs = {"size": [size[1], size[0]], "counts": one.runs}
            if one.crowd:
                crowds[one.category].append(runs)
            else:
                single[one.category].append((str(one.key), runs))
        for category, (name, label) in self.classes.items():
            own = single[category]
            crowd = rle.merge(crowds[category]) if crowds[category] else None
            if self.by == "class" and own:
                own = [(name, rle.merge([runs for _, runs in own]))]
            for key, runs in own:
                hidden = 0 if crowd is None else int(rle.area(rle.merge([runs, crowd], intersect=True)))
                if int(rle.area(runs)) - hidden >= max(1, self.min_area):
                    yield key, label, runs, crowd


def _decoded(runs: Any) -> Bool[torch.Tensor, "height width"]:
    return torch.from_numpy(np.ascontiguousarray(rle.decode(runs)).astype(bool))
