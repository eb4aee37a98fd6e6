"""This module reads the segmentations of PASCAL VOC 2007 to 2012, and their extension by SBD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal
from xml.etree import ElementTree

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ImageOps
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from gradsam_exp.data.base import DATASETS, Example
from gradsam_exp.data.files import Entry, FileDataset, SplitNames
from gradsam_exp.data.pictures import MAX_PIXELS, FileProblem, opened, read_bytes
from gradsam_exp.data.truths import Truth, require_size
from gradsam_exp.errors import InputError, did_you_mean

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""The official names; the first has the value 1 in class masks, and the class id 0."""
VOID = 255  # borders between objects, and what nobody could tell


@DATASETS.register("voc")
@checked_dataclass(kw_only=True, eq=False, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class Voc(FileDataset):
    """PASCAL VOC is photographs in which the objects of 20 classes are segmented by hand, in the official layout.

    That is ``VOCdevkit/VOC2012/`` with ``JPEGImages/*.jpg``, ``SegmentationClass/*.png``,
    ``SegmentationObject/*.png``, ``Annotations/*.xml`` and ``ImageSets/Segmentation/{train,val,trainval}.txt``:
    Everingham et al., *The PASCAL Visual Object Classes Challenge: A Retrospective*, IJCV 2015;
    http://host.robots.ox.ac.uk/pascal/VOC/. Only images on the lists for segmentation are read.

    Our split ``train`` is VOC's ``train``. Our ``val`` and our ``test`` are both VOC's ``val``, since the masks of
    its test images are not public (but for 2007: ``list.test=test``): what is chosen by ``val`` is then chosen on
    the images that ``test`` scores. ``list.train=trainaug`` trains on the masks in ``SegmentationClassAug/``,
    which come from SBD (Hariharan et al., *Semantic Contours from Inverse Detectors*, ICCV 2011), for the images
    in ``trainaug.txt``; that list, unlike SBD's own, leaves out VOC's ``val``.

    Masks are index PNGs and read by index, whatever their palette. Pixels of value 255 (void: borders, and what is
    unclear) do not count for any example.

    Attributes:
        root: the folder ``VOCdevkit``, the one that holds it, or the year's own.
        year: from 2007 to 2012.
        list: the file in ``ImageSets/Segmentation`` for each split, without ``.txt``; one that ends in ``aug``
            reads ``SegmentationClassAug``.
        by: ``class``: an example is a class in an image, all of its pixels; ``instance``: an example is an object,
            named by its value in ``SegmentationObject``, its class the one that most of its pixels have in
            ``SegmentationClass``.
        difficult: False: objects that ``Annotations`` mark as difficult are no examples, and their pixels count
            for none. Object n of ``SegmentationObject`` is the n-th in the annotation. With ``by=class`` what is
            left of a class is its other objects; a class with difficult objects only is no example of that image.

    Raises:
        InputError: a folder or list is missing, a file cannot be used, a mask has other values.
    """

    root: Path
    year: Annotated[int, Field(ge=2007, le=2012)] = 2012
    list: SplitNames = field(default_factory=SplitNames)
    by: Literal["class", "instance"] = "class"
    difficult: bool = True

    def find(self) -> tuple[Sequence[Entry], Sequence[str]]:
        """See `FileDataset.find`."""
        base, name = self._base(), self.list.of(self.split)
        augmented, with_objects = name.endswith("aug"), self.by == "instance" or not self.difficult
        if augmented and with_objects:
            knob = "data.by=instance" if self.by == "instance" else "data.difficult=false"
            raise InputError(
                f"{knob} needs SegmentationObject, which data.list.{self.split}={name} has not; "
                "give a list of VOC's own, or data.by=class data.difficult=true"
            )
        classes = base / ("SegmentationClassAug" if augmented else "SegmentationClass")
        folders = [base / "JPEGImages", classes]
        folders += [base / "SegmentationObject"] if with_objects else []
        folders += [] if self.difficult else [base / "Annotations"]
        for folder in folders:
            if not folder.is_dir():
                raise InputError(
                    f"data.root: the folder {folder} does not exist; unpack the whole of VOC{self.year}"
                )
        entries = []
        for stem in _listed(base / "ImageSets" / "Segmentation", name, f"data.list.{self.split}"):
            truth = VocTruth(
                classes / f"{stem}.png",
                base / "SegmentationObject" / f"{stem}.png" if with_objects else None,
                None if self.difficult else base / "Annotations" / f"{stem}.xml",
                self.by,
                self.max_pixels,
            )
            entries.append(Entry(stem, base / "JPEGImages" / f"{stem}.jpg", truth))
        return entries, CLASSES

    def _base(self) -> Path:
        """The year's folder."""
        root = self.root.expanduser()
        if not root.is_dir():
            raise InputError(f"data.root={root} does not exist; give the folder VOCdevkit")
        if (root / "JPEGImages").is_dir():
            named = root.resolve().name
            if named != f"VOC{self.year}" and named in {f"VOC{year}" for year in range(2007, 2013)}:
                raise InputError(f"data.root={root} is {named}; say data.year={named[3:]}, or give VOC{self.year}")
            return root
        tried = [root / f"VOC{self.year}", root / "VOCdevkit" / f"VOC{self.year}"]
        found = next((path for path in tried if path.is_dir()), None)
        if found is None:
            raise InputError(
                f"data.root={root} holds neither VOC{self.year} nor JPEGImages; give the folder VOCdevkit"
            )
        return found


@dataclass(frozen=True)
class VocTruth(Truth):
    """The masks of one VOC image.

    Attributes:
        classes: the file in ``SegmentationClass``.
        objects: the file in ``SegmentationObject``, if it is needed.
        annotation: the file in ``Annotations``, if difficult objects are to be left out.
        by: what an example is, a class or an object.
        max_pixels: larger files are refused.
    """

    classes: Path
    objects: Path | None = None
    annotation: Path | None = None
    by: Literal["class", "instance"] = "class"
    max_pixels: int = MAX_PIXELS

    @property
    def files(self) -> tuple[Path, ...]:  # type: ignore[override]
        """All files that are read."""
        return tuple(path for path in (self.classes, self.objects, self.annotation) if path is not None)

    @property
    def depends_on(self) -> Any:
        """What an example is, and whether difficult objects are left out."""
        return [self.by, self.annotation is None]

    def examples(self, size: tuple[int, int]) -> list[Example]:
        """See `Truth.examples`."""
        classes = self._read(self.classes, size)
        known = [0, *range(1, len(CLASSES) + 1), VOID]
        unknown = np.setdiff1d(classes, known)
        if len(unknown):
            what = f"has the value {unknown[0]}, which is no class of VOC (0 to {len(CLASSES)}, and 255 for void)"
            raise FileProblem(self.classes, what, "replace it by the official one")
        counted = classes != VOID
        regions = {CLASSES[value - 1]: (int(value) - 1, classes == value) for value in _objects_in(classes)}
        if self.objects is not None:
            objects = self._read(self.objects, size)
            counted &= objects != VOID
            labels = {
                number: label
                for number in _objects_in(objects)
                if (label := self._label(classes, objects, number)) is not None
            }
            if self.annotation is not None:
                counted &= ~np.isin(objects, _difficult(self.annotation, labels))
            if self.by == "instance":
                regions = {str(number): (label, objects == number) for number, label in labels.items()}
        masks = {name: (label, region & counted) for name, (label, region) in regions.items()}
        shared = None if counted.all() else torch.from_numpy(counted)
        return [
            Example(label, torch.from_numpy(mask), shared, name)
            for name, (label, mask) in masks.items()
            if mask.any()
        ]

    def _read(self, path: Path, size: tuple[int, int]) -> UInt8[np.ndarray, "height width"]:
        values = read_indices(path, max_pixels=self.max_pixels)
        require_size(path, values.shape, size)
        return values

    def _label(self, classes: np.ndarray, objects: np.ndarray, number: int) -> int | None:
        """The class id of an object; None if none of its pixels counts."""
        values = classes[(objects == number) & (classes != VOID)]
        if not len(values):
            return None
        shares = np.bincount(values, minlength=len(CLASSES) + 1)[1:]
        best = np.flatnonzero(shares == shares.max())
        if len(best) > 1:
            what = "no class" if not shares.any() else " and ".join(CLASSES[k] for k in best) + " in equal parts"
            raise FileProblem(
                self.objects or self.classes, f"has an object {number} that is {what} in {self.classes}"
            )
        return int(best[0])


def read_indices(path: Path, *, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "height width"]:
    """Read a PNG that holds a number from 0 to 255 for each pixel, as an index in a palette or as a grey value.

    Raises:
        FileProblem: it cannot be read, or is of another kind, as masks are that were saved in colours.
    """
    with opened(path, max_pixels=max_pixels) as picture:
        if picture.format != "PNG" or picture.mode not in {"P", "L"}:
            what = f"is a mask in {picture.format} {picture.mode}, and not a PNG with an index for each pixel"
            raise FileProblem(path, what, "give the official file, which has a palette")
        return np.array(ImageOps.exif_transpose(picture))


def _objects_in(values: UInt8[np.ndarray, "height width"]) -> Sequence[int]:
    return [int(value) for value in np.unique(values) if value not in (0, VOID)]


def _difficult(path: Path, labels: dict[int, int]) -> Sequence[int]:
    """The numbers of the objects that an annotation marks as difficult.

    Args:
        labels: class id of each object in the mask; if some are difficult, all must be those of the annotation.
    """
    try:
        found = ElementTree.fromstring(read_bytes(path)).findall("object")
    except ElementTree.ParseError as error:
        raise FileProblem(path, f"cannot be read as XML ({error})") from error
    names = [(one.findtext("name") or "").strip() for one in found]
    marks = [(one.findtext("difficult") or "0").strip() for one in found]  # VOC's own code takes no mark as 0
    wrong = next((mark for mark in marks if mark not in {"0", "1"}), None)
    if wrong is not None:
        raise FileProblem(path, f"says difficult={wrong!r}, which is neither 0 nor 1")
    for number, label in labels.items():
        if "1" in marks and names[number - 1 : number] != [CLASSES[label]]:
            what = f"does not say that object {number} is a {CLASSES[label]}, as the masks do"
            raise FileProblem(path, what, "replace it, or say data.difficult=true")
    return [number for number, mark in enumerate(marks, 1) if mark == "1"]


def _listed(folder: Path, name: str, key: str) -> Sequence[str]:
    """The images on a list, in its order."""
    path = folder / f"{name}.txt"
    try:
        stems = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        known = sorted(one.stem for one in folder.glob("*.txt") if not one.name.startswith("."))
        what = f"{path} does not exist" if not path.exists() else f"{path} cannot be read ({type(error).__name__})"
        raise InputError(f"{key}={name}: {what}{did_you_mean(name, known)}") from error
    twice = next((stem for stem in stems if stems.count(stem) > 1), None) if len(set(stems)) < len(stems) else None
    if twice is not None:
        raise InputError(f"{path} lists {twice} twice; keep one of them")
    if not stems:
        raise InputError(f"{path} lists no image")
    return stems
