"""Pictures drawn here, stored in every mode of Pillow: what is read is what was drawn, or it is refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from gradsam_exp.data.pictures import (
    FileProblem,
    inspect_picture,
    is_picture,
    is_unread_picture,
    read_rgb,
    rgb_of,
)
from gradsam_exp.errors import InputError
from tests.data.turned import UPRIGHT

quick = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SIDES = st.tuples(st.integers(1, 24), st.integers(1, 24))
GREYS = SIDES.flatmap(lambda size: arrays(np.uint8, size))
COLOURS = SIDES.flatmap(lambda size: arrays(np.uint8, (*size, 3)))


def stored(folder: Path, picture: Image.Image, kind: str = "png", orientation: int = 1, **how: Any) -> Path:
    if orientation != 1:
        picture = picture.transpose(UPRIGHT[orientation])
        exif = Image.Exif()
        exif[0x0112] = orientation
        how["exif"] = exif
    content = io.BytesIO()
    picture.save(content, {"tif": "TIFF", "jpg": "JPEG", "jp2": "JPEG2000"}.get(kind, kind.upper()), **how)
    path = folder / f"picture.{kind}"
    path.write_bytes(content.getvalue())
    return path


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=-1)


GREY = {
    "L": Image.fromarray,
    "LA": lambda drawn: Image.fromarray(drawn).convert("LA"),
    "I;16": lambda drawn: Image.fromarray(drawn.astype(np.uint16) * 257),
    "F": lambda drawn: Image.fromarray(drawn.astype(np.float32) / 255),
    "RGB": lambda drawn: Image.fromarray(grey(drawn)),
}
COLOUR = {
    "RGB": Image.fromarray,
    "RGBA": lambda drawn: Image.fromarray(drawn).convert("RGBA"),
    "RGBX": lambda drawn: Image.fromarray(drawn).convert("RGBX"),
    "CMYK": lambda drawn: Image.fromarray(drawn).convert("CMYK"),
}
LOSSLESS = {
    "L": ("png", "tif", "bmp", "gif", "pcx", "tga", "ppm", "jp2"),
    "LA": ("png", "tif", "tga", "jp2"),
    "I;16": ("png", "tif", "ppm", "jp2"),
    "F": ("tif",),
    "RGB": ("png", "tif", "bmp", "pcx", "tga", "ppm", "sgi", "jp2", "webp"),
    "RGBA": ("png", "tif", "tga", "sgi", "jp2", "webp", "ico"),
    "RGBX": ("tif",),
    "CMYK": ("tif",),
}
MODES = ["1", "L", "P", "PA", "RGB", "RGBA", "RGBX", "LA", "La", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"]
WAYS = [(mode, kind, makes) for makes in (GREY, COLOUR) for mode in makes for kind in LOSSLESS[mode]]


@pytest.mark.parametrize(("mode", "kind", "makes"), WAYS, ids=[f"{mode}.{kind}" for mode, kind, _ in WAYS])
@quick
@given(data=st.data())
def test_what_was_drawn_is_read_whatever_mode_it_is_stored_in(
    tmp_path: Path, mode: str, kind: str, makes: dict[str, Any], data: st.DataObject
):
    drawn = data.draw(GREYS if makes is GREY else COLOURS)
    orientation = data.draw(st.sampled_from([1, *UPRIGHT])) if kind in {"png", "tif", "webp"} else 1
    how: dict[str, Any] = (
        {"lossless": True} if kind == "webp" else {"irreversible": False} if kind == "jp2" else {}
    )
    if kind == "ico":
        how["sizes"] = [(drawn.shape[1], drawn.shape[0])]
    path = stored(tmp_path, makes[mode](drawn), kind, orientation, **how)
    height, width = drawn.shape[:2]
    assert inspect_picture(path).size == (width, height)
    assert (read_rgb(path) == (grey(drawn) if drawn.ndim == 2 else drawn)).all()


@quick
@given(drawn=SIDES.flatmap(lambda size: arrays(bool, size)), kind=st.sampled_from(["png", "tif", "bmp", "ppm"]))
def test_one_bit_is_black_and_white(tmp_path: Path, drawn: np.ndarray, kind: str):
    assert (read_rgb(stored(tmp_path, Image.fromarray(drawn), kind)) == grey(drawn * np.uint8(255))).all()


@quick
@given(
    indices=SIDES.flatmap(lambda size: arrays(np.uint8, size, elements=st.integers(0, 7))),
    palette=arrays(np.uint8, (8, 3)),
    kind=st.sampled_from(["png", "gif", "tif", "bmp", "tga", "pcx"]),
)
def test_a_palette_is_looked_up(tmp_path: Path, indices: np.ndarray, palette: np.ndarray, kind: str):
    picture = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
    picture.putpalette(palette.ravel().tolist())
    assert (read_rgb(stored(tmp_path, picture, kind)) == palette[indices]).all()


@quick
@given(
    indices=SIDES.flatmap(lambda size: arrays(np.uint8, size, elements=st.integers(0, 3))),
    palette=arrays(np.uint8, (4, 3)),
    clear=st.integers(0, 3),
)
def test_a_transparent_colour_is_white(tmp_path: Path, indices: np.ndarray, palette: np.ndarray, clear: int):
    picture = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
    picture.putpalette(palette.ravel().tolist())
    path = stored(tmp_path, picture, transparency=clear)
    palette[clear] = 255
    assert (read_rgb(path) == palette[indices]).all()
    said = "transparent parts are put over white" in inspect_picture(path).notes
    assert said == (indices == clear).any()


@quick
@given(
    drawn=SIDES.flatmap(lambda size: arrays(np.uint8, (*size, 4))),
    kind=st.sampled_from(["png", "tif", "webp", "tga"]),
    alone=st.booleans(),
)
def test_transparent_parts_are_put_over_white(tmp_path: Path, drawn: np.ndarray, kind: str, alone: bool):
    if alone:
        drawn[..., :3] = drawn[..., :1]
    alone &= kind != "webp"  # which stores colours
    picture = Image.fromarray(drawn[..., [0, 3]].copy(), "LA") if alone else Image.fromarray(drawn)
    how = {"lossless": True, "exact": True} if kind == "webp" else {}
    alpha = drawn[..., 3:] / 255
    right = drawn[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(read_rgb(stored(tmp_path, picture, kind, **how)) - right).max() <= 1  # rounding


@quick
@given(values=SIDES.flatmap(lambda size: arrays(np.uint16, size)), kind=st.sampled_from(["png", "tif", "ppm"]))
def test_sixteen_bits_are_divided_by_257(tmp_path: Path, values: np.ndarray, kind: str):
    read = read_rgb(stored(tmp_path, Image.fromarray(values), kind))
    assert (read == grey(np.rint(values / 257).astype(np.uint8))).all()


@quick
@given(
    values=SIDES.flatmap(lambda size: arrays(np.float32, size, elements=st.floats(-2, 300, width=32))),
    wrong=st.sampled_from([None, np.nan, np.inf, -np.inf]),
)
def test_floating_point_values_outside_0_to_1_are_refused(tmp_path: Path, values: np.ndarray, wrong: float | None):
    if wrong is not None:
        values[0, 0] = wrong
    path = stored(tmp_path, Image.fromarray(values), "tif")
    if wrong is None and values.min() >= 0 and values.max() <= 1:
        assert (read_rgb(path) == grey(np.rint(values * 255).astype(np.uint8))).all()
        return
    for reading in (read_rgb, inspect_picture):
        with pytest.raises(FileProblem, match=r"picture\.tif holds floating-point values.*save it"):
            reading(path)


@quick
@given(values=SIDES.flatmap(lambda size: arrays(np.int32, size)))
def test_thirty_two_bits_are_refused(tmp_path: Path, values: np.ndarray):
    with pytest.raises(FileProblem, match=r"32-bit values.*what is white is not known"):
        read_rgb(stored(tmp_path, Image.fromarray(values), "tif"))


@quick
@given(
    corners=arrays(np.float64, (2, 2, 3), elements=st.integers(0, 255)),
    kind=st.sampled_from(["jpg", "webp", "jp2", "avif"]),
    mode=st.sampled_from(["RGB", "L", "CMYK", "YCbCr"]),
    orientation=st.sampled_from([1, *UPRIGHT]),
)
def test_lossy_files_are_read_to_a_few_shades(
    tmp_path: Path, corners: np.ndarray, kind: str, mode: str, orientation: int
):
    across, down = np.linspace(0, 1, 40)[None, :, None], np.linspace(0, 1, 24)[:, None, None]
    rows = [corners[row, 0] * (1 - across) + corners[row, 1] * across for row in (0, 1)]
    drawn = Image.fromarray(np.rint(rows[0] * (1 - down) + rows[1] * down).astype(np.uint8))
    mode = mode if kind == "jpg" else "RGB"
    how = {"quality": 95} if kind != "jp2" else {}
    path = stored(tmp_path, drawn.convert(mode), kind, 1 if kind == "jp2" else orientation, **how)
    right = np.asarray(drawn.convert(mode).convert("RGB"), np.float64)
    assert inspect_picture(path).size == (40, 24)
    assert np.abs(read_rgb(path) - right).mean() <= 3


def test_every_mode_is_read_as_pillow_shows_it_or_refused(tmp_path: Path):
    drawn = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8))
    for mode in MODES:
        try:
            picture = drawn.convert(mode)
        except ValueError:
            picture = Image.new(mode, drawn.size)
        for kind in ("png", "tif", "bmp", "gif", "jpg", "webp", "jp2", "tga"):
            try:
                path = stored(tmp_path, picture, kind)
            except (OSError, KeyError, ValueError):
                continue  # Pillow does not write it
            try:
                read = read_rgb(path)
            except FileProblem as problem:
                assert path.name in str(problem)  # noqa: PT017
                assert mode in {"I", "F", "LAB", "La", "RGBa"}, (mode, kind)
                continue
            assert read.shape == (9, 11, 3)
            if kind in {"png", "tif"} and mode not in {"I", "F", "La", "RGBa", "LAB"}:
                assert (read == np.asarray(picture.convert("RGB"))).all(), (mode, kind)


def test_an_elongated_picture_is_refused_in_one_line(tmp_path: Path):
    with pytest.raises(FileProblem, match=r"picture\.png is 12×7000 px, one side more than 256 times"):
        inspect_picture(stored(tmp_path, Image.new("RGB", (12, 7000))))


def test_a_huge_picture_is_refused_by_a_limit_that_can_be_raised(tmp_path: Path):
    path = stored(tmp_path, Image.new("1", (12000, 10000)))
    with pytest.raises(FileProblem, match=r"12000×10000 px, more than max_pixels=100000000; .*raise max_pixels"):
        inspect_picture(path)
    assert inspect_picture(path, max_pixels=120_000_000).size == (12000, 10000)


def test_a_picture_turned_by_180_degrees_is_read_upright(tmp_path: Path):
    drawn = np.zeros((6, 4, 3), np.uint8)
    drawn[:2] = 200, 10, 10
    assert (read_rgb(stored(tmp_path, Image.fromarray(drawn), orientation=3)) == drawn).all()


def test_of_several_pages_the_first_is_taken_and_that_is_said(tmp_path: Path):
    pages = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    path = stored(tmp_path, pages[0], "tif", save_all=True, append_images=pages[1:])
    assert inspect_picture(path).notes == ("of several pages or frames the first is taken",)
    assert (read_rgb(path) == [255, 0, 0]).all()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read"),
        (b"text", "cannot"),
    ],
)
def test_what_is_no_picture_is_refused_by_its_name(tmp_path: Path, content: bytes, why: str):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(FileProblem, match=rf"x\.png {why}"):
        read_rgb(path)


def test_a_cut_off_picture_is_refused_by_its_name(tmp_path: Path):
    path = stored(tmp_path, Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)))
    path.write_bytes(path.read_bytes()[:2000])
    for reading in (read_rgb, inspect_picture):
        with pytest.raises(FileProblem, match=r"picture\.png cannot be read"):
            reading(path)


def test_a_tiff_whose_second_page_has_no_size_is_refused_by_its_name(tmp_path: Path):
    """Pillow raises a TypeError."""
    path = stored(tmp_path, Image.new("L", (5, 4)), "tif")
    content = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", content, 4)
    (tags,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * tags, len(content))
    path.write_bytes(content + struct.pack("<HHHIII", 1, 259, 3, 1, 1, 0))
    with pytest.raises(FileProblem, match=r"picture\.tif cannot be read as a picture \(Missing dimensions\)"):
        inspect_picture(path)


@pytest.mark.parametrize("name", ["x.avif", "x.gif", "x.jfif", "x.JPG", "x.tif", "x.webp"])
def test_what_pillow_reads_is_a_picture_by_its_ending(name: str):
    assert is_picture(Path(name))


@pytest.mark.parametrize("name", ["x.heic", "x.svg", "x.NEF", "x.ief"])
def test_other_kinds_of_pictures_are_known_and_not_read(name: str):
    assert not is_picture(Path(name))
    assert is_unread_picture(Path(name))


def with_tag(path: Path, values: np.ndarray) -> None:
    """Save a TIFF in which 0 is white (PhotometricInterpretation 0)."""
    Image.fromarray(values).save(path, "TIFF")
    content = path.read_bytes()
    place = content.find(struct.pack("<HHI", 262, 3, 1)) + 8
    path.write_bytes(content[:place] + struct.pack("<I", 0) + content[place + 4 :])


def test_a_tiff_in_which_0_is_white_is_turned_round_or_refused(tmp_path: Path):
    with_tag(tmp_path / "x.tif", np.array([[0, 200]], dtype=np.uint8))
    assert read_rgb(tmp_path / "x.tif")[0].tolist() == [[255] * 3, [55] * 3]
    for kind in (np.uint16, np.float32):
        with_tag(tmp_path / "x.tif", np.array([[0, 1]], dtype=kind))
        with pytest.raises(FileProblem, match=r"x\.tif is a TIFF of more than 8 bits in which 0 is white"):
            read_rgb(tmp_path / "x.tif")


@pytest.mark.parametrize(("kind", "transparent"), [(np.uint8, 100), (np.uint16, 25700)])
def test_a_grey_that_stands_for_transparent_is_white(tmp_path: Path, kind: type, transparent: int):
    Image.fromarray(np.array([[0, transparent]], dtype=kind)).save(tmp_path / "x.png")
    content = (tmp_path / "x.png").read_bytes()
    place, chunk = content.find(b"IDAT") - 4, b"tRNS" + struct.pack(">H", transparent)
    framed = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "x.png").write_bytes(content[:place] + framed + content[place:])
    assert read_rgb(tmp_path / "x.png")[0].tolist() == [[0] * 3, [255] * 3]


def test_sixteen_bits_in_either_byte_order_are_read(tmp_path: Path):
    Image.fromarray(np.array([[0, 65535]], dtype=">u2")).save(tmp_path / "x.tif")
    assert read_rgb(tmp_path / "x.tif")[0, :, 0].tolist() == [0, 255]
    assert inspect_picture(tmp_path / "x.tif").size == (2, 1)


def test_a_picture_in_memory_is_what_its_file_would_be(tmp_path: Path):
    drawn = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    path = stored(tmp_path, Image.fromarray(drawn), orientation=6)
    assert np.array_equal(rgb_of(path), drawn)
    assert np.array_equal(rgb_of(str(path)), drawn)
    with Image.open(path) as picture:
        assert np.array_equal(rgb_of(picture), drawn), "turned upright"
    assert np.array_equal(rgb_of(drawn), drawn)
    assert np.array_equal(rgb_of(drawn / 255), drawn)
    assert np.array_equal(rgb_of(drawn[..., 0]), grey(drawn[..., 0]))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            np.zeros((4, 5, 4), np.uint8),
            r"shape \(4, 5, 4\) is no picture: give \(height, width, 3\), RGB, or grey",
        ),
        (np.zeros(5, np.uint8), r"shape \(5,\) is no picture"),
        (np.zeros((0, 5), np.uint8), r"shape \(0, 5\) is no picture"),
        (np.full((2, 2), 1.5), r"outside of \[0, 1\] are no picture: give uint8, or values in \[0, 1\]"),
        (np.full((2, 2), -0.5), r"outside of \[0, 1\]"),
        (np.full((2, 2), np.nan), r"outside of \[0, 1\]"),
        (np.zeros((2, 2), np.int64), "an array of int64 is no picture: give uint8, or floating-point values"),
    ],
)
def test_what_is_no_picture_in_memory_is_refused(values: np.ndarray, said: str):
    with pytest.raises(InputError, match=said):
        rgb_of(values)


def test_a_picture_in_memory_has_no_file_to_name():
    with pytest.raises(FileProblem, match=r"^the picture holds 32-bit values from 0 to 70000, and what is white"):
        rgb_of(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)))
