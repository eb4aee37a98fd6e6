"""This module reads single pictures given on the command line, which have no classes, masks or splits."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gradsam_exp.data.base import Example, ExampleDataset, Sample
from gradsam_exp.data.files import pictures_in
from gradsam_exp.data.pictures import MAX_PIXELS, inspect_picture, read_rgb
from gradsam_exp.digest import digest
from gradsam_exp.errors import InputError, harmless


def find_pictures(given: str, *, key: str = "image") -> list[Path]:
    """List a picture, the pictures in a folder, or those that match a glob.

    Raises:
        InputError: if there is none.
    """
    path = Path(given).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = list(pictures_in(path, key=key).values())
    else:
        found = sorted(Path(one) for one in glob.glob(str(path)) if Path(one).is_file())
    if not found:
        what = "holds no pictures" if path.is_dir() else "does not exist"
        raise InputError(f"{key}={given} {what}; give a picture, a folder of pictures, or a glob")
    return found


class GivenPictures(ExampleDataset):
    """GivenPictures reads picture files, rotated by their EXIF orientation and shrunk to ``max_side``.

    Every file is read once when this is made.

    Args:
        paths: the files; images are named by their stems, with a number where two are the same.
        max_side: px; larger ones are made smaller.
        max_pixels: larger files are refused.

    Attributes:
        original_sizes: ``(width, height)`` px of the files.
        names: of the images.

    Raises:
        InputError: if one cannot be read.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        class_names: Sequence[str] = (),
        *,
        max_side: int = 512,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.paths, self.class_names = list(paths), tuple(class_names)
        self.max_side, self.max_pixels = max_side, max_pixels
        self.original_sizes: list[tuple[int, int]] = []
        self.names: list[str] = []
        self._sizes: list[tuple[int, int]] = []
        notes: dict[str, None] = {}
        parts = []
        for path in self.paths:
            facts = inspect_picture(path, max_pixels=max_pixels)
            self.original_sizes.append(facts.size)
            self._sizes.append(self._smaller(Image.new("1", facts.size)).size)
            self.names.append(_free(harmless(path.stem), self.names))
            notes |= {f"{path}: {note}": None for note in facts.notes}
            parts.append((self.names[-1], facts.digest))
        self.notes = tuple(notes)
        self._digest = digest([max_side, parts])

    def with_classes(self, class_names: Sequence[str]) -> GivenPictures:
        """Set the classes that the classifier knows, and return this data set."""
        self.class_names = tuple(class_names)
        return self

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> Sample:
        picture = Image.fromarray(read_rgb(self.paths[index], max_pixels=self.max_pixels))
        pixels = torch.from_numpy(np.array(self._smaller(picture))).permute(2, 0, 1).contiguous()
        return Sample(pixels, self.names[index], (Example(-1),))

    def image_size(self, index: int) -> tuple[int, int]:
        """See `ExampleDataset.image_size`."""
        return self._sizes[index]

    @property
    def digest(self) -> str:
        """See `ExampleDataset.digest`."""
        return self._digest

    def _smaller(self, picture: Image.Image) -> Image.Image:
        picture.thumbnail((self.max_side, self.max_side), Image.Resampling.LANCZOS)
        return picture


def _free(name: str, taken: Sequence[str]) -> str:
    """Return the name, or the first of ``name-2``, ``name-3``, … that is not taken."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(one for one in names if one not in taken)
