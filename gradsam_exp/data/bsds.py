"""This module reads BSDS500: photographs that several people have cut into segments, which have no classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from gradsam_exp.data.base import DATASETS, Example
from gradsam_exp.data.files import (
    Entry,
    FileDataset,
    matched,
    pictures_in,
    require_same_names,
)
from gradsam_exp.data.masks import MaskValues
from gradsam_exp.data.pictures import FileProblem
from gradsam_exp.data.truths import FileTruth, Truth, mask_tensor
from gradsam_exp.errors import InputError, some


@plain_dataclass(frozen=True)
class Segments(FileTruth):
    """Segments are the numbers from 1 in a grey picture: all pixels of one number are a segment.

    Attributes:
        min_share: a segment with a smaller share of the picture is no example.
    """

    min_share: float = 0.0

    @property
    def depends_on(self) -> Any:
        """Which segments are examples."""
        return ["segments", self.min_share]

    def examples(self, size: tuple[int, int]) -> list[Example]:
        """See `Truth.examples`."""
        mask = self.read(size, MaskValues(object="instances"))
        if any(not isinstance(value, int) or value < 1 for value in mask.values):
            what = f"has the value {mask.values[0]}, but segments are numbered from 1"
            raise FileProblem(self.path, what, "save it in grey or with a palette, with a number for each segment")
        return [
            Example(-1, mask_tensor(region.mask), name=str(region.value))
            for region in mask.regions
            if region.mask.sum() >= self.min_share * region.mask.size
        ]


@plain_dataclass(frozen=True)
class SalientObject(FileTruth):
    """A salient object is what is 255 in a picture of 0 and 255."""

    @property
    def depends_on(self) -> Any:
        """What is read."""
        return "salient"

    def examples(self, size: tuple[int, int]) -> list[Example]:
        """See `Truth.examples`."""
        mask = self.read(size, MaskValues(object=255))
        strange = [value for value in mask.values if value not in (0, 255)]
        if strange:
            raise FileProblem(self.path, f"has the value {strange[0]}, but the object is 255 and the rest 0")
        region = mask.regions[0].mask
        return [Example(-1, mask_tensor(region))] if region.any() else []


@DATASETS.register("bsds")
@dataclass(kw_only=True, eq=False, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class Bsds(FileDataset):
    """BSDS500 is ``images/<split>/*.jpg`` with ``segments/<split>/*.<k>.png``, and ``salient/<split>/*.png``.

    Arbeláez et al., Contour Detection and Hierarchical Image Segmentation, TPAMI 2011. The official archive has
    MATLAB files: ``segments/<split>/<image>.<k>.png`` is the map ``groundTruth{k+1}.Segmentation`` of one of them.
    There are no classes: labels are −1, and masks are scored, accuracy is not.

    Attributes:
        root: the folder that holds the three.
        by: an example is each segment by one person, or the image's salient object.
        person: whose segments, counted from 0; images that this person has not cut are left out.
        min_share: segments with a smaller share of the picture are no examples.

    Raises:
        InputError: a missing folder, an image without any segments, files that cannot be used.
    """

    root: Path
    by: Literal["segments", "salient"] = "segments"
    person: Annotated[int, Field(ge=0)] = 0
    min_share: Annotated[float, Field(ge=0, le=1)] = 0.01

    def find(self) -> tuple[list[Entry], Sequence[str]]:
        """See `FileDataset.find`."""
        base = self.root.expanduser()
        if not base.is_dir():
            raise InputError(f"data.root={base} does not exist; give the folder with images and {self.by}")
        folder, truth_folder = base / "images" / self.split, base / self.by / self.split
        for needed in (folder, truth_folder):
            if not needed.is_dir():
                others = [split for split in ("train", "val", "test") if (needed.parent / split).is_dir()]
                hint = f"; there is {' and '.join(others)}" if others else ""
                raise InputError(f"data.root: the folder {needed} does not exist{hint}")
        images = pictures_in(folder, key="data.root")
        found = pictures_in(truth_folder, key="data.root")
        if not images:
            raise InputError(f"data.root: {folder} holds no picture")
        self._left_out: list[str] = []
        truths: dict[str, Truth] = {}
        if self.by == "salient":
            require_same_names(images, folder, found, truth_folder)
            pairs, _, _ = matched(images, found)
            truths = {name: SalientObject(path, max_pixels=self.max_pixels) for name, path in pairs.items()}
        else:
            maps = _by_person(found)
            named = {name: Path(name) for name in maps}
            require_same_names(images, folder, named, truth_folder)
            for name, same in matched(images, named)[0].items():
                path = maps[str(same)].get(self.person)
                if path is not None:
                    truths[name] = Segments(path, self.min_share, max_pixels=self.max_pixels)
            self._left_out = [name for name in images if name not in truths]
            if not truths:
                numbers = sorted(set().union(*maps.values()))
                raise InputError(
                    f"data.person={self.person}: {truth_folder} has segments by {numbers[0]} to {numbers[-1]} only"
                )
        entries = [Entry(f"{self.split}/{name}", images[name], truth) for name, truth in sorted(truths.items())]
        return entries, ()

    def remarks(self) -> Sequence[str]:
        """See `FileDataset.remarks`."""
        if not self._left_out:
            return ()
        what = f"images that person {self.person} has not cut into segments are left out"
        return (f"{what} ({len(self._left_out)}: {some(self._left_out)})",)


def _by_person(maps: dict[str, Path]) -> dict[str, dict[int, Path]]:
    """The map of each person who has cut an image, by image.

    Raises:
        InputError: a file whose name does not say whose it is.
    """
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    for stem, path in maps.items():
        name, _, person = stem.rpartition(".")
        if not (name and person.isdecimal() and str(int(person)) == person):
            raise InputError(f"{path} is not named IMAGE.PERSON.png, such as 100075.0.png")
        found[name][int(person)] = path
    return found
