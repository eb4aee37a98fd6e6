"""This module reads and checks annotation files in COCO's format, and keeps outlines as run lengths."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as rle

from gradsam_exp.console import console
from gradsam_exp.errors import InputError


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
