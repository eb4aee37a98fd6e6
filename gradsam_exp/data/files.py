"""This module reads data sets that are picture files; all are checked first, and decoded when they are needed."""

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gradsam_exp.data.base import ImageDataset, Sample
from gradsam_exp.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")

# Which of ten buckets by name are a split: 80/10/10 where folders do not say which split a file belongs to.
SHARES = {"train": range(8), "val": range(8, 9), "test": range(9, 10)}


def belongs_to(split: str, name: str) -> bool:
    """Tell whether the file ``name`` (relative, with forward slashes) is in ``split``.

    Decided by a digest of the name, the same on every machine: adding files moves none from test to train.
    """
    bucket = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big") % 10
    return bucket in SHARES[split]


@dataclass(frozen=True)
class Entry:
    """An entry names one image on disk: its id, picture, mask if there is one, class id (−1 unknown)."""

    image_id: str
    image: Path
    mask: Path | None
    label: int


class PictureFiles(ImageDataset):
    """A data set of picture files finds the images' sizes and its fingerprint when it is made."""

    _sizes: list[tuple[int, int]]
    _fingerprint: str

    def __len__(self) -> int:
        return len(self._sizes)

    def image_size(self, index: int) -> tuple[int, int]:
        """See `ImageDataset.image_size`."""
        return self._sizes[index]

    @property
    def fingerprint(self) -> str:
        """Identify names, labels and content, by a digest."""
        return self._fingerprint


class FileDataset(PictureFiles):
    """FileDataset reads images that are listed as `Entry`, each file once when it is made, to find broken ones.

    Raises:
        InputError: a file cannot be read or is truncated, or a mask has another size than its image.
    """

    def __init__(self, entries: Sequence[Entry], class_names: Sequence[str]) -> None:
        self.entries, self.class_names = list(entries), tuple(class_names)
        state = hashlib.blake2b(repr(self.class_names).encode(), digest_size=16)
        self._sizes = []
        for entry in self.entries:
            size, digest = _inspect(entry.image)
            state.update(f"{entry.image_id}/{entry.label}".encode() + digest)
            if entry.mask is not None:
                mask_size, digest = _inspect(entry.mask)
                state.update(digest)
                if mask_size != size:
                    raise InputError(
                        f"{entry.mask} is {mask_size[0]}×{mask_size[1]} px but its image {entry.image} is "
                        f"{size[0]}×{size[1]} px; a mask must have its image's size"
                    )
            self._sizes.append(size)
        self._fingerprint = state.hexdigest()

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        return Sample(
            image=torch.from_numpy(read_rgb(entry.image)).permute(2, 0, 1).contiguous(),
            mask=None if entry.mask is None else torch.from_numpy(read_mask(entry.mask)),
            label=entry.label,
            image_id=entry.image_id,
        )


def read_rgb(path: Path) -> np.ndarray:
    """Read a picture as uint8 ``(height, width, 3)``; `InputError` if it cannot be decoded."""
    with readable(path), Image.open(path) as picture:
        return np.array(picture.convert("RGB"))


def read_mask(path: Path) -> np.ndarray:
    """Read a mask as bool ``(height, width)``, set where grey is above half of white (0/1 masks: 1).

    Raises `InputError` if it cannot be decoded.
    """
    with readable(path), Image.open(path) as picture:
        values = np.asarray(picture if picture.mode in {"P", "I", "I;16"} else picture.convert("L"))
    return values > 127 if values.max(initial=0) > 127 else values > 0


def pictures_in(folder: Path, *, key: str) -> dict[str, Path]:
    """List the picture files directly in ``folder``, by stem, sorted.

    Raises `InputError` if the folder does not exist, or two pictures differ in their ending only.
    """
    if not folder.is_dir():
        raise InputError(f"{key}: the folder {folder} does not exist")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            if path.stem in found:
                raise InputError(f"{path} and {found[path.stem].name} have the same name; keep one of them")
            found[path.stem] = path
    return found


def require_same_names(one: Iterable[str], one_folder: Path, other: Iterable[str], other_folder: Path) -> None:
    """Check that two folders hold the same names; `InputError` with up to three that one of them lacks."""
    sides = [(set(one), one_folder), (set(other), other_folder)]
    for (here, with_), (there, without) in (sides, reversed(sides)):
        missing = here - there
        if missing:
            names = ", ".join(sorted(missing)[:3]) + (", …" if len(missing) > 3 else "")
            raise InputError(f"{without} lacks {len(missing)} of the names in {with_}: {names}")


def _inspect(path: Path) -> tuple[tuple[int, int], bytes]:
    """Find the size (width, height) and digest of a picture whose data is whole, as far as its format can tell."""
    with readable(path):
        state = path.stat()
    return _inspected(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=2**18)
def _inspected(path: Path, modified: int, size_in_bytes: int) -> tuple[tuple[int, int], bytes]:
    """Inspect an unchanged file once a process, since each job of a sweep asks again."""
    with readable(path):
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            size = picture.size
            if picture.format == "PNG":
                picture.verify()
            else:
                picture.load()
    return size, hashlib.blake2b(content, digest_size=16).digest()


@contextmanager
def readable(path: Path, hint: str = "replace or remove it") -> Iterator[None]:
    """Raise `InputError`, naming the picture and a hint, in place of what Pillow or the file system raises."""
    try:
        yield
    except (OSError, SyntaxError, ValueError) as error:
        reason = str(error) if str(path) not in str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as a picture ({reason}); {hint}") from error
