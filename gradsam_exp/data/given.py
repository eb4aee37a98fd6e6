"""This module reads single pictures given on the command line, which have no classes, masks or splits."""

import glob
import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from gradsam_exp.data.base import Sample
from gradsam_exp.data.files import IMAGE_SUFFIXES, PictureFiles, readable
from gradsam_exp.errors import InputError


def find_pictures(given: str, *, key: str = "image") -> list[Path]:
    """List a picture, the pictures in a folder, or those that match a glob; `InputError` if there is none."""
    path = Path(given).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [one for one in sorted(path.iterdir()) if one.suffix.lower() in IMAGE_SUFFIXES]
    else:
        found = sorted(Path(one) for one in glob.glob(str(path)) if Path(one).is_file())
    if not found:
        what = "holds no pictures" if path.is_dir() else "does not exist"
        raise InputError(f"{key}={given} {what}; give a picture, a folder of pictures, or a glob")
    return found


class GivenPictures(PictureFiles):
    """GivenPictures reads pictures as they lie on disk, turned as their camera says.

    Every file is read once when this is made; `InputError` if one cannot be.

    Args:
        paths: the files; images are named by their stems, with a number where two are the same.
        max_side: px; larger ones are made smaller.
    """

    def __init__(self, paths: Sequence[Path], class_names: Sequence[str] = (), *, max_side: int = 512) -> None:
        self.paths, self.class_names, self.max_side = list(paths), tuple(class_names), max_side
        self.original_sizes: list[tuple[int, int]] = []
        self.names: list[str] = []
        self._sizes = []
        state = hashlib.blake2b(f"{max_side}".encode(), digest_size=16)
        for path in self.paths:
            picture = self._read(path)
            small = self._smaller(picture)
            self.original_sizes.append(picture.size)
            self._sizes.append(small.size)
            self.names.append(_free(path.stem, self.names))
            state.update(f"{self.names[-1]}/{small.size}/".encode() + small.tobytes())
        self._fingerprint = state.hexdigest()

    def with_classes(self, class_names: Sequence[str]) -> "GivenPictures":
        """Set the classes that the classifier knows, and return this data set."""
        self.class_names = tuple(class_names)
        return self

    def __getitem__(self, index: int) -> Sample:
        pixels = np.array(self._smaller(self._read(self.paths[index])))
        return Sample(torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), None, -1, self.names[index])

    def _smaller(self, picture: Image.Image) -> Image.Image:
        small = picture.copy()
        small.thumbnail((self.max_side, self.max_side), Image.Resampling.LANCZOS)
        return small

    @staticmethod
    def _read(path: Path) -> Image.Image:
        with readable(path, "give another"), Image.open(path) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")


def _free(name: str, taken: Sequence[str]) -> str:
    """Return the name, or the first of ``name-2``, ``name-3``, … that is not taken."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(one for one in names if one not in taken)
