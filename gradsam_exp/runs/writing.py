"""This module writes a run's files so that each appears whole under its name or not at all."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradsam_exp.errors import harmless


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give another name to write to; at the end the file appears whole under its own."""
    partial = path.with_name(path.name + ".partial")
    yield partial
    os.replace(partial, path)


def write_json(path: Path, content: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Write readable JSON; the file appears whole or not at all.

    What would act on a terminal, see `harmless`, is an escape as JSON has them.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    if harmless(text, lines=True) != text:
        text = json.dumps(content, indent=indent)
    with replaced(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
