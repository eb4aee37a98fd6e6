"""This module reads the text files in which published data sets list their images, classes and splits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from gradsam_exp.data.files import belongs_to
from gradsam_exp.errors import InputError

NO_OFFICIAL_VAL = (
    "no official val: a tenth of the training images, by a digest of their names, is val and not train"
)
"""What a data set says of `in_split`."""


def read_lines(path: Path, key: str) -> list[str]:
    """Read the lines of a UTF-8 text file, without blanks at their ends; empty lines at the end of it are dropped.

    Args:
        key: the configuration key that leads to it, named in errors.

    Raises:
        InputError: it is missing, no text, or empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{key}: the file {path} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{key}: {path} cannot be read as text ({type(error).__name__})") from error
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if not lines:
        raise InputError(f"{key}: the file {path} is empty")
    return lines


def read_rows(path: Path, columns: Sequence[str], key: str = "data.root") -> list[list[str]]:
    """Read a table whose columns are separated by blanks; empty lines, and those that begin with #, are left out.

    Args:
        columns: their names, shown in errors; the first one identifies a row.
        key: the configuration key that leads to it, named in errors.

    Raises:
        InputError: `read_lines`; a row of another length; two rows that begin alike.
    """
    rows: list[list[str]] = []
    known: set[str] = set()
    for number, line in enumerate(read_lines(path, key), 1):
        row = line.split()
        if not row or row[0].startswith("#"):
            continue
        if len(row) != len(columns):
            raise InputError(f"{path}, line {number}: {line[:80]!r} is not {' '.join(columns)}")
        if row[0] in known:
            raise InputError(f"{path}, line {number}: {row[0]} is listed twice")
        known.add(row[0])
        rows.append(row)
    return rows


def number_in(text: str, allowed: Iterable[int], path: Path, what: str) -> int:
    """Read one of the ``allowed`` whole numbers.

    Raises:
        InputError: it is another; names the file and ``what`` it should be.
    """
    if not (text.isdecimal() and int(text) in allowed):
        raise InputError(f"{path}: {text!r} is no {what}")
    return int(text)


def in_split(split: str, name: str, *, training: bool) -> bool:
    """Tell whether an image of an official training or test part is in ``split``.

    A tenth of the training part is ``val``, chosen by `belongs_to`: by a digest of its ``name``, the same on every
    machine.
    """
    if split == "test" or not training:
        return (split == "test") is not training
    return (split == "val") is belongs_to("val", name)
