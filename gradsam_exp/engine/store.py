"""The store keeps what was computed, to be read again: tensors, in files that several processes share.

A value is a chunk of images' heatmaps, embeddings or pixels. Its key is a digest of everything it depends
on, so nothing is ever out of date: what depends on something else has another key.
"""

import json
import logging
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from filelock import FileLock, Timeout
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from xxhash import xxh3_128

from gradsam_exp.engine.session import Session
from gradsam_exp.errors import InputError, first_line
from gradsam_exp.types import Tensors

log = logging.getLogger(__name__)
Make = Callable[[], tuple[Tensors, Any]]
Usable = Callable[[Tensors, Any], bool]
IN_USE_S = 600.0  # a chunk read or written by anyone in this time is in use
WAIT_S = 60.0  # for another process, before that is said
STAGES = ("images", "heatmaps", "refined", "quality", "embeddings", "everything")
"""The folders of a store; nothing else is ever deleted."""
_KEY = re.compile("[0-9a-f]{32}")
LOOK_AGAIN = 8  # times while the free room is filled: listing thousands of chunks takes its time


@dataclass
class Store:
    """Keeps chunks of tensors in a folder.

    A chunk appears whole or not at all; one that is damaged is reported and made again. Processes that need
    the same chunk wait for the first of them to make it.

    Attributes:
        root: the folder; made when it is first written to. None keeps nothing.
        max_bytes: above this the least recently used chunks go, but none that is in use.
    """

    root: Path | None
    max_bytes: int = 10 * 2**30
    _warned: bool = field(default=False, init=False)
    _own: set[Path] = field(default_factory=set, init=False)  # what this object has read or written
    _room: float = field(default=0.0, init=False)  # bytes that may be written before the folder is looked at

    def get(
        self, stage: str, key: str, make: Make, usable: Usable = lambda tensors, facts: True
    ) -> tuple[Tensors, Any]:
        """Return the chunk of this key: read, or made and kept.

        Args:
            stage: what kind of thing it is, one of `STAGES`; a folder's name.
            key: digest of everything it depends on, 16 bytes in hexadecimal.
            make: gives the tensors, and plain values that JSON can say.
            usable: says whether what was read is what ``make`` gives; else it is made again, as if damaged.

        Raises:
            ValueError: the stage or the key is none, so that the chunk would never be deleted.
        """
        if stage not in STAGES or not _KEY.fullmatch(key):
            raise ValueError(f"{stage}/{key} is no place in a store")
        if self.root is None:
            return make()
        path = self.root / stage / f"{key}.safetensors"
        self._own.add(path)
        found = self._read(path, usable)
        if found is not None:
            return found
        lock = FileLock(path.with_suffix(".lock"), mode=0o666)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _acquire(lock)
        except (OSError, NotImplementedError) as error:  # a folder that became unwritable costs the store only
            self._warn(f"{path.parent} cannot be used as a store ({error}); the run goes on without")
            return make()
        try:
            found = self._read(path, usable, warn=True)  # another process may have made it meanwhile
            if found is not None:
                return found
            made = make()
            self._write(path, *made)
        finally:
            lock.release()
        self._room -= sum(value.nbytes for value in made[0].values())
        if self._room <= 0:
            self._evict(keep=path)
        return made

    def peek(self, place: str) -> tuple[Tensors, Any] | None:
        """Read the chunk at ``stage/key`` without a trace (lock, sign of use); None if missing or damaged."""
        stage, _, key = place.partition("/")
        if self.root is None or stage not in STAGES or not _KEY.fullmatch(key):
            return None
        path = self.root / stage / f"{key}.safetensors"
        with suppress(*_UNREADABLE):
            return _whole(path)
        return None

    def has(self, stage: str, key: str) -> bool:
        """Say whether there is a chunk of this key, whole or not."""
        return self.root is not None and (self.root / stage / f"{key}.safetensors").is_file()

    def size(self, stage: str, key: str) -> int:
        """Return the bytes of the chunk of this key; 0 if there is none."""
        with suppress(OSError):
            return 0 if self.root is None else (self.root / stage / f"{key}.safetensors").stat().st_size
        return 0

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Try to reserve a chunk for this process; yields False if another process is computing it.

        Only a hint, so that processes with the same work do different parts of it first; ``get`` keeps them
        from doing the same twice.
        """
        if self.root is None:
            yield True
            return
        path, free = self.root / "claims" / f"{key}.lock", True
        lock = FileLock(path, mode=0o666)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except (OSError, NotImplementedError) as error:  # a folder that cannot be written to forbids nothing
            free = not isinstance(error, Timeout)
        try:
            yield free
        finally:
            if lock.is_locked:
                path.unlink(missing_ok=True)
                lock.release()

    def _warn(self, message: str) -> None:
        """Once for each store: what is wrong with one chunk is wrong with all."""
        if not self._warned:
            log.warning(message)
            self._warned = True

    def _read(self, path: Path, usable: Usable, *, warn: bool = False) -> tuple[Tensors, Any] | None:
        """A whole chunk, or None; of one that is there and damaged, ``warn`` says so."""
        try:
            found = _whole(path)
            found = None if found is None or not usable(*found) else found
        except (FileNotFoundError, PermissionError):
            return None
        except _UNREADABLE:
            found = None
        if found is None and warn and path.exists():
            log.warning("the stored chunk %s is damaged and is made again", path)
        if found is not None:
            with suppress(OSError):  # another user's chunk
                os.utime(path)
        return found

    def _write(self, path: Path, tensors: Tensors, facts: Any) -> None:
        contiguous = {name: value.detach().cpu().contiguous() for name, value in sorted(tensors.items())}
        said = json.dumps(facts)
        metadata = {"checksum": _checksum(contiguous, said), "facts": said}
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            save_file(contiguous, partial, metadata=metadata)
            os.replace(partial, path)
        except (OSError, SafetensorError) as error:  # a full disk costs the store, not the run
            partial.unlink(missing_ok=True)
            self._warn(f"{path} cannot be kept ({error}); the run goes on without")

    def _own_files(self, ending: str) -> Iterator[Path]:
        """The files that a store has made: whoever puts a store on a folder of their own loses nothing."""
        if self.root is None:
            return
        for stage in STAGES:
            for path in (self.root / stage).glob(f"*{ending}"):
                if _KEY.fullmatch(path.name.partition(".")[0]) and ".safetensors" in path.suffixes:
                    yield path

    def chunks(self) -> Iterator[tuple[float, int, Path]]:
        """List the chunks: when each was last in use (s since 1970), its bytes, its file."""
        for path in self._own_files(".safetensors"):
            with suppress(FileNotFoundError):
                state = path.stat()
                yield state.st_mtime, state.st_size, path

    def _evict(self, keep: Path) -> None:
        """Delete the least recently used chunks until the rest fits, and what was left half written.

        Of what this run itself needs, the most recently used goes first: the next run asks in the same order, and
        would find nothing of what it needs next if the oldest were gone.
        """
        assert self.root is not None
        for path in self._own_files(".partial"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > IN_USE_S:
                    path.unlink()
        chunks = list(self.chunks())
        excess = sum(size for _, size, _ in chunks) - self.max_bytes
        # Others write as well: the folder is looked at again long before it can be too large.
        self._room = -excess / LOOK_AGAIN

        def turn(chunk: tuple[float, int, Path]) -> tuple[bool, float]:
            used, _, path = chunk
            return path in self._own, -used if path in self._own else used

        for used, size, path in sorted(chunks, key=turn):
            if excess <= 0:
                return
            if path != keep and time.time() - used > IN_USE_S:
                if path in self._own:
                    self._warn(
                        f"the store {self.root} is too small for this run, which will make some of it again each "
                        f"time: give store.max_gb more than {self.max_bytes / 2**30:g}"
                    )
                with suppress(OSError):  # another user's
                    path.unlink(missing_ok=True)
                    path.with_suffix(".lock").unlink(missing_ok=True)
                    excess -= size
        if excess > 0:
            self._warn(f"the store {self.root} exceeds its size by {excess / 2**30:.1f} GB that are in use")


# PyTorch opens a file again to map it, and raises RuntimeError if another process has deleted it meanwhile.
_UNREADABLE = (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError)


def _whole(path: Path) -> tuple[Tensors, Any] | None:
    """The chunk in a file if its checksum is right; a file that is none raises one of `_UNREADABLE`."""
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
        raise ValueError(f"{path} is no plain file")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    right = metadata["checksum"] == _checksum(tensors, metadata["facts"])
    return (tensors, json.loads(metadata["facts"])) if right else None


def _acquire(lock: FileLock) -> None:
    """Wait for another process that makes the same chunk; after a while, say so."""
    try:
        lock.acquire(timeout=WAIT_S)
    except Timeout:
        log.warning("waiting for another process, which holds %s since %.0f s", lock.lock_file, WAIT_S)
        lock.acquire()


def _checksum(tensors: Tensors, facts: str) -> str:
    # Against damage, not against malice; ten times as fast as a cryptographic one.
    state = xxh3_128(facts.encode())
    for name, value in tensors.items():
        state.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        state.update(value.flatten().view(torch.uint8).numpy().data)
    return state.hexdigest()


@dataclass(frozen=True)
class StoreSettings:
    """Holds the settings of ``store`` in ``conf/config.yaml``.

    Attributes:
        enabled: keep images, heatmaps and embeddings.
        root: where; safe for several processes and machines that share the folder.
        max_gb: above this (2³⁰ bytes) the least recently used go.
        half: the segmenter's embeddings are kept, and used, in half precision.
        answers_gb: of the decoder's answers that the jobs of a sweep keep in memory for each other; 0 keeps none.
    """

    enabled: bool = True
    root: str = "outputs/.store"
    max_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
    half: bool = False
    answers_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5


def find_store(settings: StoreSettings, session: Session) -> Store:
    """Open the settings' store, one for all runs of a process; `InputError` if it cannot be written to."""
    if not settings.enabled:
        return Store(None)
    root = Path(settings.root).expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise InputError(
            f"store.root={root} cannot be written to ({first_line(error)}); give another, or store.enabled=false"
        ) from error
    root, max_bytes = root.resolve(), int(settings.max_gb * 2**30)
    return session.keep("store", (root, max_bytes), lambda: Store(root, max_bytes))
