"""This module reads picture files: every kind becomes 8-bit RGB by a rule that is written here, or is refused.

Whatever shows pictures or learns from them reads them here, so that one file is the same image everywhere.
"""

import hashlib
import io
import mimetypes
import stat
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from gradsam_exp.errors import InputError

MAX_PIXELS = 100_000_000
"""Larger pictures are refused, unless ``max_pixels`` of the data set or the task says otherwise."""
MAX_BYTES = 2**30  # of a file
MAX_ASPECT = 256  # of the longer side to the shorter one; beyond it, nothing is left of one side at 256 px
_UNREAD = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # they are no pixels, or call another program
_RAW = {".arw", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jxl", ".nef", ".orf", ".raf", ".rw2", ".svg"}
_FAINT = 4096  # of 65535; what a camera of 12 bits gives if its values are not scaled
_PHOTOMETRIC = 262  # the TIFF tag
_ORIENTATION = 0x0112  # the EXIF tag
_ON_ITS_SIDE = {5, 6, 7, 8}  # of its values
_opening = threading.Lock()
# What Pillow raises where a file is damaged:
_DAMAGE = (ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError,
           TypeError, ValueError, struct.error, zlib.error)  # fmt: skip


class FileProblem(InputError):
    """A file cannot be used: ``path`` says which, ``what`` says why, ``hint`` says what to do."""

    def __init__(self, path: Path, what: str, hint: str = "replace or remove it") -> None:
        super().__init__(f"{path} {what}; {hint}")
        self.path, self.what, self.hint = path, what, hint


@dataclass(frozen=True)
class PictureFacts:
    """What is known of a picture file once it was read.

    Attributes:
        size: ``(width, height)`` px, turned as its EXIF orientation says.
        digest: of the file's bytes.
        notes: what reading it does that its owner may not expect, such as putting transparent parts over white.
    """

    size: tuple[int, int]
    digest: bytes
    notes: tuple[str, ...] = ()


@cache
def read_endings() -> frozenset[str]:
    """List the endings of the files that are read as pictures, in lower case with their dot."""
    formats = _formats()
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in formats)


def is_picture(path: Path) -> bool:
    """Tell by its ending whether a file is read as a picture."""
    return path.suffix.lower() in read_endings()


def is_unread_picture(path: Path) -> bool:
    """Tell by its ending whether a file is a picture of a kind that is not read."""
    kind = mimetypes.guess_type(path.name)[0] or ""
    return not is_picture(path) and (kind.startswith("image/") or path.suffix.lower() in _RAW)


def read_rgb(
    path: Path, *, max_pixels: int = MAX_PIXELS, content: bytes | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Read a picture as 8-bit RGB, turned as its EXIF orientation says.

    16-bit values are divided by 257, floating-point values in [0, 1] multiplied by 255, both rounded; transparent
    parts are put over white; of several pages the first counts; colour profiles are left alone.

    Args:
        path: named in errors, and read unless the ``content`` is given.

    Raises:
        FileProblem: it is no picture that can be read, too large, or its values have no known range.
    """
    with opened(path, max_pixels=max_pixels, content=content) as picture:
        return np.array(_as_rgb(path, ImageOps.exif_transpose(picture), picture.format))


def inspect_picture(path: Path, *, max_pixels: int = MAX_PIXELS) -> PictureFacts:
    """Read a picture's size and digest, after a check that all of it can be read.

    Raises:
        FileProblem: as `read_rgb`; also if one side is more than 256 times the other.
    """
    content = read_bytes(path)
    with opened(path, max_pixels=max_pixels, content=content) as picture:
        notes = []
        if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":  # which has previews besides
            notes.append("of several pages or frames the first is taken")
        if picture.format == "PNG" and picture.mode in {"L", "RGB"} and "transparency" not in picture.info:
            size = picture.size[::-1] if picture.getexif().get(_ORIENTATION) in _ON_ITS_SIDE else picture.size
            with opened(path, max_pixels=max_pixels, content=content) as again:
                again.verify()  # the checksums say what decoding would, ten times as fast
        else:
            turned = ImageOps.exif_transpose(picture)
            size = turned.size
            if turned.has_transparency_data and _alpha(turned).getextrema()[0] < 255:  # type: ignore[operator]
                notes.append("transparent parts are put over white")
            _as_rgb(path, turned, picture.format)
            if turned.mode.startswith("I") and np.asarray(turned).max(initial=0) < _FAINT:
                notes.append(f"of 65536 shades none is above {_FAINT}, so that they are nearly black")
    if max(size) > MAX_ASPECT * min(size):
        what = f"is {size[0]}×{size[1]} px, one side more than {MAX_ASPECT} times the other"
        raise FileProblem(path, what, "cut it into parts, or remove it")
    return PictureFacts(size, hashlib.blake2b(content, digest_size=16).digest(), tuple(notes))


def read_bytes(path: Path) -> bytes:
    """Read a plain file of a size that pictures can have.

    Raises:
        FileProblem: it is a pipe, a device or a folder, too large, or cannot be read.
    """
    with _problems(path):
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise FileProblem(path, "is not a plain file")
        if state.st_size > MAX_BYTES:
            raise FileProblem(path, f"has {state.st_size / 2**30:.1f} GiB, more than a picture can have")
        if not state.st_size:
            raise FileProblem(path, "is empty")
        return path.read_bytes()


@contextmanager
def opened(path: Path, *, max_pixels: int = MAX_PIXELS, content: bytes | None = None) -> Iterator[Image.Image]:
    """Open a picture for reading, as it is stored.

    Args:
        content: the file's bytes, if they were read before.

    Raises:
        FileProblem: in place of whatever Pillow raises inside, and for more pixels than ``max_pixels``.
    """
    with _problems(path):
        stream = io.BytesIO(read_bytes(path) if content is None else content)
        with _opening:  # Pillow's own limit is a global one
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                picture = Image.open(stream, formats=_formats())
            finally:
                Image.MAX_IMAGE_PIXELS = limit
        with picture:
            width, height = picture.size
            if width * height > max_pixels:
                what = f"has {width}×{height} px, more than max_pixels={max_pixels}"
                raise FileProblem(path, what, "make it smaller, or raise max_pixels of the data set or the task")
            inverted = getattr(picture, "tag_v2", {}).get(_PHOTOMETRIC) == 0
            if inverted and picture.mode.startswith(("I", "F")):  # of up to 8 bits, Pillow turns them round
                what = "is a TIFF of more than 8 bits in which 0 is white"
                raise FileProblem(path, what, "save it with 0 for black")
            yield picture


@cache
def _formats() -> tuple[str, ...]:
    """The formats that are read."""
    Image.init()
    return tuple(kind for kind in Image.OPEN if kind not in _UNREAD)


@contextmanager
def _problems(path: Path) -> Iterator[None]:
    """Name the file in whatever reading it raises."""
    try:
        yield
    except FileProblem:
        raise
    except FileNotFoundError as error:
        raise FileProblem(path, "does not exist", "give another") from error
    except UnidentifiedImageError as error:
        ending = path.suffix.lower()
        reason = "it is of no kind that is read" + (f", whatever its ending {ending} says" if ending else "")
        raise FileProblem(path, f"cannot be read as a picture ({reason})") from error
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        reason = type(error).__name__ if str(path) in reason or "object at" in reason else reason
        raise FileProblem(path, f"cannot be read as a picture ({reason})") from error


def _alpha(picture: Image.Image) -> Image.Image:
    return picture.convert("RGBA").getchannel("A")


def _as_rgb(path: Path, picture: Image.Image, kind: str | None) -> Image.Image:
    """The picture in 8-bit RGB; ``kind`` is its file format."""
    if picture.mode.startswith(("I", "F")):
        transparent = picture.info.get("transparency")  # a grey value
        seen = np.array([]) if transparent is None else np.asarray(picture) != transparent
        picture = Image.fromarray(_eight_bits(path, picture, kind))
        if transparent is not None:
            picture.putalpha(Image.fromarray(np.uint8(255) * seen))
    if picture.has_transparency_data:
        opaque = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return picture.convert("RGB")


def _eight_bits(path: Path, picture: Image.Image, kind: str | None) -> UInt8[np.ndarray, "height width"]:
    """Grey values of more than 8 bits, brought to 8."""
    values = np.asarray(picture)
    largest, smallest = values.max(initial=0), values.min(initial=0)
    if picture.mode == "F":
        if not (np.isfinite(values).all() and smallest >= 0 and largest <= 1):
            what = f"holds floating-point values from {smallest:g} to {largest:g}, and what is white is not known"
            raise FileProblem(path, what, "save it with values from 0 to 1, or with 8 or 16 bits")
        return np.rint(values * 255).astype(np.uint8)
    sixteen = picture.mode.startswith("I;16") or kind in {"PNG", "PPM", "JPEG2000"}
    if not sixteen or smallest < 0 or largest > 65535:
        what = f"holds 32-bit values from {smallest} to {largest}, and what is white is not known"
        raise FileProblem(path, what, "save it with 8 or 16 bits")
    return np.rint(values / 257).astype(np.uint8)


def rgb_of(given: str | Path | Image.Image | np.ndarray) -> UInt8[np.ndarray, "height width 3"]:
    """Read a picture, or convert one that was read: `read_rgb` for what is in memory.

    Args:
        given: a file's path; a Pillow image; or an array ``(H, W, 3)`` RGB or ``(H, W)`` grey, uint8, or
            floating-point in [0, 1].

    Raises:
        FileProblem: see `read_rgb`.
        InputError: an array of another shape or type.
    """
    if isinstance(given, str | Path):
        return read_rgb(Path(given).expanduser())
    place = Path("the picture")
    if isinstance(given, Image.Image):
        with _problems(place):
            return np.asarray(_as_rgb(place, ImageOps.exif_transpose(given), given.format))
    values = np.asarray(given)
    if values.ndim not in {2, 3} or (values.ndim == 3 and values.shape[2] != 3) or not values.size:
        raise InputError(f"an array of shape {values.shape} is no picture: give (height, width, 3), RGB, or grey")
    if values.dtype.kind == "f":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise InputError(
                "floating-point values outside of [0, 1] are no picture: give uint8, or values in [0, 1]"
            )
        values = np.rint(values * 255).astype(np.uint8)
    if values.dtype != np.uint8:
        raise InputError(
            f"an array of {values.dtype} is no picture: give uint8, or floating-point values in [0, 1]"
        )
    return values if values.ndim == 3 else np.repeat(values[:, :, None], 3, axis=2)
