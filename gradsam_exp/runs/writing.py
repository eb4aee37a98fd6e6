"""This module writes a run's files so that each appears whole or not at all, and a run only once at a time."""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from gradsam_exp.errors import harmless

log = logging.getLogger(__name__)


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


@contextmanager
def one_at_a_time(folder: Path, identity: str) -> Iterator[None]:
    """Let only one process at a time make the run of this identity; the others wait, and then find it finished.

    Args:
        folder: which all of them see. Where it cannot hold locks, nobody waits.
    """
    lock = FileLock(folder / f"{identity}.lock", mode=0o666)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        log.warning("%s cannot hold locks (%s): the same run may be made more than once", folder, error)
    try:
        yield
    finally:
        lock.release()
