"""This module draws outlines and fills that no training drew, for testing a segmenter (task=probe_sam).

They show whether ``sam=compact`` segments objects in general, or only the shapes it was trained on.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw, ImageFont

from gradsam_exp.data.backgrounds import random_crop
from gradsam_exp.data.photos import photographs
from gradsam_exp.data.shapes import SHAPES, Drawing, Shapes, paint, stencil

LETTERS = "AEFGHKLMNRSTUXYZ"
DIGITS = "0123456789"
CHECK_PX, CHECK_CONTRAST = 2, 40  # side of a cell, and how much lighter or darker of 255 it is
OUTLINES = {
    "heart": [(0.5, 0.3), (0.62, 0.12), (0.8, 0.06), (0.97, 0.2), (0.97, 0.42), (0.5, 1.0), (0.03, 0.42),
              (0.03, 0.2), (0.2, 0.06), (0.38, 0.12)],
    "cross": [(0.33, 0.0), (0.67, 0.0), (0.67, 0.33), (1.0, 0.33), (1.0, 0.67), (0.67, 0.67), (0.67, 1.0),
              (0.33, 1.0), (0.33, 0.67), (0.0, 0.67), (0.0, 0.33), (0.33, 0.33)],
    "arrow": [(0.0, 0.33), (0.5, 0.33), (0.5, 0.05), (1.0, 0.5), (0.5, 0.95), (0.5, 0.67), (0.0, 0.67)],
}  # fmt: skip


class NovelShapes(Shapes):
    """NovelShapes draws upright hearts, crosses, arrows, and capitals of DejaVu Sans Bold, as `Shapes` does."""

    class_names: tuple[str, ...] = ("letter", "heart", "cross", "arrow")

    def stencil(self, shape: str, size: int, index: int) -> Bool[np.ndarray, "size size"]:
        """Return the pixels of a shape in its box, hard-edged; letters and digits take turns."""
        turn = index // len(self.class_names)
        if shape == "letter":
            return _glyph(LETTERS[turn % len(LETTERS)], size)
        if shape == "digit":
            return _glyph(DIGITS[turn % len(DIGITS)], size)
        return _crescent(size) if shape == "crescent" else _outline(shape, size)


class NovelOutlines(NovelShapes):
    """NovelOutlines draws crescents, and digits of DejaVu Sans Bold, as `Shapes` does."""

    class_names = ("crescent", "digit")


class NovelFills(Shapes):
    """NovelFills draws the outlines of `Shapes`, which take turns, with fills that are not of one colour.

    ``two halves``: left and right have opaque colours that have nothing to do with each other. ``texture alone``:
    the background's own pixels, lighter and darker in turn in a checkerboard, so that no mean colour tells the
    shape from what is around it. ``photograph``: another piece of the split's photographs.
    """

    class_names = ("two halves", "texture alone", "photograph")
    opacities = (0, 1)  # `Shapes` says where, and paints nothing

    def draw(self, index: int) -> Drawing:
        """See `Shapes.draw`."""
        plain = super().draw(index)
        rng = np.random.default_rng([self.seed, index, *self.split.encode()])
        image, mask = plain.image, plain.mask
        rows, columns = np.indices(mask.shape)
        if plain.shape == "two halves":
            left = columns < plain.left + plain.size // 2
            for half in (left, ~left):
                paint(image, mask & half, rng.integers(0, 256, 3), 256)
        elif plain.shape == "texture alone":
            odd = (rows // CHECK_PX + columns // CHECK_PX) % 2
            checked = image + CHECK_CONTRAST * np.expand_dims(2 * odd - 1, -1)
            image[mask] = checked.clip(0, 255).astype(np.uint8)[mask]
        else:
            photos = photographs(self.split)
            image[mask] = random_crop(rng, photos[rng.integers(len(photos))], self.width, self.height)[mask]
        return replace(plain, opacity=1.0)

    def stencil(self, shape: str, size: int, index: int) -> Bool[np.ndarray, "size size"]:
        """Return the pixels of a circle, square, triangle, star or diamond."""
        return stencil(SHAPES[index // len(self.class_names) % len(SHAPES)], size)


def _crescent(size: int) -> np.ndarray:
    """A disc without the part that a disc of 0.8 of its size covers, which is moved to the right."""
    ys, xs = np.mgrid[0:size, 0:size]
    half = (size - 1) / 2
    hole = (xs - 1.4 * half) ** 2 + (ys - half) ** 2 <= (0.8 * half) ** 2
    return stencil("circle", size) & ~hole


def _outline(shape: str, size: int) -> np.ndarray:
    pad = Image.new("L", (size, size))
    ImageDraw.Draw(pad).polygon([(x * (size - 1), y * (size - 1)) for x, y in OUTLINES[shape]], fill=255)
    return np.asarray(pad) > 0


@cache
def _glyph(letter: str, size: int) -> np.ndarray:
    font_file = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    font = ImageFont.truetype(str(font_file), 128)
    left, top, right, bottom = font.getbbox(letter)
    glyph = Image.new("L", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(glyph).text((-left, -top), letter, fill=255, font=font)
    scale = size / max(glyph.size)
    width, height = (max(1, round(side * scale)) for side in glyph.size)
    small = glyph.resize((width, height), Image.Resampling.BOX)
    mask = np.zeros((size, size), dtype=bool)
    mask[: small.height, : small.width] = np.asarray(small) >= 128
    return mask
