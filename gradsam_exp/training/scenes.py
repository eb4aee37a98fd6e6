"""This module draws random scenes and their segments, from which ``sam=compact`` learns to segment.

A scene is several overlapping random shapes over a picture. Its targets are the visible part of every
shape (with part, rest and whole where one shape lies on another) *and* segments of the picture itself,
so that a click on the background has a right answer too. Nothing here knows the five shapes of the
built-in data set, nor which pixels will be clicked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, UInt8
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter
from skimage.measure import label
from skimage.segmentation import felzenszwalb

from gradsam_exp.data.backgrounds import Background, random_crop
from gradsam_exp.data.dead_leaves import dead_leaves, shading

Corners = list[tuple[float, float]]


@dataclass
class Scene:
    """A scene is one picture, RGB 0..255, and its segments on a grid whose longer side is ``grid`` cells.

    ``objects`` are drawn things and may overlap. ``regions`` numbers the connected segments of what is
    seen behind them; those in ``region_ids`` are large enough to be asked for.
    """

    image: UInt8[np.ndarray, "height width 3"]
    objects: list[Bool[np.ndarray, "rows columns"]]
    regions: Int32[np.ndarray, "rows columns"]
    region_ids: list[int]


@dataclass(frozen=True, eq=False)
class SceneGenerator:
    """A scene generator draws random scenes of shapes over a picture.

    Attributes:
        photos: photographs to crop backgrounds and textures from.
        pictures: more backgrounds (such as CIFAR-10), or None.
        grid: cells along the longer side of the target masks (SAM's low-resolution mask: a quarter of
            its input size).
    """

    photos: Sequence[np.ndarray]
    pictures: Background | None = None
    grid: int = 64

    def draw(self, rng: Generator, *, plain: bool = False) -> Scene:
        """Draw one random scene; equal generators give equal scenes.

        Args:
            plain: one flat object of middling size on a picture: where learning starts.
        """
        width, height = self._canvas(rng)
        columns, rows = self._cells(width, height)
        picture, regions = self._behind(rng, width, height)
        canvas = _Canvas(picture, self.grid / max(width, height), (columns, rows))
        if plain or rng.random() < 0.3:  # the common case of use: one small thing on a picture
            self._paint(rng, canvas, size=max(width, height) * rng.uniform(0.12, 0.45), flat=True)
        else:
            for _ in range(int(rng.choice([0, 1, 2, 3, 4, 6, 8], p=[0.1, 0.25, 0.2, 0.15, 0.1, 0.1, 0.1]))):
                size = max(width, height) * math.exp(rng.uniform(math.log(0.09), math.log(1.0)))
                self._paint(rng, canvas, size=size, flat=rng.random() < 0.55)
        seen = np.where(canvas.covered(), -1, regions)
        seen = label(seen, background=-1, connectivity=1).astype(np.int32)
        sizes = np.bincount(seen.ravel())
        region_ids = [number for number in range(1, len(sizes)) if sizes[number] >= 20]
        return Scene(_weather(rng, canvas.picture), canvas.targets(smallest=12), seen, region_ids)

    def _canvas(self, rng: Generator) -> tuple[int, int]:
        longer = int(rng.choice([64, 96, 128, 192, 256], p=[0.6, 0.1, 0.15, 0.08, 0.07]))
        u = rng.random()
        aspect = 0.75 if u < 0.5 else 1.0 if u < 0.75 else rng.uniform(0.5, 1.0)
        shorter = max(32, round(longer * aspect))
        return (longer, shorter) if rng.random() < 0.7 else (shorter, longer)

    def _cells(self, width: int, height: int) -> tuple[int, int]:
        scale = self.grid / max(width, height)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def _behind(
        self, rng: Generator, width: int, height: int
    ) -> tuple[np.ndarray, Int32[np.ndarray, "rows columns"]]:
        """Draw a background and its segments: known for leaves and plain grounds, Felzenszwalb's for pictures."""
        columns, rows = self._cells(width, height)
        u = rng.random()
        if u < 0.25:
            smallest = rng.uniform(0.03, 0.12) * max(width, height)
            picture, leaves = dead_leaves(rng, width, height, min_radius=smallest)
            return picture, _nearest(leaves, columns, rows)
        if u < 0.35:
            return _plain(rng, width, height), np.zeros((rows, columns), dtype=np.int32)
        if self.pictures is not None and u < 0.72:
            picture = self.pictures.draw(rng, width, height)
            picture = picture[:, ::-1] if rng.random() < 0.5 else picture
        else:
            picture = random_crop(rng, self.photos[int(rng.integers(len(self.photos)))], width, height)
        small = np.asarray(Image.fromarray(picture).resize((columns, rows), Image.Resampling.BOX))
        scale = float(rng.choice([50.0, 150.0, 400.0]))
        segments = felzenszwalb(small, scale=scale, sigma=0.6, min_size=25)
        return picture, segments.astype(np.int32)

    def _paint(self, rng: Generator, canvas: _Canvas, *, size: float, flat: bool) -> None:
        centre = (rng.uniform(0, canvas.width), rng.uniform(0, canvas.height))
        opacity = rng.uniform(0.5, 1.0) if rng.random() < 0.7 else 1.0
        smooth = rng.random() < 0.3
        matte = canvas.matte(random_outline(rng), centre, size, rng.uniform(0, 2 * math.pi), smooth=smooth)
        parent = canvas.add(matte, self._fill(rng, canvas, flat), opacity)
        if rng.random() < 0.25:  # a part that lies wholly on the shape just drawn
            outline, own = random_outline(rng), size * rng.uniform(0.25, 0.7)
            inner = canvas.matte(outline, centre, own, rng.uniform(0, 2 * math.pi), smooth=smooth)
            canvas.add(inner * matte, self._fill(rng, canvas, flat), rng.uniform(0.6, 1.0), parent=parent)

    def _fill(self, rng: Generator, canvas: _Canvas, flat: bool) -> np.ndarray:
        colour = rng.uniform(0, 255, 3)
        if flat:
            return colour
        kind = rng.integers(3)
        if kind == 0:
            photo = self.photos[int(rng.integers(len(self.photos)))]
            return random_crop(rng, photo, canvas.width, canvas.height).astype(np.float64)
        light = shading(rng, canvas.width, canvas.height, strength=0.7)[..., None]
        if kind == 1:
            return colour * light
        period, slope = rng.uniform(3, 12), rng.uniform(-1, 1)
        ys, xs = np.mgrid[0 : canvas.height, 0 : canvas.width]
        stripes = (((xs + slope * ys) // period) % 2)[..., None]
        return np.clip(colour + stripes * rng.uniform(-90, 90, 3), 0, 255)


class _Canvas:
    """A canvas paints objects on a picture, and knows which cells of each are still visible."""

    def __init__(self, picture: np.ndarray, scale: float, cells: tuple[int, int]) -> None:
        self.picture = picture.astype(np.float64)
        self.height, self.width = picture.shape[:2]
        self.scale, self.cells = scale, cells
        self.visible: list[np.ndarray] = []
        self.whole_area: list[int] = []
        self.parents: list[int | None] = []

    def matte(
        self, outline: list[Corners], centre: tuple[float, float], size: float, turn: float, *, smooth: bool
    ) -> np.ndarray:
        """Compute the coverage in [0, 1], ``(height, width)``, of an outline in the unit circle on the canvas."""
        zoom = 3 if smooth else 1
        pad = Image.new("L", (self.width * zoom, self.height * zoom))
        pen = ImageDraw.Draw(pad)
        cos, sin = math.cos(turn) * size / 2, math.sin(turn) * size / 2
        for number, corners in enumerate(outline):
            points = [
                ((centre[0] + x * cos - y * sin) * zoom, (centre[1] + x * sin + y * cos) * zoom)
                for x, y in corners
            ]
            pen.polygon(points, fill=255 if number == 0 else 0)  # further outlines are holes
        if smooth:
            pad = pad.resize((self.width, self.height), Image.Resampling.BOX)
        return np.asarray(pad, dtype=np.float64) / 255

    def add(self, matte: np.ndarray, fill: np.ndarray, opacity: float, *, parent: int | None = None) -> int:
        """Paint, hide what lies under it, and return the new object's number."""
        alpha = matte[..., None] * opacity
        self.picture += alpha * (fill - self.picture)
        cells = Image.fromarray((matte * 255).astype(np.uint8))
        if cells.size != self.cells:
            cells = cells.resize(self.cells, Image.Resampling.BOX)
        shape = np.asarray(cells) >= 128
        self.visible = [earlier & ~shape for earlier in self.visible]
        self.visible.append(shape.copy())
        self.whole_area.append(int(shape.sum()))
        self.parents.append(parent)
        return len(self.visible) - 1

    def covered(self) -> np.ndarray:
        """Find the cells on which any object is visible."""
        nothing = np.zeros((self.cells[1], self.cells[0]), dtype=bool)
        return np.logical_or.reduce([nothing, *self.visible])

    def targets(self, *, smallest: int) -> list[np.ndarray]:
        """List the visible parts of the objects, and each parent with its part; not the nearly hidden ones."""
        found = [v for v, area in zip(self.visible, self.whole_area, strict=True) if v.sum() > 0.2 * area]
        for number, parent in enumerate(self.parents):
            if parent is not None:
                found.append(self.visible[number] | self.visible[parent])
        return [mask for mask in found if mask.sum() >= smallest]


def random_outline(rng: Generator) -> list[Corners]:
    """Draw a random shape in the unit circle: its outline, then the outlines of its holes, if any."""
    return _FAMILIES[int(rng.choice(len(_FAMILIES), p=_FAMILY_SHARES))](rng)


def _ellipse(rng: Generator) -> list[Corners]:
    return [_radial(lambda _: 1.0, 40, stretch=_stretch(rng))]


def _polygon(rng: Generator) -> list[Corners]:
    count = int(rng.integers(3, 9))
    angles = np.sort(rng.uniform(0, 2 * math.pi, count)) if rng.random() < 0.5 else _spokes(count)
    radii = np.ones(count) if rng.random() < 0.4 else rng.uniform(0.4, 1.0, count)
    stretch = _stretch(rng)
    return [[(r * math.cos(a) * stretch, r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]]


def _box(rng: Generator) -> list[Corners]:
    wide, high = 0.7, 0.7 * _stretch(rng)
    return [[(-wide, -high), (wide, -high), (wide, high), (-wide, high)]]


def _spiked(rng: Generator) -> list[Corners]:
    count, inner = int(rng.integers(3, 9)), rng.uniform(0.25, 0.8)
    radii = np.where(np.arange(2 * count) % 2 == 0, 1.0, inner)
    return [[(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, _spokes(2 * count), strict=True)]]


def _blob(rng: Generator) -> list[Corners]:
    waves = [(k, rng.uniform(0, 0.5) / k, rng.uniform(0, 2 * math.pi)) for k in range(2, 6)]

    def radius(angle: float) -> float:
        return 0.7 + sum(height * math.cos(k * angle + phase) for k, height, phase in waves)

    return [_radial(radius, 48, stretch=_stretch(rng))]


def _ring(rng: Generator) -> list[Corners]:
    stretch, hole = _stretch(rng), rng.uniform(0.35, 0.75)
    inner = _radial(lambda _: hole, 32, stretch=stretch)
    shift = rng.uniform(-0.5, 0.5) * (1 - hole)
    return [_radial(lambda _: 1.0, 40, stretch=stretch), [(x + shift, y) for x, y in inner]]


def _sector(rng: Generator) -> list[Corners]:
    end = rng.uniform(0.5, 1.7) * math.pi
    arc = [(math.cos(a), math.sin(a)) for a in np.linspace(0, end, 24)]
    inner = rng.uniform(0, 0.7)
    back = [(inner * x, inner * y) for x, y in reversed(arc)] if inner > 0.2 else [(0.0, 0.0)]
    return [arc + back]


def _stroke(rng: Generator) -> list[Corners]:
    """Draw a thick wandering line: a chain of points with a left and a right bank."""
    count, half = int(rng.integers(3, 8)), rng.uniform(0.1, 0.25)
    headings = np.cumsum(rng.uniform(-1.0, 1.0, count) * (0.4 if rng.random() < 0.5 else 1.0))
    spine = np.cumsum(np.stack([np.cos(headings), np.sin(headings)], 1), 0)
    spine = spine - spine.mean(0)
    spine *= (1 - half) / np.abs(spine).max()
    across = np.stack([-np.sin(headings), np.cos(headings)], 1) * half
    left, right = spine + across, (spine - across)[::-1]
    return [[(float(x), float(y)) for x, y in np.concatenate([left, right])]]


_FAMILIES: list[Callable[[Generator], list[Corners]]] = [
    _ellipse, _polygon, _box, _spiked, _blob, _ring, _sector, _stroke
]  # fmt: skip
_FAMILY_SHARES = [0.17, 0.2, 0.13, 0.15, 0.12, 0.07, 0.07, 0.09]


def _radial(radius: Callable[[float], float], count: int, *, stretch: float) -> Corners:
    return [(radius(a) * math.cos(a) * stretch, radius(a) * math.sin(a)) for a in _spokes(count)]


def _spokes(count: int) -> np.ndarray:
    return np.arange(count) * (2 * math.pi / count)


def _stretch(rng: Generator) -> float:
    return 1.0 if rng.random() < 0.4 else float(rng.uniform(0.4, 1.0))


def _plain(rng: Generator, width: int, height: int) -> np.ndarray:
    """Draw a ground without segments: flat, shaded, or grainy."""
    ground = rng.uniform(0, 255, 3) * shading(rng, width, height, strength=0.6)[..., None]
    grain = rng.normal(0, 1, (height, width, 1)) * rng.choice([0.0, 6.0, 20.0])
    return np.clip(ground + grain, 0, 255).astype(np.uint8)


def _weather(rng: Generator, picture: np.ndarray) -> np.ndarray:
    """Add what a camera adds: now and then a little blur or noise."""
    if rng.random() < 0.3:
        picture = picture + rng.normal(0, 1, picture.shape) * rng.uniform(1, 8)
    pixels = np.clip(np.round(picture), 0, 255).astype(np.uint8)
    if rng.random() < 0.12:
        pixels = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8))))
    return pixels


def _nearest(labels: np.ndarray, columns: int, rows: int) -> Int32[np.ndarray, "rows columns"]:
    ys = ((np.arange(rows) + 0.5) * labels.shape[0] / rows).astype(int)
    xs = ((np.arange(columns) + 0.5) * labels.shape[1] / columns).astype(int)
    return labels[ys[:, None], xs[None, :]]
