"""This module reads instance annotations in COCO's format: one JSON file for all images of a split."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from pycocotools import mask as rle
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from gradsam_exp.console import console
from gradsam_exp.data.base import DATASETS, Example
from gradsam_exp.data.files import Entry, FileDataset, SplitNames, Truth, TruthFacts
from gradsam_exp.data.pictures import FileProblem
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


class Outline(NamedTuple):
    """One annotation.

    Attributes:
        key: its id.
        category: id of its category.
        crowd: it outlines an unknown number of objects.
        runs: COCO's compressed run lengths.
        wrong: why there are none.
    """

    key: int
    category: int
    crowd: bool
    runs: bytes = b""
    wrong: str = ""


class AnnotatedImage(NamedTuple):
    """One image of an annotation file: its file's name, its size in pixels, and what is outlined in it."""

    file_name: str
    width: int
    height: int
    objects: tuple[Outline, ...]


class Annotations(NamedTuple):
    """What an annotation file says: the name of each category id, in order of the ids, and the images."""

    categories: Mapping[int, str]
    images: Sequence[AnnotatedImage]


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


@lru_cache(maxsize=4)
def read_annotations(path: Path, modified: int, size_in_bytes: int) -> Annotations:
    """Read and check an annotation file, once a process while it is unchanged.

    Every outline is kept as compressed run lengths, some 300 bytes each; numbers of polygons are never all in
    memory as Python objects, which would take gigabytes for COCO's training images.

    Raises:
        InputError: it is no JSON in COCO's format; names the place.
    """
    del modified, size_in_bytes
    with console.status(f"reading {path.name}"):
        try:
            with path.open(encoding="utf-8-sig") as file:
                content = json.load(file, object_hook=_compact)
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path} cannot be read as JSON ({error})") from error
        categories: dict[int, str] = {}
        for one in _rows(path, content, "categories", {"id": int, "name": str}):
            if one["id"] in categories or one["name"] in categories.values():
                raise InputError(f"{path}: categories has {one['name']!r} or its id {one['id']} twice")
            categories[one["id"]] = one["name"]
        images: dict[int, Any] = {}
        for one in _rows(path, content, "images", {"id": int, "file_name": str, "width": int, "height": int}):
            if one["id"] in images:
                raise InputError(f"{path}: two images have the id {one['id']}")
            images[one["id"]] = one
        _check_images(path, images.values())
        outlines: dict[int, list[Outline]] = defaultdict(list)
        keys = set()
        for one in _rows(
            path, content, "annotations", {"id": int, "image_id": int, "category_id": int, "iscrowd": int}
        ):
            key, image, category = one["id"], images.get(one["image_id"]), one["category_id"]
            if key in keys:
                raise InputError(f"{path}: two annotations have the id {key}")
            keys.add(key)
            if image is None or category not in categories:
                lacking = f"image_id {one['image_id']}" if image is None else f"category_id {category}"
                raise InputError(f"{path}: annotation {key} has the {lacking}, which the file does not list")
            if one["iscrowd"] not in (0, 1):
                raise InputError(
                    f"{path}: annotation {key} has iscrowd={one['iscrowd']}, which is neither 0 nor 1"
                )
            runs, wrong = b"", ""
            try:
                runs = _runs(one.get("segmentation"), image["width"], image["height"])
            except ValueError as error:
                wrong = str(error)
            outlines[one["image_id"]].append(Outline(key, category, one["iscrowd"] == 1, runs, wrong))
    return Annotations(
        dict(sorted(categories.items())),
        [
            AnnotatedImage(one["file_name"], one["width"], one["height"], tuple(outlines[key]))
            for key, one in images.items()
        ],
    )


def _compact(found: dict[str, Any]) -> dict[str, Any]:
    """Make arrays of an object's numbers as soon as it is read, and forget what is not used."""
    if "counts" in found:
        found["counts"] = _numbers(found["counts"])
    elif "image_id" in found:
        outline = found.get("segmentation")
        if isinstance(outline, list):
            found["segmentation"] = [_numbers(part) for part in outline]
        return {
            key: found[key] for key in ("id", "image_id", "category_id", "iscrowd", "segmentation") if key in found
        }
    return found


def _numbers(given: Any) -> Any:
    """A list of numbers as an array; what is no such list as it is."""
    if not isinstance(given, list):
        return given
    try:
        array = np.array(given)
    except ValueError:
        return given
    return array if array.ndim == 1 and array.dtype.kind in "iuf" else given


def _rows(path: Path, content: Any, name: str, needed: Mapping[str, type]) -> Iterator[dict[str, Any]]:
    """The members of one of the file's lists; they are taken out of it, so that memory is free again.

    Raises:
        InputError: the list, or a key of a member, is missing or of another type.
    """
    rows = content.pop(name, None) if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise InputError(f"{path} has no list {name!r}: it is no file of COCO instances (instances_*.json)")
    rows.reverse()
    for number in range(len(rows)):
        row = rows.pop()
        place = f"{path}: {name}[{number}]"
        if not isinstance(row, dict):
            raise InputError(f"{place} is no object with keys")
        for key, kind in needed.items():
            if key not in row:
                raise InputError(f"{place} lacks the key {key!r}")
            if type(row[key]) is not kind:
                what = "whole number" if kind is int else "text"
                raise InputError(f"{place} has {key}={row[key]!r}, which is no {what}")
        yield row


def _check_images(path: Path, images: Any) -> None:
    """Check sizes and file names.

    Raises:
        InputError: a size that no picture has; a name that leads out of the folder, or that two images share.
    """
    stems: dict[PurePosixPath, str] = {}
    for one in images:
        name = PurePosixPath(one["file_name"])
        if min(one["width"], one["height"]) < 1:
            raise InputError(f"{path}: image {one['id']} is {one['width']}×{one['height']} px")
        if not name.name or name.is_absolute() or ".." in name.parts:
            raise InputError(
                f"{path}: image {one['id']} has the file_name {str(name)!r}, which is not in the folder"
            )
        stem = name.with_suffix("")
        if stem in stems:
            raise InputError(f"{path}: {stems[stem]} and {name} have the same name; keep one of them")
        stems[stem] = str(name)


def _runs(outline: Any, width: int, height: int) -> bytes:
    """Turn an outline into compressed run lengths, as pycocotools does.

    Raises:
        ValueError: it is none; says why, to go on with "which".
    """
    if not isinstance(outline, list | dict) or not outline:
        raise ValueError("has no segmentation")
    if isinstance(outline, list):
        for part in outline:
            _check_polygon(part, width, height)
        return bytes(rle.merge(rle.frPyObjects(outline, height, width))["counts"])
    size, counts = outline.get("size"), outline.get("counts")
    if size != [height, width]:
        raise ValueError(f"has run lengths of the size {size}, but [height, width] is {[height, width]}")
    if isinstance(counts, str):
        counts = _uncompressed(counts)
    if not isinstance(counts, np.ndarray) or counts.dtype.kind not in "iu" or counts.min() < 0:
        raise ValueError("has run lengths that are no whole numbers from 0 on")
    plain = counts.tolist()
    if sum(plain) != width * height:
        raise ValueError(f"has run lengths of {sum(plain)} pixels in all, but the image has {width * height}")
    return bytes(rle.frPyObjects({"size": size, "counts": plain}, height, width)["counts"])


def _check_polygon(part: Any, width: int, height: int) -> None:
    """Check what pycocotools takes for a box, or does not survive.

    Raises:
        ValueError: this is no polygon, or not one in or near the image.
    """
    if not isinstance(part, np.ndarray):
        raise ValueError("has a polygon that is no list of numbers")  # noqa: TRY004  (the file is wrong)
    if len(part) < 6 or len(part) % 2:
        raise ValueError(f"has a polygon of {len(part)} numbers, which must be even and at least 6")
    if not (
        np.isfinite(part).all()
        and part.min() >= -max(width, height)
        and part[::2].max() <= 2 * width
        and part[1::2].max() <= 2 * height
    ):
        raise ValueError("has a polygon that lies far outside the image")


def _uncompressed(text: str) -> Any:
    """Read COCO's compressed run lengths: numbers in base 32, from the fourth on differences to the last but one.

    pycocotools reads beyond the end of text that is cut off, and does not set pixels that no run has.

    Raises:
        ValueError: the text is none.
    """
    counts: list[int] = []
    value = place = 0
    for code in text.encode():
        digit = code - 48
        if not 0 <= digit < 64:
            raise ValueError("has compressed run lengths with characters that they never have")
        value |= (digit & 31) << place
        place += 5
        if not digit & 32:
            value -= (digit & 16) << (place - 4)
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = place = 0
    if place or not counts:
        raise ValueError("has compressed run lengths that are cut off")
    return np.array(counts)
