"""What was computed once is read again: tensors by content, in files that several processes share.

A value is a chunk of images' heatmaps, embeddings or pixels. Its key is a digest of everything it depends
on, so nothing is ever out of date: what depends on something else has another key.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

log = logging.getLogger(__name__)
Tensors = Mapping[str, Tensor]
Make = Callable[[], tuple[Tensors, Any]]
IN_USE_S = 600.0  # a chunk read or written by anyone in this time is in use


@dataclass
class Store:
    """Chunks of tensors in a folder.

    A chunk appears whole or not at all; one that is damaged is reported and made again. Processes that need
    the same chunk wait for the first of them to make it.

    Attributes:
        root: the folder; made when it is first written to. None keeps nothing.
        max_bytes: above this the least recently used chunks go, but none that is in use.
    """

    root: Path | None
    max_bytes: int = 10 * 2**30
    _warned: bool = field(default=False, init=False)

    def get(self, stage: str, key: str, make: Make) -> tuple[Tensors, Any]:
        """The chunk of this key: read, or made and kept.

        Args:
            stage: what kind of thing it is; a folder's name.
            key: digest of everything it depends on.
            make: gives the tensors, and plain values that JSON can say.
        """
        if self.root is None:
            return make()
        path = self.root / stage / f"{key}.safetensors"
        found = self._read(path)
        if found is not None:
            return found
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / stage / f"{key}.lock"):
            found = self._read(path)  # another process may have made it meanwhile
            if found is not None:
                return found
            made = make()
            self._write(path, *made)
        self._evict(keep=path)
        return made

    def _read(self, path: Path) -> tuple[Tensors, Any] | None:
        """A whole chunk, or None."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
            if metadata["checksum"] == _checksum(tensors):
                os.utime(path)
                return tensors, json.loads(metadata["facts"])
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            pass
        log.warning("the stored chunk %s is damaged and is made again", path)
        return None

    def _write(self, path: Path, tensors: Tensors, facts: Any) -> None:
        contiguous = {name: value.detach().cpu().contiguous() for name, value in sorted(tensors.items())}
        metadata = {"checksum": _checksum(contiguous), "facts": json.dumps(facts)}
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as partial:
            pass
        try:
            save_file(contiguous, partial.name, metadata=metadata)
            os.replace(partial.name, path)
        except OSError as error:  # a full disk costs the store, not the run
            Path(partial.name).unlink(missing_ok=True)
            if not self._warned:
                log.warning("%s cannot be kept (%s); the run goes on without", path, error)
                self._warned = True

    def _evict(self, keep: Path) -> None:
        """Delete the least recently used chunks until the rest fits."""
        assert self.root is not None
        chunks = []
        for path in self.root.glob("*/*.safetensors"):
            try:
                state = path.stat()
            except FileNotFoundError:
                continue
            chunks.append((state.st_mtime, state.st_size, path))
        excess = sum(size for _, size, _ in chunks) - self.max_bytes
        for used, size, path in sorted(chunks):
            if excess <= 0:
                return
            if path != keep and time.time() - used > IN_USE_S:
                path.unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)
                excess -= size
        if excess > 0 and not self._warned:
            log.warning("the store %s exceeds its size by %.1f GB that are in use", self.root, excess / 2**30)
            self._warned = True


def _checksum(tensors: Tensors) -> str:
    state = hashlib.blake2b(digest_size=16)
    for name, value in tensors.items():
        state.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        state.update(value.flatten().numpy().data)
    return state.hexdigest()
