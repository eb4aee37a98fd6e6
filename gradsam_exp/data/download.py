"""This module fetches archives of data sets into the user cache: once, checked, continued where one broke off."""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import shutil
import stat
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from filelock import FileLock
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from gradsam_exp.console import console
from gradsam_exp.errors import InputError, first_line

if TYPE_CHECKING:
    from requests import Response

MOST_BYTES = 2**36
"""Archives that hold more, 64 GiB once unpacked, are refused."""
_CHECKSUM = re.compile(r"(?:sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})", re.IGNORECASE)
_CHUNK = 2**18  # bytes that are read at a time
_TIMEOUT = (15, 60)  # s to connect, and without a byte
_ATTEMPTS = 3  # in a row that bring nothing
_PAUSE = 1.0  # s before the second of them, twice that before the third
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError)


class _BrokenOff(OSError):
    """A transfer ended before the whole file was there."""


def fetch_archive(url: str, checksum: str | None = None, *, most_bytes: int = MOST_BYTES) -> Path:
    """Fetch a zip or tar archive once; returns the folder in the user cache that holds its members.

    A transfer that breaks off is continued where it stopped, now or by the next call, if the server offers ranges
    (RFC 9110, section 14) and the checksum is known, or an ETag or a date says that the file is the same. What was
    fetched is used only if its checksum is right and all of it can be unpacked; else it is removed. The folder is
    named by the archive's SHA-256, so that archives with the same file name never mix. Afterwards the archive
    itself is removed.

    Args:
        url: address, http or https.
        checksum: ``sha256:…`` or ``md5:…`` in hexadecimal, if known.
        most_bytes: an archive whose members have more bytes altogether is refused.

    Raises:
        InputError: no network, another checksum, a damaged archive, too many bytes, or a member that is a link or
            would lie outside the folder.
    """
    import pooch  # noqa: PLC0415  (only who downloads needs it)

    if checksum is not None and not _CHECKSUM.fullmatch(checksum):
        what = "is no checksum; it has 64 hexadecimal digits as SHA-256, 32 as MD5"
        raise InputError(f"{checksum.partition(':')[2] or checksum!r} {what}")
    key = hashlib.sha256(f"{url} {(checksum or '').lower()}".encode()).hexdigest()[:16]
    cache = Path(pooch.os_cache("gradsam_exp")) / "archives"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{key}.lock", mode=0o666):
            return _fetched(url, checksum, cache, key, most_bytes)
    except OSError as error:
        raise InputError(
            f"the cache {cache} cannot be written ({first_line(error)}); give data.root=PATH"
        ) from error


def _fetched(url: str, checksum: str | None, cache: Path, key: str, most_bytes: int) -> Path:
    """The folder of an archive's members; the caller has locked ``key``."""
    import pooch  # noqa: PLC0415  (see above)

    record = cache / f"{key}.json"  # says which folder an address led to
    known = _read_json(record).get("sha256")
    if isinstance(known, str) and re.fullmatch(r"[0-9a-f]{64}", known) and (cache / known).is_dir():
        return cache / known
    transfer = _Transfer(cache / f"{key}.part", checksum is not None)
    name = f"{key}-{PurePosixPath(urlsplit(url).path).name[-80:] or 'archive'}"
    stale = cache / name
    stale.unlink(missing_ok=True)  # of a process that was killed while it unpacked
    try:
        archive = Path(pooch.retrieve(url, checksum, fname=name, path=cache, downloader=transfer))
    except (OSError, ValueError) as error:
        kept = transfer.part.stat().st_size if transfer.part.is_file() else 0
        again = f" {kept / 2**20:.1f} MiB are kept, and the next run continues;" if kept else ""
        raise InputError(
            f"the data set could not be fetched from {url} ({first_line(error)});{again} "
            "fetch it elsewhere and give data.root=PATH"
        ) from error
    try:
        sha256 = pooch.file_hash(str(archive))
        with FileLock(cache / f"{sha256}.lock", mode=0o666):  # another address may have led to the same
            if not (cache / sha256).is_dir():
                partial = cache / f"{sha256}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                try:
                    unpack(archive, partial, url, most_bytes=most_bytes)
                    partial.rename(cache / sha256)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    finally:
        archive.unlink(missing_ok=True)
    record.write_text(json.dumps({"url": url, "sha256": sha256}), encoding="utf-8")
    return cache / sha256


class _Transfer:
    """A transfer is what pooch calls to fetch a file: it continues ``part`` if the server's file is the same.

    Args:
        part: what has come so far; a file of its name and ``.json`` says from which version.
        verified: the whole file's checksum is known, so that parts of two versions would not go unnoticed.
    """

    def __init__(self, part: Path, verified: bool) -> None:
        self.part, self.verified = part, verified
        self.version = part.with_name(f"{part.name}.json")

    def __call__(self, url: str, output_file: str, _: Any) -> None:
        """Fetch all of ``url``.

        Raises:
            OSError: the server cannot be reached or refuses, or attempts to continue bring nothing.
        """
        most, in_vain = 0, 0
        while True:
            try:
                self._continue(url)
                break
            except _BrokenOff:
                came = self.part.stat().st_size if self.part.is_file() else 0
                most, in_vain = max(most, came), 0 if came > most else in_vain + 1
                if in_vain == _ATTEMPTS:
                    raise
                time.sleep(_PAUSE * in_vain)
        shutil.move(self.part, output_file)
        self.version.unlink(missing_ok=True)

    def _continue(self, url: str) -> None:
        import requests  # noqa: PLC0415  (only who downloads needs it)
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        headers = {"Accept-Encoding": "identity"}
        start = self._resumable()
        if start:
            headers["Range"] = f"bytes={start}-"
            validator = _read_json(self.version).get("validator")
            if validator:
                headers["If-Range"] = validator
        try:
            with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
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
                self._receive(response, start, total)
        except (requests.ConnectionError, requests.Timeout, HTTPError) as error:
            if not self.part.is_file() or isinstance(error, requests.exceptions.SSLError):
                raise OSError(_reason(error)) from error
            raise _BrokenOff(f"the transfer broke off: {_reason(error)}") from error

    def _receive(self, response: Response, start: int, total: int | None) -> None:
        """Write what comes behind the ``start`` bytes that are there."""
        bar = Progress(
            TextColumn("{task.description}"),
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
            # As it is sent: some servers call the compression of a .tar.gz an encoding, which would be undone.
            for chunk in response.raw.stream(_CHUNK, decode_content=False):
                file.write(chunk)
                bar.advance(task, len(chunk))
            came = file.tell()
        if total is not None and came != total:
            if came > total:
                self._forget()
            raise _BrokenOff(f"the transfer broke off after {came} of {total} bytes")

    def _resumable(self) -> int:
        """The number of bytes that are there and can be continued."""
        validator = _read_json(self.version).get("validator")
        if self.part.is_file() and (validator or self.verified):
            return self.part.stat().st_size
        return 0

    def _begin(self, response: Response) -> None:
        """Note which version of the file comes, by what If-Range takes: a strong ETag, or else a date."""
        tag = response.headers.get("ETag", "")
        validator = tag if tag.startswith('"') else response.headers.get("Last-Modified")
        self.part.unlink(missing_ok=True)
        self.version.write_text(json.dumps({"url": response.url, "validator": validator}), encoding="utf-8")

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)


def unpack(archive: Path, target: Path, source: str, *, most_bytes: int = MOST_BYTES) -> None:
    """Unpack a zip or tar archive, compressed or not, into the new folder ``target``.

    What kind it is, its first bytes say. Owners, times and permissions are not kept.

    Args:
        source: where it comes from, named in errors.
        most_bytes: more bytes in all members together are refused, before anything is written that is too much.

    Raises:
        InputError: it is damaged, no archive, has too many bytes, is encrypted, or a member is a link, no plain
            file, or would lie outside ``target``.
    """
    kind = _kind(archive)
    if kind is None:
        raise InputError(f"the download from {source} is neither a zip nor a tar archive; check the address")
    target.mkdir(parents=True)
    members = _zip_members if kind == "zip" else _tar_members
    with _damage_named(source, kind), members(archive) as (opened, listed):
        left = most_bytes
        for member, name, size, problem in listed:
            if problem is not None or not _is_inside(name):
                raise InputError(f"the archive from {source} holds {name!r}, {problem or 'outside its folder'}")
            left -= size
            if left < 0:
                what = f"holds more than {most_bytes / 2**30:.3g} GiB"
                raise InputError(f"the archive from {source} {what}; unpack it yourself and give data.root=PATH")
            if isinstance(opened, zipfile.ZipFile):
                opened.extract(member, target)
            else:
                opened.extract(member, target, filter="data")


def _kind(archive: Path) -> str | None:
    """The kind of an archive, which may be damaged; what is compressed as a whole is said to be a tar archive."""
    with archive.open("rb") as file:
        start = file.read(4)
    if start.startswith(b"PK"):
        return "zip"
    return "tar" if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zX")) or tarfile.is_tarfile(archive) else None


@contextmanager
def _damage_named(source: str, kind: str) -> Iterator[None]:
    try:
        yield
    except tarfile.FilterError as error:
        raise InputError(f"the archive from {source} is not unpacked: {first_line(error)}") from error
    except OSError as error:
        if error.errno is not None:  # of the disk
            what = f"cannot be unpacked ({error.strerror}: {error.filename or 'the cache'})"
            raise InputError(
                f"the archive from {source} {what}; unpack it elsewhere and give data.root=PATH"
            ) from error
        raise InputError(_damaged(source, kind, error)) from error
    except NotImplementedError as error:
        what = f"is compressed in a way that is not read ({first_line(error)})"
        raise InputError(f"the archive from {source} {what}; unpack it and give data.root=PATH") from error
    except _DAMAGE as error:
        raise InputError(_damaged(source, kind, error)) from error


def _damaged(source: str, kind: str, error: BaseException) -> str:
    return f"the download from {source} is not a whole {kind} archive ({first_line(error)}); try again"


@contextmanager
def _zip_members(archive: Path) -> Iterator[tuple[Any, Iterator[tuple[Any, str, int, str | None]]]]:
    """The members of a zip archive: each with its name, its bytes, and what is wrong with it."""
    with zipfile.ZipFile(archive) as opened:
        yield opened, ((one, one.orig_filename, one.file_size, _zip_problem(one)) for one in opened.infolist())


def _zip_problem(member: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "which is a link" if kind == stat.S_IFLNK else "which is no plain file"
    return "which is encrypted" if member.flag_bits & 1 else None


@contextmanager
def _tar_members(archive: Path) -> Iterator[tuple[Any, Iterator[tuple[Any, str, int, str | None]]]]:
    """The members of a tar archive: each with its name, its bytes, and what is wrong with it.

    Links are refused, but for a second name of a member that is inside; tarfile's filter sees to that.
    """
    with tarfile.open(archive) as opened:
        yield opened, ((one, one.name, one.size, _tar_problem(one)) for one in opened)


def _tar_problem(member: tarfile.TarInfo) -> str | None:
    if member.issym():
        return "which is a link"
    return None if member.isfile() or member.isdir() or member.islnk() else "which is no plain file"


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return not (path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name))


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


def _read_json(path: Path) -> dict[str, Any]:
    """The values in a small file of ours; none if it is not there, or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
