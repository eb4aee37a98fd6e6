"""This module draws the built-in data set: one flat, slightly translucent shape on a picture.

Circle, square, triangle, star or diamond, as in the reference data set. Image ``i`` of a split is a
pure function of ``(seed, split, i)``, on every platform: uniform random numbers, integer blending and
exactly representable coordinates only.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from pydantic import Field
from skimage.draw import polygon

from gradsam_exp.data.backgrounds import BACKGROUNDS, Background
from gradsam_exp.data.base import DATASETS, Example, ExampleDataset, Sample

SHAPES = ("circle", "square", "triangle", "star", "diamond")
LENGTHS = {"train": 3500, "val": 1000, "test": 500}
_VERSION = 1  # raise it when the pixels of an existing seed change
_SPLIT_STREAM = {"train": 0, "val": 1, "test": 2}


@dataclass(frozen=True)
class Drawing:
    """A drawing is one image of the data set, with what it was drawn from.

    ``left``, ``top`` and ``size`` (px) give the box around the shape, ``opacity`` is in 0.6..1.0.
    """

    image: UInt8[np.ndarray, "height width 3"]
    mask: Bool[np.ndarray, "height width"]
    shape: str
    left: int
    top: int
    size: int
    opacity: float


class Shapes(ExampleDataset):
    """Shapes draws ``length`` images of a split; an index beyond the length draws a fresh image.

    Args:
        split: ``train``, ``val`` or ``test``; also selects the background's pictures.
        background: what the shapes are drawn on; must be built for the same split.
        width, height: size of the images in pixels.
        length: number of images; default 3500 / 1000 / 500.
        seed: which images exist.
        min_size, max_size: bounds, both included, of the shapes' extent in pixels.
    """

    class_names: tuple[str, ...] = SHAPES

    def __init__(
        self,
        split: str,
        background: Background,
        *,
        width: int = 64,
        height: int = 48,
        length: int | None = None,
        seed: int = 0,
        min_size: int = 13,
        max_size: int = 19,
    ) -> None:
        if not 3 <= min_size <= max_size <= min(width, height):
            raise ValueError(
                f"need 3 <= min_size <= max_size <= image side, got {min_size}, {max_size} for {width}×{height} px"
            )
        self.split, self.background, self.seed = split, background, seed
        self.width, self.height = width, height
        self.min_size, self.max_size = min_size, max_size
        self.length = LENGTHS[split] if length is None else length

    def __len__(self) -> int:
        return self.length

    def draw(self, index: int) -> Drawing:
        """Draw image ``index`` (any number ≥ 0) and its mask."""
        rng = np.random.default_rng([self.seed, _SPLIT_STREAM[self.split], index])
        shape = self.class_names[index % len(self.class_names)]
        size = int(rng.integers(self.min_size, self.max_size + 1))
        left = int(rng.integers(0, self.width - size + 1))
        top = int(rng.integers(0, self.height - size + 1))
        opacity = int(rng.integers(154, 257))  # of 256
        colour = rng.integers(0, 256, 3)
        image = self.background.draw(rng, self.width, self.height).copy()
        mask = np.zeros((self.height, self.width), dtype=bool)
        mask[top : top + size, left : left + size] = self.stencil(shape, size, index)
        under = image[mask].astype(np.int64)
        image[mask] = (under * (256 - opacity) + colour * opacity + 128) // 256
        return Drawing(image, mask, shape, left, top, size, opacity / 256)

    def stencil(self, shape: str, size: int, index: int) -> Bool[np.ndarray, "size size"]:
        """Return a shape's binary mask of ``size`` × ``size`` px; subclasses may vary it with ``index``."""
        return stencil(shape, size)

    def __getitem__(self, index: int) -> Sample:
        drawing = self.draw(index)
        return Sample(
            image=torch.from_numpy(drawing.image).permute(2, 0, 1).contiguous(),
            image_id=f"{self.split}-{index:05d}",
            examples=(Example(self.class_names.index(drawing.shape), torch.from_numpy(drawing.mask)),),
        )

    def image_size(self, index: int) -> tuple[int, int]:
        """Return ``(width, height)``, which is the same for all images."""
        return self.width, self.height

    @property
    def digest(self) -> str:
        """Identify the parameters, the generator's version and the background, by a digest."""
        sizes = (self.width, self.height, self.length, self.min_size, self.max_size)
        facts = (_VERSION, type(self).__qualname__, self.class_names, self.split, self.seed, *sizes)
        return hashlib.blake2b(f"{facts}{self.background.digest}".encode(), digest_size=16).hexdigest()


Side = Annotated[int, Field(ge=16, le=8192)]


@DATASETS.register("shapes")
def shapes(
    split: str,
    *,
    background: dict[str, Any],
    width: Side = 64,
    height: Side = 48,
    lengths: dict[str, Annotated[int, Field(ge=1, le=10**8)]] | None = None,
    seed: Annotated[int, Field(ge=0)] = 0,
    min_size: Annotated[int, Field(ge=3)] = 13,
    max_size: Annotated[int, Field(ge=3)] = 19,
) -> Shapes:
    """Build `Shapes`; ``background`` is a config node, ``lengths`` the number of images by split."""
    drawn_on = BACKGROUNDS.build(background, split=split)
    length = {**LENGTHS, **(lengths or {})}[split]
    return Shapes(
        split, drawn_on, width=width, height=height, length=length, seed=seed, min_size=min_size, max_size=max_size
    )


def stencil(shape: str, size: int) -> Bool[np.ndarray, "size size"]:
    """Return the pixels of a shape that spans ``size`` px, hard-edged as in the reference data set."""
    ys, xs = np.mgrid[0:size, 0:size]
    half = (size - 1) / 2
    if shape == "square":
        return np.ones((size, size), dtype=bool)
    if shape == "circle":
        return (xs - half) ** 2 + (ys - half) ** 2 <= (half + 0.25) ** 2
    if shape == "diamond":
        tip = 0 if size % 2 else 0.5  # an even box has no middle pixel: the tips are two pixels wide
        return np.abs(xs - half) + np.abs(ys - half) <= half + tip
    if shape == "triangle":
        corners = [(half, 0.0), (size - 1.0, size - 1.0), (0.0, size - 1.0)]
    elif shape == "star":
        corners = _star_corners(half)
    else:
        raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")
    filled = np.zeros((size, size), dtype=bool)
    rows, columns = polygon([y for _, y in corners], [x for x, _ in corners], filled.shape)
    filled[rows, columns] = True
    return filled | filled[:, ::-1]  # pixels on a left edge are taken, on a right edge not: make it even


def _star_corners(half: float) -> list[tuple[float, float]]:
    """Compute ten corners of an upright star in a box of ``2·half + 1`` px, on a 1/64 px grid (see the module)."""
    outer = half + 0.5
    inner = 0.45  # a little fatter than the pentagram's 0.382, so that the arms survive at 13 px
    wide, high = math.sin(2 * math.pi / 5), (1 + math.cos(math.pi / 5)) / 2  # half extents for radius 1
    corners = []
    for k in range(10):
        r = outer * (1.0 if k % 2 == 0 else inner)
        angle = math.pi * k / 5
        x, y = half + r * math.sin(angle) / wide, outer / high - 0.5 - r * math.cos(angle) / high
        corners.append((round(x * 64) / 64, round(y * 64) / 64))
    return corners
