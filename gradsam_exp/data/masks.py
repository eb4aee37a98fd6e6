"""This module reads mask files: what values mean is said by the configuration, or clear, or they are refused."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image, ImageOps
from pydantic import AfterValidator, ConfigDict
from pydantic.dataclasses import dataclass as checked_dataclass
from scipy import ndimage

from gradsam_exp.data.pictures import MAX_PIXELS, FileProblem, opened

_REACH, _LOSSY_REACH = 8, 16  # px from a smoothed border to both its sides, ripples of compression included
_LINE = 7  # px; what is nowhere so thick in a compressed mask may be the border of an object, and no object
_NARROW = 9  # px around a middle grey in a compressed mask, where it is a border: dark and light are there
_RIPPLE = 16  # of 255: how far resampling and compression miss 0 and 255 beside a border
_LOSSY = {"JPEG", "JPEG2000", "WEBP", "AVIF"}
_SHOWN = 6  # values in a message


def _value(given: Any) -> int | str:
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if isinstance(given, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", given):
        return given.lower()
    raise ValueError(f"{given!r} is no value; give a whole number, or a colour such as '#ff0000'")


_KINDS = ("nonzero", "alpha", "classes", "instances")


def _object(given: Any) -> Any:
    if given is None or given in _KINDS:
        return given
    if isinstance(given, list | tuple):
        return tuple(_value(one) for one in given)
    try:
        return (_value(given),)
    except ValueError as error:
        raise ValueError(f"{error}, or {', '.join(_KINDS)}") from error


def _values(given: Any) -> tuple[int | str, ...]:
    several = given if isinstance(given, list | tuple) else () if given is None else (given,)
    return tuple(_value(one) for one in several)


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MaskValues:
    """Mask values say what the values in mask files mean: ``data.mask`` in a configuration.

    A value is a whole number (grey, or the index in a palette) or a colour, ``'#ff0000'``.

    Attributes:
        object: the object's value, or several; ``nonzero``: everything but 0 or black; ``alpha``: what is opaque;
            ``classes``: each value but 0 is a class and each class in an image an example; ``instances``: each
            value but 0 is an object of the image's class, and an example. None: a mask is read if it is clear.
        ignore: a value, or several, of pixels that do not count.
        suffix: what mask files have behind the image's name, such as ``_mask``.
    """

    object: Annotated[Any, AfterValidator(_object)] = None
    ignore: Annotated[Any, AfterValidator(_values)] = None
    suffix: str = ""


class Region(NamedTuple):
    """One object of a mask file.

    Attributes:
        value: of its pixels, where each value is an example of its own; else None.
        mask: where it is.
    """

    value: int | str | None
    mask: Bool[np.ndarray, "height width"]


@dataclass(frozen=True)
class MaskFile:
    """What a mask file says.

    Attributes:
        regions: the objects; one, which may be empty, unless classes or instances are asked for.
        counted: pixels that count; None: all.
        values: all that occur, in order.
        notes: what was done that its owner may not expect.
        shape: ``(height, width)`` px.
        lone: the file has one value only and this is not 0, so that it may be an object that fills the image or
            none: the other masks of the data set must show which.
    """

    regions: tuple[Region, ...]
    counted: Bool[np.ndarray, "height width"] | None
    values: tuple[int | str, ...]
    notes: tuple[str, ...] = ()
    lone: bool = False
    shape: tuple[int, int] = (0, 0)


def read_mask(path: Path, meaning: MaskValues | None = None, *, max_pixels: int = MAX_PIXELS) -> MaskFile:
    """Read a mask file, turned as its EXIF orientation says.

    Without a meaning a mask is clear if it has two values of which one is 0 or black, or values from 0 to 255
    that differ from both at smoothed borders only.

    Raises:
        FileProblem: it cannot be read, or it is not clear; names its values, their shares, and the override.
    """
    meaning = MaskValues() if meaning is None else meaning
    with opened(path, max_pixels=max_pixels) as picture:
        lossy = picture.format in _LOSSY
        turned = ImageOps.exif_transpose(picture)
        alpha = np.asarray(turned.convert("RGBA").getchannel("A")) if turned.has_transparency_data else None
        if meaning.object == "alpha":
            if alpha is None:
                raise FileProblem(path, "has no transparency", "data.mask.object=alpha needs masks that have")
            return MaskFile((Region(None, alpha > 127),), None, (0, 255), shape=alpha.shape)
        values, names = _plain(path, turned, lossy=lossy)
    if alpha is not None and alpha.min(initial=255) < 255:
        hint = "say what the object is: data.mask.object=alpha takes what is opaque"
        if meaning.object is None:
            raise FileProblem(path, "is a mask with transparent parts", hint)
    ignored = np.isin(values, _codes(meaning.ignore, names)) if meaning.ignore else None
    counted = None if ignored is None or not ignored.any() else ~ignored
    found = np.unique(values if counted is None else values[counted])
    notes: tuple[str, ...] = ()
    lone = False
    if meaning.object in ("classes", "instances"):
        kept = [int(value) for value in found if names.get(int(value), int(value)) not in (0, "#000000")]
        regions = tuple(Region(names.get(value, value), values == value) for value in kept)
    else:
        if meaning.object == "nonzero":
            mask = ~np.isin(values, _codes((0, "#000000"), names))
        elif meaning.object is not None:
            mask = np.isin(values, _codes(meaning.object, names))
        else:
            mask, notes, lone = _clear(path, values, found, names, counted, lossy=lossy)
        regions = (Region(None, mask if counted is None else mask & counted),)
    shown = tuple(names.get(int(value), int(value)) for value in np.unique(values))
    return MaskFile(regions, counted, shown, notes, lone, values.shape)


def _plain(
    path: Path, picture: Image.Image, *, lossy: bool
) -> tuple[Int[np.ndarray, "height width"], dict[int, str]]:
    """The mask's values as whole numbers; of colours, ``0xrrggbb`` and their names."""
    mode = picture.mode
    if mode == "1":
        return np.asarray(picture.convert("L")).astype(np.int64), {}
    if mode in {"P", "PA"}:
        palette = np.array(picture.getpalette() or [0, 0, 0]).reshape(-1, 3)
        if len(np.unique(palette, axis=0)) > 2:
            return np.asarray(picture.getchannel(0)).astype(np.int64), {}
        picture = picture.convert("RGB")
    elif mode == "LA":
        picture = picture.getchannel("L")
    elif mode not in {"L", "F"} and not mode.startswith("I"):
        picture = picture.convert("RGB")
    array = np.asarray(picture)
    if array.ndim == 3:
        if int(np.ptp(array, axis=-1).max(initial=0)) <= (_RIPPLE if lossy else 0):
            return np.asarray(picture.convert("L")).astype(np.int64), {}
        codes = array.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
        return codes, {int(code): f"#{int(code):06x}" for code in np.unique(codes)[: 1 << 16]}
    if picture.mode == "F":
        whole = np.rint(array)
        if not (np.isfinite(array).all() and (array == whole).all()):
            low, high = np.nanmin(array), np.nanmax(array)
            what = f"is a mask with values that are no whole numbers, from {low:g} to {high:g}"
            raise FileProblem(path, what, "save it with whole numbers")
        array = whole
    return array.astype(np.int64), {}


def _codes(given: Sequence[int | str], names: dict[int, str]) -> list[int]:
    """The numbers that stand for values as the configuration says them."""
    if names:  # a grey level g among colours is #gggggg
        return [int(one[1:], 16) if isinstance(one, str) else one * 0x010101 for one in given]
    greys = [int(one[1:3], 16) if isinstance(one, str) and one[1:3] * 3 == one[1:] else one for one in given]
    return [one for one in greys if isinstance(one, int)]


def _clear(
    path: Path,
    values: np.ndarray,
    found: np.ndarray,
    names: dict[int, str],
    counted: np.ndarray | None,
    *,
    lossy: bool,
) -> tuple[np.ndarray, tuple[str, ...], bool]:
    """The object of a mask of which nothing was said, with notes, and whether the file alone does not show it."""
    if len(found) <= 1:
        return values != 0, (), bool(len(found) and found[0] != 0)
    if len(found) == 2 and found[0] == 0:
        return values == found[1], (), False
    if not names and _soft(values if counted is None else np.where(counted, values, 0), lossy=lossy):
        return values > 127, ("smoothed borders are cut in the middle, at 128",), False
    what = f"is a mask whose values have no clear meaning: {_shares(values, names)}"
    raise FileProblem(path, what, _hint(found, names))


def _soft(values: np.ndarray, *, lossy: bool) -> bool:
    """Says whether values are 0 and 255, but for smoothed borders between these and ripples beside such borders.

    Class ids with a border of 255 around them must never look like that: their regions are flat or do not touch 0.
    """
    if values.min() < 0 or values.max() > 255:
        return False
    dark, light = values == 0, values == 255
    between = ~dark & ~light
    if not (dark.any() and light.any() and 2 * between.sum() <= values.size):
        return False
    reach = 2 * (_LOSSY_REACH if lossy else _REACH) + 1
    near = ndimage.maximum_filter(dark, reach) & ndimage.maximum_filter(light, reach)
    flat = between & (ndimage.maximum_filter(values, 5) == ndimage.minimum_filter(values, 5))
    if not near[between].all():
        return False
    if lossy:  # ripples are all over the blocks that hold a border
        # Lines of 255 around objects whose numbers the compression has lost are nowhere thick.
        thick = (ndimage.minimum_filter(values, _LINE, mode="constant") > 127).any()
        clear = (values <= _RIPPLE) | (values >= 255 - _RIPPLE)
        low, high = values <= 2 * _RIPPLE, values >= 255 - 2 * _RIPPLE
        beside = ndimage.maximum_filter(low, _NARROW) & ndimage.maximum_filter(high, _NARROW)
        return bool(thick and flat.mean() <= 0.01 and clear.mean() >= 0.8 and (low | high | beside).all())
    shades = np.unique(values[(values > 2 * _RIPPLE) & (values < 255 - 2 * _RIPPLE)])
    if len(shades) < 3 or flat.any():
        return False
    parts, count = ndimage.label(between, np.ones((3, 3)))
    numbers = range(1, count + 1)
    at_dark, at_light = (
        np.array(ndimage.maximum(ndimage.maximum_filter(side, 3), parts, numbers)) > 0 for side in (dark, light)
    )
    darkest, lightest = (np.array(find(values, parts, numbers)) for find in (ndimage.minimum, ndimage.maximum))
    return bool(((at_dark | (darkest >= 255 - _RIPPLE)) & (at_light | (lightest <= _RIPPLE))).all())


def _shares(values: np.ndarray, names: dict[int, str]) -> str:
    """``0 (62.5 %), 1 (25.0 %), 255 (12.5 %)``."""
    found, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_SHOWN]
    parts = [f"{names.get(int(found[k]), int(found[k]))} ({counts[k] / values.size:.1%})" for k in sorted(order)]
    return ", ".join(parts) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")


def _hint(found: np.ndarray, names: dict[int, str]) -> str:
    """What to say, with this mask's own values."""
    if len(found) > _SHOWN:
        return "save it with a value for each thing, or give data.mask.object=nonzero if all but 0 is the object"
    shown = [names.get(int(value), int(value)) for value in found]
    proper = next(value for value in shown if value not in (0, "#000000", 255))
    said = f"data.mask.object={proper}"
    if isinstance(proper, str):
        said = f"\"data.mask.object='{proper}'\""  # for a shell, and Hydra's inner quotes
    ignoring = " data.mask.ignore=255" if 255 in shown else ""
    return f"say what they mean, as in {said}{ignoring} (or several values, nonzero, classes, instances)"
