"""This module draws the backgrounds of the built-in shapes: noise, dead leaves, photographs or given pictures.

A background is built for one split and never shows another split's pictures.
"""

import hashlib
import shutil
import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from filelock import FileLock
from jaxtyping import UInt8
from numpy.random import Generator
from PIL import Image

from gradsam_exp.data.dead_leaves import dead_leaves
from gradsam_exp.data.download import fetch_archive
from gradsam_exp.data.files import belongs_to
from gradsam_exp.data.photos import GREY, SCENES_OF_SPLIT, grey_photographs, photographs
from gradsam_exp.data.pictures import is_picture, read_rgb
from gradsam_exp.errors import InputError, first_line
from gradsam_exp.registry import Registry
from gradsam_exp.weights.transfer import LIMITS, DownloadLimits


@runtime_checkable
class Background(Protocol):
    """A background is a source of pictures of any size, on which shapes are drawn."""

    def draw(self, rng: Generator, width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
        """Draw one background, RGB in 0..255; equal generators give equal pixels."""

    @property
    def digest(self) -> str:
        """Identify everything the pixels depend on besides the generator, by a digest."""


BACKGROUNDS: Registry[Background] = Registry("background", "gradsam_exp.data")


def draw_named(background: Background, rng: Generator, width: int, height: int) -> tuple[np.ndarray, str]:
    """Draw a background as its ``draw`` does, and name the photograph it is cut from.

    The name is empty where no other background shows the same photograph, and of plug-ins without ``draw_named``.
    """
    if isinstance(background, Mixed | Pictures | Blend):
        return background.draw_named(rng, width, height)
    return background.draw(rng, width, height), ""


@BACKGROUNDS.register("mixed")
class Mixed:
    """Mixed draws half crops of the bundled photographs at random scales, half dead leaves (the default)."""

    name = "mixed"

    def __init__(self, split: str) -> None:
        self.photos, self.scenes = self.pictures(split)
        self.digest = _digest(self.name, self.scenes, *(photo.tobytes() for photo in self.photos))

    def pictures(self, split: str) -> tuple[Sequence[UInt8[np.ndarray, "height width 3"]], tuple[str, ...]]:
        """Return the photographs of a split, and the name of each."""
        return photographs(split), SCENES_OF_SPLIT[split]

    def draw(self, rng: Generator, width: int, height: int) -> np.ndarray:
        """See `Background.draw`."""
        return self.draw_named(rng, width, height)[0]

    def draw_named(self, rng: Generator, width: int, height: int) -> tuple[np.ndarray, str]:
        """See `draw_named`; dead leaves have no name."""
        if rng.random() < 0.5:
            smallest = 3 + 7 * rng.random()
            return dead_leaves(rng, width, height, min_radius=smallest)[0], ""
        chosen = int(rng.integers(len(self.photos)))
        return random_crop(rng, self.photos[chosen], width, height), self.scenes[chosen]


@BACKGROUNDS.register("mixed_more")
class MixedMore(Mixed):
    """MixedMore draws as `Mixed` does, from ten photographs in validation and test, and fifteen in training.

    Eight of them are grey: parts of the same pictures in all splits, without a pixel in common, each time in
    another tint. No interval depends on two photographs alone.
    """

    name = "mixed_more"

    def pictures(self, split: str) -> tuple[Sequence[UInt8[np.ndarray, "height width 3"]], tuple[str, ...]]:
        """See `Mixed.pictures`."""
        return (*photographs(split), *grey_photographs(split)), (*SCENES_OF_SPLIT[split], *GREY)

    def draw_named(self, rng: Generator, width: int, height: int) -> tuple[np.ndarray, str]:
        """See `draw_named`; a grey photograph is multiplied by a colour of at least a half in each channel."""
        picture, scene = super().draw_named(rng, width, height)
        if scene in GREY:
            tint = rng.integers(128, 257, 3)  # of 256
            picture = (picture * tint // 256).astype(np.uint8)
        return picture, scene


@BACKGROUNDS.register("noise")
class Noise:
    """Noise draws coloured noise, blocky at a random scale; the same for all splits."""

    def __init__(self, split: str) -> None:
        self.digest = _digest("noise")

    def draw(self, rng: Generator, width: int, height: int) -> np.ndarray:
        """See `Background.draw`."""
        coarse = int(rng.integers(1, 9))
        small = rng.integers(0, 256, (-(-height // coarse), -(-width // coarse), 3), dtype=np.uint8)
        return small.repeat(coarse, 0).repeat(coarse, 1)[:height, :width]


@BACKGROUNDS.register("folder")
class Pictures:
    """Pictures shows whole pictures of a folder or zip archive, resized to the canvas; files are split 80/10/10.

    The split of a file is decided by a digest of its name, so adding pictures never moves one from
    test to train.
    """

    def __init__(self, split: str, root: str | Path, *, key: str = "background.root") -> None:
        self.split = split
        self._files = _pictures_below(Path(root).expanduser(), split, key)

    @cached_property
    def pictures(self) -> Sequence[UInt8[np.ndarray, "height width 3"]]:
        """Decode the pictures of this split, once."""
        return [read_rgb(Path(name), content=content) for name, content in self._files]

    def draw(self, rng: Generator, width: int, height: int) -> np.ndarray:
        """See `Background.draw`."""
        return self.draw_named(rng, width, height)[0]

    def draw_named(self, rng: Generator, width: int, height: int) -> tuple[np.ndarray, str]:
        """See `draw_named`; a picture is named by its file."""
        chosen = int(rng.integers(len(self.pictures)))
        picture = Image.fromarray(self.pictures[chosen])
        return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC)), self._files[chosen][0]

    @cached_property
    def digest(self) -> str:
        """See `Background.digest`."""
        return _digest("pictures", *(part for name, content in self._files for part in (name, content)))


@BACKGROUNDS.register("cifar10")
def cifar10(split: str, root: str | Path | None = None, download: DownloadLimits = LIMITS) -> Pictures:
    """Draw on CIFAR-10 photographs (Krizhevsky 2009), from ``root`` (zip or folder) or downloaded.

    Args:
        split: ``train``, ``val`` or ``test`` of *this* framework: 80/10/10 of the files found.
        root: a zip archive or folder of pictures, such as ``train/<class>/<n>.jpg``. ``None``
            downloads the official archive (170 MB, its MD5 is checked) into the user cache.
        download: when a download is given up.
    """
    return Pictures(split, root if root is not None else _downloaded_cifar10(download))


@BACKGROUNDS.register("blend")
class Blend:
    """Blend draws each image on one of several backgrounds, chosen at random with equal chances.

    Args:
        of: config nodes of the backgrounds, such as ``[{"name": "mixed"}, {"name": "noise"}]``.
    """

    def __init__(self, split: str, of: list[dict[str, Any]]) -> None:
        self.backgrounds = [BACKGROUNDS.build(node, split=split) for node in of]
        if not self.backgrounds:
            raise ValueError("background.of is empty: name at least one background")

    def draw(self, rng: Generator, width: int, height: int) -> np.ndarray:
        """See `Background.draw`."""
        return self.draw_named(rng, width, height)[0]

    def draw_named(self, rng: Generator, width: int, height: int) -> tuple[np.ndarray, str]:
        """See `draw_named`."""
        return draw_named(self.backgrounds[int(rng.integers(len(self.backgrounds)))], rng, width, height)

    @property
    def digest(self) -> str:
        """See `Background.digest`."""
        return _digest("blend", *(background.digest for background in self.backgrounds))


def random_crop(rng: Generator, photo: np.ndarray, width: int, height: int) -> np.ndarray:
    """Cut a random window of ``photo`` with the canvas' aspect, at a random scale, flipped at random."""
    photo_height, photo_width = photo.shape[:2]
    largest = min(photo_width / width, photo_height / height)
    smallest = min(1.0, largest)
    scale = smallest + (largest - smallest) * rng.random() ** 2
    crop_width, crop_height = width * scale, height * scale
    left, top = rng.random() * (photo_width - crop_width), rng.random() * (photo_height - crop_height)
    x0, y0 = int(left), int(top)
    window = Image.fromarray(photo[y0 : int(top + crop_height) + 1, x0 : int(left + crop_width) + 1])
    right, bottom = min(left - x0 + crop_width, window.width), min(top - y0 + crop_height, window.height)
    box = (left - x0, top - y0, right, bottom)
    pixels = np.asarray(window.resize((width, height), Image.Resampling.BILINEAR, box=box))
    return np.ascontiguousarray(pixels[:, ::-1]) if rng.random() < 0.5 else pixels


def _pictures_below(root: Path, split: str, key: str) -> list[tuple[str, bytes]]:
    if not root.exists():
        raise InputError(f"{key}={root} does not exist; give a folder or a zip archive of pictures")
    if root.is_dir():
        paths = sorted(p for p in root.rglob("*") if is_picture(p))
        chosen = [p for p in paths if belongs_to(split, p.relative_to(root).as_posix())]
        files = [(p.relative_to(root).as_posix(), p.read_bytes()) for p in chosen]
    elif zipfile.is_zipfile(root):
        with zipfile.ZipFile(root) as archive:
            names = sorted(n for n in archive.namelist() if is_picture(Path(n)))
            files = [(name, archive.read(name)) for name in names if belongs_to(split, name)]
    else:
        raise InputError(f"{key}={root} is neither a folder nor a zip archive")
    if not files:
        raise InputError(f"{key}={root} holds no picture for split {split!r} (files are split 80/10/10 by name)")
    return files


def _downloaded_cifar10(limits: DownloadLimits) -> Path:
    """Fetch CIFAR-10 once, as PNG files in the layout ``<class>/<n>.png`` below the user cache."""
    import pooch  # noqa: PLC0415  (needed by few)
    from torchvision.datasets import CIFAR10  # noqa: PLC0415

    cache = Path(pooch.os_cache("gradsam_exp"))
    target, partial = cache / "cifar10-png", cache / "cifar10-png.partial"
    if target.is_dir():
        return target
    try:
        unpacked = fetch_archive(CIFAR10.url, f"md5:{CIFAR10.tgz_md5}", limits=limits)
        with FileLock(cache / "cifar10-png.lock", mode=0o666):  # another process may be at it
            if target.is_dir():
                return target
            shutil.rmtree(partial, ignore_errors=True)
            official = CIFAR10(str(unpacked), train=True)
            for number, (pixels, label) in enumerate(zip(official.data, official.targets, strict=True)):
                path = partial / official.classes[label] / f"{number:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
            return partial.replace(target)
    except (InputError, OSError, RuntimeError) as error:
        raise InputError(
            f"CIFAR-10 could not be downloaded ({first_line(error)}); "
            "give background.root=<zip or folder of pictures>, or use background=mixed"
        ) from error


def _digest(*parts: object) -> str:
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(part if isinstance(part, bytes) else repr(part).encode())
    return state.hexdigest()
