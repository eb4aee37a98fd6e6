"""This module transfers a file from the network: it continues one that broke off, and gives up a slow server."""

from __future__ import annotations

import json
import queue
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from filelock import FileLock
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from gradsam_exp.console import console
from gradsam_exp.errors import first_line

if TYPE_CHECKING:
    from requests import Response

MOST_BYTES = 2**36
"""Larger files, of more than 64 GiB, are not transferred."""
WORTH_KEEPING = 2**20  # bytes of a transfer that was given up
_CHUNK = 2**18  # bytes that are read at a time
_ATTEMPTS = 3  # in a row that bring nothing
_PAUSE = 1.0  # s before the second of them, twice that before the third


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class DownloadLimits:
    """Holds the settings of ``download`` in ``conf/config.yaml``: when a download is given up.

    Attributes:
        timeout: s in which something must come: an answer, and then bytes.
        min_rate: bytes a second that must come on average over each ``timeout``.
        max_hours: that one file may take.
    """

    timeout: Annotated[float, Field(gt=0, le=86400)] = 20.0
    min_rate: Annotated[float, Field(ge=0)] = 1000.0
    max_hours: Annotated[float, Field(gt=0, le=10000)] = 24.0


LIMITS = DownloadLimits()
"""The defaults."""


class _BrokenOff(OSError):
    """A transfer ended before the whole file was there."""


class _GivenUp(OSError):
    """A server sends too little to wait for it."""


class Transfer:
    """A transfer is what pooch calls to fetch a file: it continues ``part`` if the server's file is the same.

    Args:
        part: what has come so far; a file of its name and ``.json`` says from which version.
        verified: the whole file's checksum is known, so that parts of two versions would not go unnoticed.
        limits: when it is given up; what came is kept for the next time if that is worth it.
        pause: s before the second attempt in a row that brings nothing, twice that before the third.
    """

    def __init__(
        self, part: Path, verified: bool, limits: DownloadLimits = LIMITS, *, pause: float | int = _PAUSE
    ) -> None:
        self.part, self.verified, self.limits, self.pause = part, verified, limits, pause
        self.version = part.with_name(f"{part.name}.json")

    def __call__(self, url: str, output_file: str, _: Any = None) -> None:
        """Fetch all of ``url``.

        Raises:
            OSError: the server cannot be reached or refuses, attempts to continue bring nothing, or what comes is
                less than the limits.
        """
        began = self._came_at = time.monotonic()
        self._ends_at = began + 3600 * self.limits.max_hours
        most, in_vain = 0, 0
        try:
            while True:
                try:
                    self._continue(url)
                    break
                except _BrokenOff:
                    came = self.part.stat().st_size if self.part.is_file() else 0
                    most, in_vain = max(most, came), 0 if came > most else in_vain + 1
                    if in_vain == _ATTEMPTS or self._left() <= self.pause * in_vain:
                        raise
                    time.sleep(self.pause * in_vain)
        except _GivenUp:
            if not self.part.is_file() or self.part.stat().st_size < WORTH_KEEPING:
                self._forget()
            raise
        shutil.move(self.part, output_file)
        self.version.unlink(missing_ok=True)

    @property
    def kept(self) -> int:
        """Return how many bytes are there for the next time."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def _left(self) -> float:
        """The seconds in which something must come."""
        return min(self._came_at + self.limits.timeout, self._ends_at) - time.monotonic()

    def _continue(self, url: str) -> None:
        import requests  # noqa: PLC0415  (only who downloads needs it)
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        headers = {"Accept-Encoding": "identity"}
        start = self._resumable()
        if start:
            headers["Range"] = f"bytes={start}-"
            validator = read_json(self.version).get("validator")
            if validator:
                headers["If-Range"] = validator
        try:
            response, chunks = self._asked(url, headers)
            total = _total(response)
            if start and response.status_code == requests.codes.requested_range_not_satisfiable:
                if total == start:
                    return
                self._forget()
                raise _BrokenOff("the file on the server has changed")
            response.raise_for_status()
            if start and not _continues(response, start):
                start = 0
            if not start:
                self._begin(response)
            self._receive(response, chunks, start, total)
        except (requests.ConnectionError, requests.Timeout, HTTPError) as error:
            if not self.part.is_file() or isinstance(error, requests.exceptions.SSLError):
                raise OSError(_reason(error)) from error
            raise _BrokenOff(f"the transfer broke off: {_reason(error)}") from error

    def _asked(self, url: str, headers: Mapping[str, str]) -> tuple[Response, Iterator[bytes]]:
        """Ask for a file; returns the answer as soon as its head is there, and its bytes as they come.

        A thread waits for the server, which may send its name's address, its head or its bytes one by one, so that
        no time limit of a socket is ever reached.

        Raises:
            _GivenUp: it sends too little; then, too, when the bytes are asked for.
        """
        import requests  # noqa: PLC0415  (see above)

        came: queue.Queue[Response | bytes | Exception | None] = queue.Queue(maxsize=16)
        given_up = threading.Event()

        def hand_over(what: Response | bytes | Exception | None) -> bool:
            while not given_up.is_set():
                with suppress(queue.Full):
                    came.put(what, timeout=1)
                    return True
            return False

        def ask() -> None:
            try:
                timeout = 2 * self.limits.timeout  # so that this thread ends, too
                with requests.get(url, headers=dict(headers), stream=True, timeout=timeout) as response:
                    going = hand_over(response)
                    # As it is sent: some servers call a .tar.gz's compression an encoding, which would be undone.
                    while going and (chunk := response.raw.read1(_CHUNK, decode_content=False)):
                        going = hand_over(chunk)
                hand_over(None)
            except Exception as error:  # told to whoever waits
                hand_over(error)

        def taken() -> Any:
            try:
                what = came.get(timeout=max(self._left(), 0))
            except queue.Empty:
                raise self._too_late() from None
            if isinstance(what, Exception):
                raise what
            self._came_at = time.monotonic()
            return what

        def chunks() -> Iterator[bytes]:
            since, number = time.monotonic(), 0
            try:
                while (chunk := taken()) is not None:
                    number += len(chunk)
                    yield chunk
                    waited = time.monotonic() - since
                    if self._ends_at <= time.monotonic():
                        raise self._too_late()
                    if waited >= self.limits.timeout:
                        if number < self.limits.min_rate * waited:
                            rate = self.limits.min_rate
                            raise _GivenUp(f"less than {rate:g} bytes a second come (download.min_rate)")
                        since, number = time.monotonic(), 0
            finally:
                given_up.set()

        threading.Thread(target=ask, daemon=True).start()
        try:
            return taken(), chunks()
        except BaseException:
            given_up.set()
            raise

    def _too_late(self) -> _GivenUp:
        if self._ends_at <= time.monotonic():
            return _GivenUp(
                f"it is not here after {self.limits.max_hours:g} hours; download.max_hours says how many"
            )
        return _GivenUp(f"nothing came for {self.limits.timeout:g} s (download.timeout)")

    def _receive(self, response: Response, chunks: Iterator[bytes], start: int, total: int | None) -> None:
        """Write what comes behind the ``start`` bytes that are there."""
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        name = PurePosixPath(urlsplit(response.url).path).name
        with bar, self.part.open("r+b" if start else "wb") as file:
            file.seek(start)
            task = bar.add_task(f"fetching {name}", total=total, completed=start)
            for chunk in chunks:
                file.write(chunk)
                bar.advance(task, len(chunk))
                if file.tell() > MOST_BYTES:
                    break
            came = file.tell()
        if came > MOST_BYTES:
            self._forget()
            raise OSError(f"it is larger than {MOST_BYTES / 2**30:g} GiB")
        if total is not None and came != total:
            if came > total:
                self._forget()
            raise _BrokenOff(f"the transfer broke off after {came} of {total} bytes")

    def _resumable(self) -> int:
        """The number of bytes that are there and can be continued."""
        validator = read_json(self.version).get("validator")
        return self.kept if validator or self.verified else 0

    def _begin(self, response: Response) -> None:
        """Note which version of the file comes, by what If-Range takes: a strong ETag, or else a date."""
        tag = response.headers.get("ETag", "")
        validator = tag if tag.startswith('"') else response.headers.get("Last-Modified")
        self.part.unlink(missing_ok=True)
        self.version.write_text(json.dumps({"url": response.url, "validator": validator}), encoding="utf-8")

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)


def fetch_weights(
    url: str, path: Path, *, digest: str | None = None, starts: str = "", limits: DownloadLimits = LIMITS
) -> Path:
    """Find a file of weights at ``path``, or fetch it there; other processes that want the same wait meanwhile.

    Args:
        digest: its SHA-256; a file that is there and has another is fetched again.
        starts: how the SHA-256 starts, where only that is known; looked at after a transfer.

    Raises:
        OSError: it cannot be fetched; see `Transfer`.
        ValueError: what arrives has another digest; it is not kept.
    """
    import pooch  # noqa: PLC0415  (only who downloads needs it)

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f"{path.name}.lock")
    with FileLock(lock, mode=0o666):
        try:
            if path.is_file() and digest is None:
                return path
            known = None if digest is None else f"sha256:{digest}"
            transfer = Transfer(
                path.with_name(f"{path.name}.part"), verified=bool(digest or starts), limits=limits
            )

            def checked(url: str, output_file: str, _: Any = None) -> None:
                transfer(url, output_file)
                found = pooch.file_hash(output_file)
                if not found.startswith(starts):
                    raise ValueError(f"its SHA-256 is {found[:12]}… and not {starts}…")

            return Path(pooch.retrieve(url, known, fname=path.name, path=path.parent, downloader=checked))
        finally:
            lock.unlink(missing_ok=True)


def _continues(response: Response, start: int) -> bool:
    """Says whether a response is the rest of the file behind ``start`` bytes."""
    given = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return response.status_code == 206 and given is not None and int(given[1]) == start


def _total(response: Response) -> int | None:
    """The length of the whole file in bytes, if the server says it."""
    given = re.fullmatch(r"bytes .*/(\d+)", response.headers.get("Content-Range", "").strip())
    if given:
        return int(given[1])
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() and response.status_code == 200 else None


def _reason(error: BaseException) -> str:
    """What the innermost error says, since requests and urllib3 wrap it in their own."""
    while error.args and isinstance(error.args[-1], BaseException):
        error = error.args[-1]
    reason = getattr(error, "reason", None)
    return _reason(reason) if isinstance(reason, BaseException) else first_line(error)


def read_json(path: Path) -> dict[str, Any]:
    """Read the values in a small file of ours; none if it is not there, or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
