"""This module draws letters, hearts, crosses and arrows: unseen shapes for testing a segmenter (task=probe_sam).

They show whether ``sam=compact`` segments objects in general, or only the shapes it was trained on.
"""

from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw, ImageFont

from gradsam_exp.data.shapes import Shapes

LETTERS = "AEFGHKLMNRSTUXYZ"
OUTLINES = {
    "heart": [(0.5, 0.3), (0.62, 0.12), (0.8, 0.06), (0.97, 0.2), (0.97, 0.42), (0.5, 1.0), (0.03, 0.42),
              (0.03, 0.2), (0.2, 0.06), (0.38, 0.12)],
    "cross": [(0.33, 0.0), (0.67, 0.0), (0.67, 0.33), (1.0, 0.33), (1.0, 0.67), (0.67, 0.67), (0.67, 1.0),
              (0.33, 1.0), (0.33, 0.67), (0.0, 0.67), (0.0, 0.33), (0.33, 0.33)],
    "arrow": [(0.0, 0.33), (0.5, 0.33), (0.5, 0.05), (1.0, 0.5), (0.5, 0.95), (0.5, 0.67), (0.0, 0.67)],
}  # fmt: skip


class NovelShapes(Shapes):
    """NovelShapes draws upright hearts, crosses, arrows, and capitals of DejaVu Sans Bold, as `Shapes` does."""

    class_names = ("letter", "heart", "cross", "arrow")

    def stencil(self, shape: str, size: int, index: int) -> Bool[np.ndarray, "size size"]:
        """Return the pixels of a shape in its box, hard-edged; letters take turns."""
        if shape == "letter":
            return _letter(LETTERS[index // len(self.class_names) % len(LETTERS)], size)
        return _outline(shape, size)


def _outline(shape: str, size: int) -> np.ndarray:
    pad = Image.new("L", (size, size))
    ImageDraw.Draw(pad).polygon([(x * (size - 1), y * (size - 1)) for x, y in OUTLINES[shape]], fill=255)
    return np.asarray(pad) > 0


@cache
def _letter(letter: str, size: int) -> np.ndarray:
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
