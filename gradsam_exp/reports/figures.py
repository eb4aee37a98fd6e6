"""This module draws a run's figures for print: colour-blind safe, legible in grey, without a display.

Knows images, heatmaps, prompts and masks; nothing of configs or folders.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from gradsam_exp.errors import warn
from gradsam_exp.reports.colours import BACKGROUND_POINT, FOREGROUND_POINT, HEAT, MASK, SERIES, TRUTH
from gradsam_exp.reports.gallery import Example

COLUMNS = ("image", "heatmap", "overlay", "prompts", "prediction", "ground truth")
_STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "text.parse_math": False,  # names may hold dollars
}
_SCRIPTS = (
    "Noto Sans", "Source Han Sans", "WenQuanYi", "Droid Sans Fallback", "PingFang", "Hiragino Sans", "Heiti",
    "Apple SD Gothic", "Microsoft YaHei", "SimHei", "Yu Gothic", "Malgun Gothic", "Nirmala UI", "Arial Unicode MS",
)  # fmt: skip
_MISSING = re.compile(r"Glyph \d+ .* missing from")
_NAME_SIZE = 6.0  # points
_LEAST = 0.4  # inches; a row's height, however wide the images are


def figure1(examples: Sequence[Example], path: Path, *, cell: float = 1.25) -> Path:
    """Draw one row per example: image, heatmap, overlay, prompts, prediction, ground truth if there is any.

    Writes ``path`` (PNG) and the same as PDF beside it.

    Args:
        cell: width of an image in inches.
    """
    titles = COLUMNS if any(example.truth is not None for example in examples) else COLUMNS[:-1]
    with styled():
        # Inches: margins for names, titles and legend.
        gap, left, top, bottom = 0.16, 0.42, 0.25, 0.42
        tallest = max(_LEAST, cell * max(e.image.shape[0] / e.image.shape[1] for e in examples))
        rows, columns = len(examples), len(titles)
        wide = left + columns * cell + (columns - 1) * 0.08 + 0.05
        high = top + rows * tallest + (rows - 1) * gap + bottom
        figure = Figure(figsize=(wide, high))
        grid = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(left / wide, bottom / high, 1 - 0.05 / wide, 1 - top / high)
        figure.subplots_adjust(wspace=0.08 / cell, hspace=gap / tallest)
        for row, example in zip(grid, examples, strict=True):
            _draw_row(list(row), example, 72 * (tallest + gap / 2))
        for axes, title in zip(grid[0], titles, strict=True):
            axes.set_title(title)
        figure.legend(handles=_legend(examples), loc="lower center", ncols=4, frameon=False, fontsize=7)
        return save_figure(figure, path)


def _draw_row(row: Sequence[Axes], example: Example, high: float) -> None:
    """One example; its names are at most ``high`` points long."""
    for axes in row:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    plain, heat, overlay, prompts, prediction, *truth = row
    for axes in (plain, overlay, prompts, prediction):
        axes.imshow(example.image, interpolation="nearest")
    lines = [example.class_name, example.example_id]
    if example.predicted_class not in ("", example.class_name):
        lines.insert(1, f"seen as {example.predicted_class}")
    names = "\n".join(shortened(line, high, _NAME_SIZE) for line in lines)
    plain.set_ylabel(names, fontsize=_NAME_SIZE)
    heat.imshow(example.heatmap, cmap=HEAT, vmin=0, vmax=1, interpolation="nearest")
    shade = 0.2 + 0.5 * example.heatmap  # what is cold lets more shine through
    overlay.imshow(example.heatmap, cmap=HEAT, vmin=0, vmax=1, alpha=shade, interpolation="nearest")
    draw_prompts(prompts, example)
    tint = np.zeros((*example.mask.shape, 4))
    tint[example.mask] = (*to_rgb(MASK), 0.35)
    prediction.imshow(tint, interpolation="nearest")
    outline(prediction, example.mask, MASK)
    if example.truth is not None:
        # Where the two run together, the wider one shows on both sides of the other.
        outline(prediction, example.truth, TRUTH, width=2.0, dashed=True)
        outline(prediction, example.mask, MASK, halo=0.0)
        prediction.set_xlabel(f"IoU {example.iou:.2f}", fontsize=6.5, labelpad=1)
        truth[0].imshow(example.truth, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    elif truth:
        truth[0].text(0.5, 0.5, "unknown", ha="center", va="center", transform=truth[0].transAxes)
    _frame(prediction, example)


def draw_prompts(axes: Axes, example: Example) -> None:
    """Draw foreground points as filled circles, background points as crosses, boxes as rectangles."""
    fg, bg = example.points[example.labels == 1], example.points[example.labels == 0]
    axes.plot(fg[:, 0], fg[:, 1], "o", color=FOREGROUND_POINT, ms=2.4, mec="black", mew=0.4, clip_on=False)
    axes.plot(bg[:, 0], bg[:, 1], "x", color="black", ms=5, mew=2.2, clip_on=False)
    axes.plot(bg[:, 0], bg[:, 1], "x", color=BACKGROUND_POINT, ms=4.4, mew=1.3, clip_on=False)
    for x0, y0, x1, y1 in example.boxes:
        axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=FOREGROUND_POINT, lw=1)
    _frame(axes, example)


def _frame(axes: Axes, example: Example) -> None:
    """Exactly the image, whatever was drawn beyond it."""
    height, width = example.image.shape[:2]
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def outline(
    axes: Axes,
    mask: Bool[np.ndarray, "height width"],
    colour: str,
    *,
    width: float = 1.0,
    halo: float = 0.9,
    dashed: bool = False,
) -> None:
    """Draw the border of a mask, along pixel edges, on a dark halo so that it shows on any picture.

    Args:
        width: of the line, in points.
        halo: how much wider the halo is, in points.
    """
    if not mask.any():
        return
    fine = max(1, 512 // max(mask.shape))  # a contour cuts corners: with finer pixels, smaller ones
    padded = np.kron(np.pad(mask, 1), np.ones((fine, fine)))
    ys, xs = ((np.arange(size) + 0.5) / fine - 1.5 for size in padded.shape)
    style: Any = (0, (1.6, 1.3)) if dashed else "-"
    if halo:
        axes.contour(xs, ys, padded, levels=[0.5], colors="black", linewidths=width + halo)
    axes.contour(xs, ys, padded, levels=[0.5], colors=colour, linewidths=width, linestyles=[style])


def score_histograms(per_image: pd.DataFrame, path: Path) -> Path:
    """Draw how IoU and SAM's predicted IoU are distributed over the images of a run."""
    with styled():
        figure = Figure(figsize=(6.0, 2.1), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        bins = np.linspace(0, 1, 26)
        shown = ((left, "iou", "IoU with the truth"), (right, "predicted_iou", "predicted IoU"))
        for axes, column, label in shown:
            values = per_image[column].dropna().to_numpy()
            axes.hist(values.clip(0, 1), bins=bins, color=SERIES[6], edgecolor="white", linewidth=0.4)
            if len(values):
                axes.axvline(values.mean(), color="black", lw=1.4)
                axes.set_title(
                    f"mean (line) {values.mean():.3f}, median {np.median(values):.3f}, n = {len(values)}"
                )
            axes.set(xlabel=label, xlim=(0, 1))
        left.set_ylabel("images")
        left.yaxis.set_major_locator(MaxNLocator(nbins="auto", steps=[1, 2, 5, 10], integer=True))
        return save_figure(figure, path)


def shortened(text: str, wide: float, size: float) -> str:
    """Return the text if it fits into ``wide`` points at this font size, else its two ends around ``…``."""
    shown, kept = text, len(text)
    while kept > 2 and (needed := TextPath((0, 0), shown, size=size).get_extents().width) > wide:
        kept = max(min(kept - 1, int(kept * wide / needed)), 2)
        shown = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
    return shown


def _legend(examples: Sequence[Example]) -> list[Line2D]:
    handles = [
        Line2D(
            [], [], ls="", marker="o", color=FOREGROUND_POINT, mec="black", mew=0.4, ms=4, label="foreground point"
        )
    ]
    if any((example.labels == 0).any() for example in examples):
        handles.append(
            Line2D([], [], ls="", marker="x", color=BACKGROUND_POINT, mew=1.5, ms=5, label="background point")
        )
    handles.append(Line2D([], [], color=MASK, label="predicted mask"))
    if any(example.truth is not None for example in examples):
        handles.append(Line2D([], [], color="0.6", ls="--", label="true mask"))
    return handles


@contextmanager
def styled() -> Iterator[None]:
    """Apply the style of all figures inside a ``with`` block.

    Letters that matplotlib's own font lacks come from others that are installed here; if none has them, that is
    said once, and not for each letter.
    """
    families = ["sans-serif", *_more_fonts()]
    with warnings.catch_warnings(record=True) as caught, mpl.rc_context({**_STYLE, "font.family": families}):
        yield
    missing = [one for one in caught if _MISSING.match(str(one.message))]
    for one in caught:
        if one not in missing:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    if missing:
        _say_missing()


@cache
def _more_fonts() -> tuple[str, ...]:
    """Names the fonts, of those that have many scripts' letters, that are installed."""
    return tuple(sorted(name for name in set(get_font_names()) if name.startswith(_SCRIPTS)))


@cache
def _say_missing() -> None:
    warn(
        "some letters of names are in no font that is installed here, and are boxes in the figures: install one "
        "that has them, such as Noto Sans CJK"
    )


def save_figure(figure: Figure, path: Path) -> Path:
    """Write ``path`` (PNG) and the same as PDF beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor="white")
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})  # equal runs give equal files
    return path
