"""This module fetches archives of data sets into the user cache: once, checked, continued where one broke off."""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from gradsam_exp.errors import InputError, first_line
from gradsam_exp.weights.transfer import LIMITS, DownloadLimits, Transfer, read_json

MOST_BYTES = 2**36
"""Archives that hold more, 64 GiB once unpacked, are refused."""
_CHECKSUM = re.compile(r"(?:sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})", re.IGNORECASE)
_PAUSE = 1.0  # s before a second attempt that follows one which has brought nothing
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError)


def fetch_archive(
    url: str, checksum: str | None = None, *, most_bytes: int = MOST_BYTES, limits: DownloadLimits = LIMITS
) -> Path:
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
        limits: when the transfer is given up.

    Raises:
        InputError: no network, hardly any byte, another checksum, a damaged archive, too many bytes, or a member
            that is a link or would lie outside the folder.
    """
    import pooch  # noqa: PLC0415  (only who downloads needs it)

    if checksum is not None and not _CHECKSUM.fullmatch(checksum):
        what = "is no checksum; it has 64 hexadecimal digits as SHA-256, 32 as MD5"
        raise InputError(f"{checksum.partition(':')[2] or checksum!r} {what}")
    key = hashlib.sha256(f"{url} {(checksum or '').lower()}".encode()).hexdigest()[:16]
    cache = Path(pooch.os_cache("gradsam_exp")) / "archives"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = cache / f"{key}.lock"
        with FileLock(lock, mode=0o666):
            try:
                return _fetched(url, checksum, cache, key, most_bytes, limits)
            except InputError:
                lock.unlink(missing_ok=True)
                with suppress(OSError):  # it holds something else
                    cache.rmdir()
                raise
    except OSError as error:
        raise InputError(
            f"the cache {cache} cannot be written ({first_line(error)}); give data.root=PATH"
        ) from error


def _fetched(
    url: str, checksum: str | None, cache: Path, key: str, most_bytes: int, limits: DownloadLimits
) -> Path:
    """The folder of an archive's members; the caller has locked ``key``."""
    import pooch  # noqa: PLC0415  (see above)

    record = cache / f"{key}.json"  # says which folder an address led to
    known = read_json(record).get("sha256")
    if isinstance(known, str) and re.fullmatch(r"[0-9a-f]{64}", known) and (cache / known).is_dir():
        return cache / known
    transfer = Transfer(cache / f"{key}.part", checksum is not None, limits, pause=_PAUSE)
    name = f"{key}-{PurePosixPath(urlsplit(url).path).name[-80:] or 'archive'}"
    stale = cache / name
    stale.unlink(missing_ok=True)  # of a process that was killed while it unpacked
    try:
        archive = Path(pooch.retrieve(url, checksum, fname=name, path=cache, downloader=transfer))
    except (OSError, ValueError) as error:
        kept = transfer.kept / 2**20
        again = f" {kept:.1f} MiB are kept, and the next run continues;" if kept else ""
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
                    partial.replace(cache / sha256)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    finally:
        archive.unlink(missing_ok=True)
    record.write_text(json.dumps({"url": url, "sha256": sha256}), encoding="utf-8")
    return cache / sha256


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
