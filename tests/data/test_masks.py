"""Masks drawn here, stored in many ways: what is read is what was drawn, or it is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from scipy import ndimage

from gradsam_exp.data.masks import MaskFile, MaskValues, read_mask
from gradsam_exp.data.pictures import FileProblem
from tests.data.turned import UPRIGHT

quick = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def objects(draw: st.DrawFn, least: int = 8) -> np.ndarray:
    """One to three rectangles and ellipses that leave some of the background."""
    height, width = draw(st.integers(least, 48)), draw(st.integers(least, 48))
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for _ in range(draw(st.integers(1, 3))):
        top, left = draw(st.integers(0, height - 2)), draw(st.integers(0, width - 2))
        down, across = draw(st.integers(1, height - top)), draw(st.integers(1, width - left))
        if draw(st.booleans()):
            mask |= (y >= top) & (y < top + down) & (x >= left) & (x < left + across)
        else:
            ry, rx = down / 2, across / 2
            mask |= ((y - top - ry + 0.5) / ry) ** 2 + ((x - left - rx + 0.5) / rx) ** 2 <= 1
    if mask.all():
        mask[0] = False
    return mask if mask.any() else ~np.roll(~mask, 1) | (y + x == 0)


def label_maps(lowest: int = 1, highest: int = 254) -> st.SearchStrategy[np.ndarray]:
    """Rectangles of two to four different numbers, some of which may cover others."""

    @st.composite
    def made(draw: st.DrawFn) -> np.ndarray:
        height, width = draw(st.integers(20, 60)), draw(st.integers(20, 60))
        ids = draw(st.lists(st.integers(lowest, highest), min_size=2, max_size=4, unique=True))
        labels = np.zeros((height, width), np.uint8)
        for number in ids:
            top, left = draw(st.integers(0, height - 4)), draw(st.integers(0, width - 4))
            labels[top : top + draw(st.integers(1, height)), left : left + draw(st.integers(1, width))] = number
        return labels

    return made()


def with_borders(labels: np.ndarray, width: int = 1) -> np.ndarray:
    """Give each region a border of 255, as PASCAL VOC has."""
    size = 2 * width + 1
    edge = ndimage.maximum_filter(labels, size) != ndimage.minimum_filter(labels, size)
    return np.where(edge, 255, labels).astype(np.uint8)


def stored(folder: Path, picture: Image.Image, kind: str = "png", orientation: int = 1, **how: Any) -> Path:
    if orientation != 1:
        picture = picture.transpose(UPRIGHT[orientation])
        exif = Image.Exif()
        exif[0x0112] = orientation
        how["exif"] = exif
    content = io.BytesIO()
    picture.save(content, {"tif": "TIFF", "jpg": "JPEG"}.get(kind, kind.upper()), **how)
    path = folder / f"mask.{kind}"
    path.write_bytes(content.getvalue())
    return path


def meaning(**keys: Any) -> MaskValues:
    return TypeAdapter(MaskValues).validate_python(keys)


def paletted(labels: np.ndarray, colours: list[int]) -> Image.Image:
    picture = Image.fromarray(labels.astype(np.uint8), "L").convert("P")
    picture = Image.frombytes("P", picture.size, labels.astype(np.uint8).tobytes())
    picture.putpalette(colours)
    return picture


def greys(mask: np.ndarray, value: int) -> np.ndarray:
    return (mask * value).astype(np.uint8)


def one_object(read: MaskFile) -> np.ndarray:
    assert len(read.regions) == 1
    assert read.counted is None
    return read.regions[0].mask


MANY = [channel for index in range(256) for channel in (index * 37 % 256, index * 91 % 256, index * 53 % 256)]
TWO_VALUES = {
    "grey": lambda mask, value: (Image.fromarray(greys(mask, value)), "png"),
    "grey_bmp": lambda mask, value: (Image.fromarray(greys(mask, value)), "bmp"),
    "grey_tiff": lambda mask, value: (Image.fromarray(greys(mask, value)), "tif"),
    "sixteen_bits": lambda mask, value: (Image.fromarray(mask.astype(np.uint16) * (value * 200)), "png"),
    "thirty_two_bits": lambda mask, value: (Image.fromarray(mask.astype(np.int32) * (value * 70000)), "tif"),
    "float": lambda mask, value: (Image.fromarray(mask.astype(np.float32) * value), "tif"),
    "one_bit": lambda mask, value: (Image.fromarray(mask), "png"),
    "one_bit_tiff": lambda mask, value: (Image.fromarray(mask), "tif"),
    "palette_by_index": lambda mask, value: (paletted(greys(mask, value), MANY), "png"),
    "palette_gif": lambda mask, value: (paletted(mask, [0, 0, 0, value, 0, 255]), "gif"),
    "palette_black_and_colour": lambda mask, value: (paletted(mask, [0, 0, 0, value, 9, 9]), "png"),
    "palette_colour_and_black": lambda mask, value: (paletted(~mask, [value, 9, 9, 0, 0, 0]), "png"),
    "colour": lambda mask, value: (Image.fromarray(mask[..., None] * np.array([value, 7, 9], np.uint8)), "png"),
    "grey_as_rgb": lambda mask, value: (Image.fromarray(greys(mask, value)).convert("RGB"), "png"),
    "opaque": lambda mask, value: (Image.fromarray(greys(mask, value)).convert("RGBA"), "png"),
    "opaque_grey": lambda mask, value: (Image.fromarray(greys(mask, value)).convert("LA"), "png"),
}


@pytest.mark.parametrize("way", TWO_VALUES)
@quick
@given(mask=objects(), value=st.integers(1, 255), orientation=st.sampled_from([1, *UPRIGHT]))
def test_two_values_of_which_one_is_black_are_the_object_however_they_are_stored(
    tmp_path: Path, way: str, mask: np.ndarray, value: int, orientation: int
):
    picture, kind = TWO_VALUES[way](mask, value)
    turned = orientation if kind in {"png", "tif"} else 1
    assert (one_object(read_mask(stored(tmp_path, picture, kind, turned))) == mask).all()


@quick
@given(mask=objects(), values=st.lists(st.integers(1, 255), min_size=2, max_size=2, unique=True))
def test_two_values_without_black_are_refused_until_one_is_named(
    tmp_path: Path, mask: np.ndarray, values: list[int]
):
    path = stored(tmp_path, Image.fromarray(np.where(mask, *values).astype(np.uint8)))
    with pytest.raises(FileProblem, match=r"no clear meaning.*data\.mask\.object="):
        read_mask(path)
    assert (one_object(read_mask(path, meaning(object=values[0]))) == mask).all()
    assert one_object(read_mask(path, meaning(object="nonzero"))).all()


@quick
@given(mask=objects(), value=st.integers(1, 255))
def test_a_black_object_is_read_when_it_is_said(tmp_path: Path, mask: np.ndarray, value: int):
    path = stored(tmp_path, Image.fromarray(greys(~mask, value)))
    assert (one_object(read_mask(path, meaning(object=0))) == mask).all()


@quick
@given(labels=label_maps(), palette=st.booleans(), orientation=st.sampled_from([1, *UPRIGHT]))
def test_several_numbers_are_refused_or_each_is_an_example(
    tmp_path: Path, labels: np.ndarray, palette: bool, orientation: int
):
    picture = paletted(labels, MANY) if palette else Image.fromarray(labels)
    path = stored(tmp_path, picture, orientation=orientation)
    numbers = [int(value) for value in np.unique(labels) if value]
    for way in ("classes", "instances"):
        regions = read_mask(path, meaning(object=way)).regions
        assert [region.value for region in regions] == numbers
        assert all((region.mask == (labels == region.value)).all() for region in regions)
    for number in numbers:
        assert (one_object(read_mask(path, meaning(object=number))) == (labels == number)).all()
    if len(np.unique(labels)) > 2:
        with pytest.raises(FileProblem, match="no clear meaning"):
            read_mask(path)


@quick
@given(labels=label_maps(), width=st.integers(1, 3), palette=st.booleans(), several=st.booleans())
def test_a_border_of_255_is_never_taken_for_the_object(
    tmp_path: Path, labels: np.ndarray, width: int, palette: bool, several: bool
):
    if not several:
        labels = np.where(labels > 0, labels.max(), 0).astype(np.uint8)
    bordered = with_borders(labels, width)
    path = stored(tmp_path, paletted(bordered, MANY) if palette else Image.fromarray(bordered))
    left = [int(value) for value in np.unique(bordered) if value not in (0, 255)]
    ignored = bordered == 255
    for number in left:
        read = read_mask(path, meaning(object=number, ignore=255))
        assert (read.regions[0].mask == (bordered == number)).all()
        assert read.counted is None if not ignored.any() else (read.counted == ~ignored).all()
    regions = read_mask(path, meaning(object="classes", ignore=255)).regions
    assert [region.value for region in regions] == left
    if left and ignored.any():
        with pytest.raises(FileProblem, match="no clear meaning"):
            read_mask(path)


@quick
@given(mask=objects(16), sigma=st.floats(0.3, 2.0), kind=st.sampled_from(["png", "tif", "bmp"]))
def test_smoothed_borders_are_cut_in_the_middle_or_refused(
    tmp_path: Path, mask: np.ndarray, sigma: float, kind: str
):
    soft = np.rint(ndimage.gaussian_filter(mask * 255.0, sigma)).astype(np.uint8)
    path = stored(tmp_path, Image.fromarray(soft), kind)
    try:
        read = read_mask(path)
    except FileProblem as problem:
        assert "data.mask.object" in str(problem)  # noqa: PT017
        return
    if len(np.unique(soft)) > 2:
        assert read.notes == ("smoothed borders are cut in the middle, at 128",)
    assert (one_object(read) == (soft > 127)).all() or len(np.unique(soft)) <= 2


@quick
@given(mask=objects(32), quality=st.integers(60, 100), kind=st.sampled_from(["jpg", "webp"]))
def test_compression_moves_an_objects_border_by_at_most_a_pixel_or_is_refused(
    tmp_path: Path, mask: np.ndarray, quality: int, kind: str
):
    try:
        read = read_mask(stored(tmp_path, Image.fromarray(greys(mask, 255)), kind, quality=quality))
    except FileProblem as problem:
        assert "data.mask.object" in str(problem)  # noqa: PT017
        return
    wrong = one_object(read) != mask
    border = ndimage.maximum_filter(mask, 3) != ndimage.minimum_filter(mask, 3)
    assert not (wrong & ~border).any()


@quick
@given(labels=label_maps(8, 200), quality=st.integers(40, 100), kind=st.sampled_from(["jpg", "webp"]))
def test_numbers_in_a_lossy_file_are_refused(tmp_path: Path, labels: np.ndarray, quality: int, kind: str):
    bordered = with_borders(labels)
    numbers, counts = np.unique(bordered[(bordered > 0) & (bordered < 255)], return_counts=True)
    assume(len(numbers) and counts.min() >= 64)  # compression leaves of fewer pixels what looks like a ripple
    with pytest.raises(FileProblem, match="no clear meaning"):
        read_mask(stored(tmp_path, Image.fromarray(bordered), kind, quality=quality))


@quick
@given(mask=objects(), opaque=st.integers(128, 255), clear=st.integers(0, 127), grey=st.booleans())
def test_transparency_is_the_object_when_it_is_said_and_refused_otherwise(
    tmp_path: Path, mask: np.ndarray, opaque: int, clear: int, grey: bool
):
    alpha = np.where(mask, opaque, clear).astype(np.uint8)
    shades = np.arange(mask.size, dtype=np.uint8).reshape(mask.shape)
    channels = [shades] if grey else [shades, shades.T.reshape(mask.shape), shades]
    path = stored(tmp_path, Image.merge("LA" if grey else "RGBA", list(map(Image.fromarray, [*channels, alpha]))))
    assert (one_object(read_mask(path, meaning(object="alpha"))) == mask).all()
    with pytest.raises(FileProblem, match="transparent parts"):
        read_mask(path)


COLOURS = st.lists(st.tuples(*[st.integers(0, 255)] * 3).filter(any), min_size=2, max_size=4, unique=True)


@quick
@given(labels=label_maps(), colours=COLOURS, palette=st.booleans())
def test_colours_are_named_as_they_are_seen(
    tmp_path: Path, labels: np.ndarray, colours: list[tuple[int, int, int]], palette: bool
):
    numbers = np.searchsorted(np.unique(labels), labels)
    table = np.array([(0, 0, 0), *colours, *[(1, 1, 1)] * 4], np.uint8)[: numbers.max() + 1]
    picture = paletted(numbers, table.ravel().tolist()) if palette else Image.fromarray(table[numbers])
    if palette:  # more than two colours go by index
        picture = picture.convert("RGB")
    path = stored(tmp_path, picture)
    for number in range(1, numbers.max() + 1):
        same = (table == table[number]).all(-1)[numbers]
        name = "#{:02x}{:02x}{:02x}".format(*table[number])
        assert (one_object(read_mask(path, meaning(object=name))) == same).all()
    if len(np.unique(table[np.unique(numbers)], axis=0)) > 2:
        with pytest.raises(FileProblem, match="no clear meaning"):
            read_mask(path)


def case() -> tuple[np.ndarray, np.ndarray]:
    """The object of 20×30 in a picture of 40×60 px, with the values that PASCAL VOC gives it."""
    mask = np.zeros((40, 60), bool)
    mask[10:30, 15:45] = True
    values = mask.astype(np.uint8)
    values[ndimage.binary_dilation(mask, iterations=2) & ~mask] = 255
    return mask, values


@pytest.mark.parametrize("palette", [True, False])
def test_the_object_of_a_voc_mask_is_600_px_and_its_border_does_not_count(tmp_path: Path, palette: bool):
    _, values = case()
    path = stored(tmp_path, paletted(values, MANY) if palette else Image.fromarray(values))
    read = read_mask(path, meaning(object=1, ignore=255))
    assert read.regions[0].mask.sum() == 600
    assert read.counted is not None
    assert (~read.counted).sum() == (values == 255).sum()
    with pytest.raises(FileProblem) as problem:
        read_mask(path)
    shares = f"0 ({(values == 0).mean():.1%}), 1 (25.0%), 255 ({(values == 255).mean():.1%})"
    assert shares in str(problem.value)
    assert "data.mask.object=1 data.mask.ignore=255" in str(problem.value)


@pytest.mark.parametrize(
    ("values", "colours"),
    [
        ({"left": 100, "right": 200}, None),  # two instances
        ({"left": 7, "right": 15}, None),  # two classes of 0..20
        ({"left": (255, 0, 0), "right": (255, 255, 0)}, "rgb"),  # a red object and a yellow label
    ],
)
def test_three_values_are_refused_with_what_settles_it(
    tmp_path: Path, values: dict[str, Any], colours: str | None
):
    array = np.zeros((40, 60, 3) if colours else (40, 60), np.uint8)
    array[10:30, 5:20], array[2:6, 50:58] = values["left"], values["right"]
    path = stored(tmp_path, Image.fromarray(array))
    with pytest.raises(FileProblem, match=r"mask\.png is a mask whose values have no clear meaning.*data\.mask"):
        read_mask(path)
    assert [region.mask.sum() for region in read_mask(path, meaning(object="instances")).regions] == [300, 32]


def test_numbers_that_are_no_whole_numbers_are_refused(tmp_path: Path):
    values = np.zeros((9, 9), np.float32)
    for wrong in (0.5, np.nan, np.inf):
        values[4, 4] = wrong
        with pytest.raises(FileProblem, match="no whole numbers"):
            read_mask(stored(tmp_path, Image.fromarray(values), "tif"))


def test_one_value_only_is_empty_or_left_to_the_other_masks(tmp_path: Path):
    black = read_mask(stored(tmp_path, Image.new("L", (6, 5))))
    assert (black.lone, one_object(black).any()) == (False, False)
    assert read_mask(stored(tmp_path, Image.new("L", (6, 5), 9))).lone


def ramp(*shades: int, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    """Dark at the left and light at the right, with one column of each shade between."""
    values = np.zeros(size, np.uint8)
    values[:, 30:] = 255
    values[:, 30 : 30 + len(shades)] = shades
    return values


def spotted(values: np.ndarray, spots: dict[tuple[int, int], int]) -> np.ndarray:
    for place, value in spots.items():
        values[place] = value
    return values


STEP = {(row, column): 0 for row in range(10) for column in range(30, 60)} | {(9, 29): 60, (10, 30): 200}
SMOOTHED = {
    "three shades": ramp(40, 128, 200),
    "a shade of the light inside it": spotted(ramp(40, 128, 200), {(20, 36): 245}),
    "a shade of the dark inside it": spotted(ramp(40, 128, 200), {(20, 26): 16}),
    "a border of shades that touch at corners": spotted(ramp(40, 128, 200), STEP | {(10, 31): 255, (11, 30): 255}),
}
UNCLEAR = {
    "two shades": ramp(90, 160),
    "two shades and a dark one": ramp(10, 90, 160),
    "two shades and a light one": ramp(90, 160, 250),
    "a spot far from any border": spotted(ramp(40, 128, 200), {(20, 5): 128}),
    "a spot in the dark": spotted(ramp(40, 128, 200), {(20, 26): 100}),
    "a spot in the light": spotted(ramp(40, 128, 200), {(20, 36): 150}),
    "shades in most places": np.tile(np.uint8([0, 60, 120, 180, 255, 180, 120, 60]), (40, 7)),
    "a flat part": ramp(40, *[128] * 6, 200),
    "more than 8 bits": ramp(40, 128, 200).astype(np.uint16) * 2,
    "no light": np.minimum(ramp(40, 128, 200), 230),
}


@pytest.mark.parametrize("which", SMOOTHED)
def test_what_is_a_smoothed_border(tmp_path: Path, which: str):
    values = SMOOTHED[which]
    read = read_mask(stored(tmp_path, Image.fromarray(values)))
    assert (one_object(read) == (values > 127)).all()
    assert read.notes == ("smoothed borders are cut in the middle, at 128",)


@pytest.mark.parametrize("which", UNCLEAR)
def test_what_is_no_smoothed_border(tmp_path: Path, which: str):
    with pytest.raises(FileProblem, match="no clear meaning"):
        read_mask(stored(tmp_path, Image.fromarray(UNCLEAR[which])))


COMPRESSED = {
    "ripples": spotted(ramp(20, 128, 240), {(20, 45): 250, (20, 17): 8}),
    "ripples far from the border": spotted(ramp(128), {(20, 45): 250, (20, 15): 8}),
    "faint and strong ripples": spotted(ramp(30, 128, 225), {(20, 40): 239, (20, 20): 16}),
}
SPOILT = {
    "a flat band": ramp(*[128] * 6),
    "lines only": np.where(np.arange(60) < 36, ramp(20), 0).astype(np.uint8),
    "a spot in the dark": spotted(ramp(128), {(20, 20): 100}),
    "shades in a quarter": np.where(np.arange(60) % 4, ramp(128), np.where(ramp() > 0, 230, 25)).astype(np.uint8),
}


@pytest.mark.parametrize("which", COMPRESSED)
def test_what_compression_leaves_of_two_values(tmp_path: Path, which: str):
    values = COMPRESSED[which]
    read = read_mask(stored(tmp_path, Image.fromarray(values), "webp", lossless=True))
    assert (one_object(read) == (values > 127)).all()


@pytest.mark.parametrize("which", SPOILT)
def test_what_compression_leaves_of_more_than_two_values(tmp_path: Path, which: str):
    with pytest.raises(FileProblem, match="no clear meaning"):
        read_mask(stored(tmp_path, Image.fromarray(SPOILT[which]), "webp", lossless=True))


def test_a_colour_of_equal_parts_is_a_grey_and_no_other_colour_is(tmp_path: Path):
    values = np.zeros((40, 60), np.uint8)
    values[10:20], values[20:30] = 0x1F, 0x71
    path = stored(tmp_path, Image.fromarray(values))
    assert (one_object(read_mask(path, meaning(object="#1f1f1f"))) == (values == 0x1F)).all()
    assert (one_object(read_mask(path, meaning(object=["#717171", 0x1F]))) == (values > 0)).all()
    for colour in ("#1f0000", "#001f1f", "#1f1f00", "#1fffff"):
        assert not one_object(read_mask(path, meaning(object=colour))).any()


def test_a_mask_that_does_not_fit_what_is_said_is_named(tmp_path: Path):
    opaque = stored(tmp_path, Image.new("L", (6, 5)))
    with pytest.raises(FileProblem) as refused:
        read_mask(opaque, meaning(object="alpha"))
    assert str(refused.value) == f"{opaque} has no transparency; data.mask.object=alpha needs masks that have"
    clear = stored(tmp_path, Image.new("LA", (6, 5), (9, 100)))
    with pytest.raises(FileProblem) as refused:
        read_mask(clear)
    assert str(refused.value).startswith(
        f"{clear} is a mask with transparent parts; say what the object is: data."
    )


def test_of_many_values_the_most_frequent_are_said(tmp_path: Path):
    values = np.zeros((10, 40), np.uint8)
    for number in range(9):
        values[: 9 - number, number] = 10 * number + 7
    with pytest.raises(FileProblem) as refused:
        read_mask(stored(tmp_path, Image.fromarray(values)))
    said = "0 (88.8%), 7 (2.2%), 17 (2.0%), 27 (1.8%), 37 (1.5%), 47 (1.2%) and 4 more; save it with a value"
    assert said in str(refused.value)


@pytest.mark.parametrize("given", ["objects", 1.5, True, "#12345"])
def test_a_meaning_that_is_none_is_refused_with_those_there_are(given: Any):
    with pytest.raises(ValidationError) as refused:
        meaning(object=given)
    assert f"{given!r} is no value; give a whole number, or a colour such as '#ff0000'" in str(refused.value)
    assert ", or nonzero, alpha, classes, instances" in str(refused.value)
