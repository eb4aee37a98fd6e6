"""This module draws the built-in data set: one flat, slightly translucent shape on a picture.

Circle, square, triangle, star or diamond, as in the reference data set. Image ``i`` of a split is a
pure function of ``(seed, split, i)``, on every platform: uniform random numbers, integer blending and
exactly representable coordinates only.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from numpy.random import Generator
from pydantic import Field
from skimage.draw import polygon

from gradsam_exp.data.backgrounds import BACKGROUNDS, Background, draw_named
from gradsam_exp.data.base import DATASETS, Example, ExampleDataset, Sample

SHAPES = ("circle", "square", "triangle", "star", "diamond")
LENGTHS = {"train": 3500, "val": 1000, "test": 500}
_VERSION = 1  # raise it when the pixels of an existing seed change
_SPLIT_STREAM = {"train": 0, "val": 1, "test": 2}


@dataclass(frozen=True)
class Drawing:
    """A drawing is one image of the data set, with what it was drawn from.

    ``left``, ``top`` and ``size`` (px) give the box around the shape, ``opacity`` is in 0.6..1.0 (of `Faint`,
    0.3..0.5). ``group`` names the photograph behind it; it is empty where there is none.
    """

    image: UInt8[np.ndarray, "height width 3"]
    mask: Bool[np.ndarray, "height width"]
    shape: str
    left: int
    top: int
    size: int
    opacity: float
    group: str = ""


class Shapes(ExampleDataset):
    """Shapes draws ``length`` images of a split; an index beyond the length draws a fresh image.

    Args:
        split: ``train``, ``val`` or ``test``; also selects the background's pictures.
        background: what the shapes are drawn on; must be built for the same split.
        width, height: size of the images in pixels.
        length: number of images; default 3500 / 1000 / 500.
        seed: which images exist.
        min_size, max_size: bounds, both included, of the shapes' extent in pixels.

    Attributes:
        sizes: what ``data=shapes`` takes for ``width``, ``height``, ``min_size``, ``max_size`` that are not given.
        opacities: lowest and one above the highest opacity, in 256ths.
        several: whether an image can have several examples, which are then named by their classes.
    """

    class_names: tuple[str, ...] = SHAPES
    sizes: ClassVar[dict[str, int]] = {"width": 64, "height": 48, "min_size": 13, "max_size": 19}
    opacities: ClassVar[tuple[int, int]] = (154, 257)
    several: ClassVar[bool] = False

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
        opacity = int(rng.integers(*self.opacities))
        colour = rng.integers(0, 256, 3)
        drawn, group = draw_named(self.background, rng, self.width, self.height)
        image = drawn.copy()
        mask = np.zeros((self.height, self.width), dtype=bool)
        mask[top : top + size, left : left + size] = self.stencil(shape, size, index)
        paint(image, mask | self.beside(rng, left, top, size), colour, opacity)
        return Drawing(image, mask, shape, left, top, size, opacity / 256, group)

    def draw_all(self, index: int) -> Sequence[Drawing]:
        """Draw image ``index`` once, and return it with each of its shapes."""
        return [self.draw(index)]

    def beside(self, rng: Generator, left: int, top: int, size: int) -> Bool[np.ndarray, "height width"]:
        """Return pixels that get the shape's colour and are no part of it: none, unless a subclass has any."""
        return np.zeros((self.height, self.width), dtype=bool)

    def stencil(self, shape: str, size: int, index: int) -> Bool[np.ndarray, "size size"]:
        """Return a shape's binary mask of ``size`` × ``size`` px; subclasses may vary it with ``index``."""
        return stencil(shape, size)

    def __getitem__(self, index: int) -> Sample:
        drawings = self.draw_all(index)
        examples = (
            Example(
                self.class_names.index(one.shape),
                torch.from_numpy(one.mask),
                name=one.shape if self.several else "",
            )
            for one in drawings
        )
        return Sample(
            image=torch.from_numpy(drawings[0].image).permute(2, 0, 1).contiguous(),
            image_id=f"{self.split}-{index:05d}",
            examples=tuple(examples),
            group=drawings[0].group,
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


class Faint(Shapes):
    """Faint draws the images of `Shapes` with an opacity of 0.30 to 0.50 instead of 0.6 to 1.

    It is meant to separate strategies by how well they find and keep an object with a weak outline: edges of the
    background, which cross the shape, can be as strong as its own.
    """

    opacities = (77, 129)


class Leaky(Shapes):
    """Leaky draws the images of `Shapes` with a bar of the shape's colour that touches it and is not truth.

    It is meant to separate strategies that keep a mask from leaking, or repair it, from those that do not. There
    is no edge between shape and bar, and one click does not say where the object ends: a perfect click is no
    upper bound (``pipeline=oracle_box`` is a better one).

    The bar starts at the shape's centre and goes left, right, up or down, at random among the sides with at least
    ``size`` px of room beside the shape's box, else to the roomiest. It is ⅓ to ½ of ``size`` thick and sticks out
    of the box by 1 to 1½ of ``size``, or to the image's edge.
    """

    def beside(self, rng: Generator, left: int, top: int, size: int) -> Bool[np.ndarray, "height width"]:
        """Return the whole bar, of which the shape covers a part."""
        rooms = np.array([left, self.width - left - size, top, self.height - top - size])
        sides = np.flatnonzero(rooms >= size) if rooms.max() >= size else np.array([rooms.argmax()])
        side = int(sides[rng.integers(len(sides))])
        thick = int(rng.integers(size // 3, size // 2 + 1))
        out = min(int(rng.integers(size, 3 * size // 2 + 1)), int(rooms[side]))
        along, across = (left, top) if side < 2 else (top, left)
        low = across + (size - thick) // 2
        middle = along + size // 2
        start, stop = (along - out, middle) if side % 2 == 0 else (middle, along + size + out)
        bar = np.zeros((self.height, self.width), dtype=bool)
        (bar if side < 2 else bar.T)[low : low + thick, start:stop] = True
        return bar


class Crowded(Shapes):
    """Crowded draws one to three shapes of different classes, each an example of its own, that touch and overlap.

    It is meant to separate strategies that keep to the class in question from those that take what is beside it,
    and those that suit one size of objects from those that suit all: sizes are 6 to 40 px on 96×72 px.

    Later shapes lie above earlier ones; a mask has the pixels that are seen. From the second on, each shape is
    placed with equal chances so that its box overlaps an earlier one's, or anywhere. A place that leaves an
    earlier shape less than half of its pixels is drawn again, up to 20 times; then the shape is left out.
    """

    sizes: ClassVar[dict[str, int]] = {"width": 96, "height": 72, "min_size": 6, "max_size": 40}
    several = True

    def draw(self, index: int) -> Drawing:
        """Draw image ``index`` with its first shape, whose class is ``index`` modulo 5."""
        return self.draw_all(index)[0]

    def draw_all(self, index: int) -> Sequence[Drawing]:
        """See `Shapes.draw_all`; the first shape is the undermost."""
        rng = np.random.default_rng([self.seed, _SPLIT_STREAM[self.split], index])
        count = int(rng.integers(1, 4))
        first = index % len(self.class_names)
        others = rng.permutation([k for k in range(len(self.class_names)) if k != first])
        drawn, group = draw_named(self.background, rng, self.width, self.height)
        image = drawn.copy()
        boxes: list[tuple[int, int, int]] = []
        whole: list[np.ndarray] = []
        seen: list[np.ndarray] = []
        facts: list[tuple[str, float]] = []
        for label in (first, *others[: count - 1].tolist()):
            shape, size = self.class_names[label], int(rng.integers(self.min_size, self.max_size + 1))
            opacity, colour = int(rng.integers(*self.opacities)), rng.integers(0, 256, 3)
            for _ in range(20):
                left, top = self._place(rng, size, boxes)
                mask = np.zeros((self.height, self.width), dtype=bool)
                mask[top : top + size, left : left + size] = self.stencil(shape, size, index)
                left_over = [under & ~mask for under in seen]
                if all(2 * own.sum() >= full.sum() for own, full in zip(left_over, whole, strict=True)):
                    paint(image, mask, colour, opacity)
                    seen = [*left_over, mask]
                    whole.append(mask)
                    boxes.append((left, top, size))
                    facts.append((shape, opacity / 256))
                    break
        return [
            Drawing(image, mask, shape, *box, opacity, group)
            for mask, box, (shape, opacity) in zip(seen, boxes, facts, strict=True)
        ]

    def _place(self, rng: Generator, size: int, boxes: Sequence[tuple[int, int, int]]) -> tuple[int, int]:
        """Choose ``(left, top)`` of a box in the image, half of the time where it overlaps one of ``boxes``."""
        bounds = [(0, self.width - size), (0, self.height - size)]
        if boxes and rng.random() < 0.5:
            *corner, side = boxes[int(rng.integers(len(boxes)))]
            near = [(start - size + 1, start + side - 1) for start in corner]
            bounds = [(max(a, low), min(b, high)) for (low, high), (a, b) in zip(bounds, near, strict=True)]
        left, top = (int(rng.integers(low, high + 1)) for low, high in bounds)
        return left, top


Difficulty = Literal["standard", "faint", "leaky", "crowded"]
_TIERS: dict[Difficulty, type[Shapes]] = {
    "standard": Shapes,
    "faint": Faint,
    "leaky": Leaky,
    "crowded": Crowded,
}

Side = Annotated[int, Field(ge=16, le=8192)]


@DATASETS.register("shapes")
def shapes(
    split: str,
    *,
    background: dict[str, Any],
    difficulty: Difficulty = "standard",
    width: Side | None = None,
    height: Side | None = None,
    lengths: dict[str, Annotated[int, Field(ge=1, le=10**8)]] | None = None,
    seed: Annotated[int, Field(ge=0)] = 0,
    min_size: Annotated[int, Field(ge=3)] | None = None,
    max_size: Annotated[int, Field(ge=3)] | None = None,
) -> Shapes:
    """Build `Shapes`, `Faint`, `Leaky` or `Crowded`.

    Args:
        background: a config node.
        lengths: the number of images by split.
        width, height, min_size, max_size: as of `Shapes`; None: 64, 48, 13 and 19, of `Crowded` 96, 72, 6 and 40.
    """
    drawn_on = BACKGROUNDS.build(background, split=split)
    length = {**LENGTHS, **(lengths or {})}[split]
    given = {"width": width, "height": height, "min_size": min_size, "max_size": max_size}
    tier = _TIERS[difficulty]
    sizes = tier.sizes | {name: value for name, value in given.items() if value is not None}
    return tier(split, drawn_on, length=length, seed=seed, **sizes)


def paint(
    image: UInt8[np.ndarray, "height width 3"],
    mask: Bool[np.ndarray, "height width"],
    colour: Int[np.ndarray, " 3"],
    opacity: int,
) -> None:
    """Lay an RGB colour over some pixels of ``image``, in place; ``opacity`` is in 256ths."""
    under = image[mask].astype(np.int64)
    image[mask] = (under * (256 - opacity) + colour * opacity + 128) // 256


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
