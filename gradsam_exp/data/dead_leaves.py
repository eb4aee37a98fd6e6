"""This module draws dead-leaves pictures, a procedural stand-in for natural images with known segments.

Opaque leaves of power-law sizes fall until they cover the picture. The result shares the scale
invariance, edges and occlusions of photographs (Lee, Mumford, Huang: *Occlusion Models for Natural
Images*, IJCV 2001; Baradad et al.: *Learning to See by Looking at Noise*, NeurIPS 2021), and every
leaf is a true segment.

Only uniform random numbers and exactly representable coordinates are used, so a seed gives the same
pixels on every platform. Knows nothing of shapes, data sets or splits.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Int32, UInt8
from numpy.random import Generator
from PIL import Image

_SUBPIXEL = 64  # lengths are multiples of 1/64 px: their sums and products are exact


def dead_leaves(
    rng: Generator, width: int, height: int, *, min_radius: float = 2.0, max_radius: float | None = None
) -> tuple[UInt8[np.ndarray, "height width 3"], Int32[np.ndarray, "height width"]]:
    """Draw one dead-leaves picture.

    Args:
        rng: source of randomness; nothing else is random.
        width, height: size in pixels.
        min_radius, max_radius: bounds of the leaf radius in pixels; its density falls as r⁻³.
            ``max_radius`` defaults to the longer side.

    Returns:
        The picture, RGB in 0..255, and for every pixel the number of the leaf that is visible there.
    """
    max_radius = float(max(width, height)) if max_radius is None else max_radius
    if not 0 < min_radius < max_radius:
        raise ValueError(f"need 0 < min_radius < max_radius, got {min_radius} and {max_radius}")
    palette = _Palette(rng)
    leaf_ids = np.full((height, width), -1, dtype=np.int32)
    colours: list[np.ndarray] = []
    xs, ys = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)[:, None]
    # Leaves are laid front to back: only what is still bare takes the next leaf.
    bare = height * width
    limit = min(24 + (height * width) // 48, 128)
    while bare > 0 and len(colours) < limit:
        # Inverse transform of the density r^-3 on [min_radius, max_radius].
        u = rng.random()
        radius = _snap(1.0 / math.sqrt((1 - u) / min_radius**2 + u / max_radius**2))
        cx, cy = _snap(rng.random() * width), _snap(rng.random() * height)
        x0, x1 = max(0, int(cx - radius)), min(width, int(cx + radius) + 2)
        y0, y1 = max(0, int(cy - radius)), min(height, int(cy + radius) + 2)
        window = leaf_ids[y0:y1, x0:x1]
        leaf, free = _leaf(rng, radius), window < 0
        if not free.any():
            continue
        new = leaf(xs[x0:x1] - cx, ys[y0:y1] - cy) & free
        covered = int(np.count_nonzero(new))
        if covered:
            window[new] = len(colours)
            bare -= covered
            colours.append(palette.draw())
    # The last bare pixels see one common ground far behind all leaves.
    leaf_ids[leaf_ids < 0] = len(colours)
    colours.append(palette.draw())
    picture = np.clip(np.stack(colours), 0, 255)[leaf_ids]
    picture = picture * shading(rng, width, height)[..., None]
    picture += (rng.random((height, width, 1)) - 0.5) * (24 * rng.random())
    return np.clip(np.round(picture), 0, 255).astype(np.uint8), leaf_ids


class _Palette:
    """A palette has the colours of one picture: lightness varies widely, hue little, as in photographs."""

    def __init__(self, rng: Generator) -> None:
        self.rng = rng
        base = 255 * rng.random(3)
        self.base = 0.5 * base + 0.5 * base.mean()
        self.light_spread = 40 + 140 * rng.random()
        self.hue_spread = 10 + 70 * rng.random() ** 2

    def draw(self) -> np.ndarray:
        """Draw a colour, RGB, which may lie outside of 0..255."""
        light = (self.rng.random() - 0.5) * self.light_spread
        hue = (self.rng.random(3) - 0.5) * self.hue_spread
        return self.base + light + hue


def _leaf(rng: Generator, radius: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Draw an oblong ellipse or an irregular convex polygon: never one of the shapes to be recognised.

    Returns:
        Which pixels it covers, given their distance from its centre: a row of x and a column of y.
    """
    ax, ay = _snap(2 * rng.random() - 1), _snap(2 * rng.random() - 1)
    length2 = max(ax * ax + ay * ay, 1 / 64)
    if rng.random() < 0.5:
        oblong = 3 + int(rng.integers(8))
        return partial(_ellipse, ax, ay, oblong, radius * radius * length2)
    sides = []
    for _ in range(5):
        nx, ny = _snap(2 * rng.random() - 1), _snap(2 * rng.random() - 1)
        reach = radius * (0.3 + 0.6 * rng.random())
        sides.append((nx, ny, reach * math.sqrt(nx * nx + ny * ny)))
    return partial(_polygon, np.array(sides).T[..., None, None], radius * radius)


def _ellipse(ax: float, ay: float, oblong: int, reach: float, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    along, across = dx * ax + dy * ay, dy * ax - dx * ay
    return along * along + across * across * oblong <= reach


def _polygon(sides: np.ndarray, radius2: float, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    nx, ny, reach = sides
    return (dx * nx + dy * ny <= reach).all(0) & (dx * dx + dy * dy <= radius2)


def _snap(value: float) -> float:
    return math.floor(value * _SUBPIXEL + 0.5) / _SUBPIXEL


def shading(rng: Generator, width: int, height: int, strength: float = 0.5) -> np.ndarray:
    """Draw smooth illumination in [1 − strength, 1], float64 ``(height, width)``, from a few random lights."""
    lights = Image.fromarray(rng.integers(0, 256, (3, 4), dtype=np.uint8))
    smooth = np.asarray(lights.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    return 1 - strength * smooth / 255
