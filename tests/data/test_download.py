"""Archives from the network: fetched once, continued, checked, and unpacked where they belong."""

import hashlib
import http.server
import io
import shutil
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gradsam_exp.data import download
from gradsam_exp.data.base import DATASETS
from gradsam_exp.data.download import fetch_archive, unpack
from gradsam_exp.errors import InputError

FILES = {"set/images/a.bin": bytes(range(256)) * 40, "set/names.txt": "Äpfel\n".encode()}


def zipped(files: dict[str, bytes] = FILES) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(files: dict[str, bytes] = FILES, mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def found(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def left(cache: Path) -> list[str]:
    """What a failed fetch leaves behind, locks aside."""
    return [path.name for path in cache.rglob("*") if path.name != "archives" and path.suffix not in {"", ".lock"}]


class Server:
    """One file on localhost, of which each request may get less than it asks for."""

    def __init__(self, content: bytes) -> None:
        self.content, self.etag, self.ranges = content, '"one"', True
        self.breaks: list[int] = []  # bytes that the next requests get
        self.asked: list[str | None] = []  # the ranges of the requests
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                server.asked.append(wanted)
                start = 0
                if wanted and server.ranges and self.headers.get("If-Range", server.etag) == server.etag:
                    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                size = len(server.content)
                if start >= size:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{size}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
                if server.etag:
                    self.send_header("ETag", server.etag)
                self.send_header("Content-Length", str(size - start))
                self.end_headers()
                end = start + server.breaks.pop(0) if server.breaks else size
                self.wfile.write(server.content[start:end])
                self.close_connection = True

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/set.zip"

    @property
    def md5(self) -> str:
        return "md5:" + hashlib.md5(self.content).hexdigest()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "_PAUSE", 0)
    return tmp_path / "cache"


@pytest.fixture
def server(cache: Path) -> Iterator[Server]:
    server = Server(zipped())
    yield server
    server.http.shutdown()


KINDS = {
    "zip": zipped(),
    "tar": tarred(mode="w"),
    "tar.gz": tarred(),
    "tar.xz": tarred(mode="w:xz"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_archive_is_unpacked_once_and_is_not_kept(server: Server, cache: Path, kind: str):
    server.content = KINDS[kind]
    folder = fetch_archive(server.url, server.md5)
    assert found(folder) == FILES
    assert folder.name == hashlib.sha256(server.content).hexdigest()
    assert fetch_archive(server.url, server.md5) == folder
    assert server.asked == [None]
    assert not list(cache.rglob("*.zip")), "the archive takes no room once it is unpacked"


def test_a_transfer_that_stops_in_the_middle_is_continued(server: Server):
    server.breaks = [1000, 500]
    assert found(fetch_archive(server.url)) == FILES
    assert server.asked == [None, "bytes=1000-", "bytes=1500-"]


def test_what_came_is_kept_for_the_next_call_if_the_server_stays_away(server: Server, cache: Path):
    server.breaks = [1000, 0, 0, 0]
    with pytest.raises(InputError, match=r"broke off.*are kept, and the next run continues.*data\.root=PATH"):
        fetch_archive(server.url)
    (part,) = cache.rglob("*.part")
    assert part.read_bytes() == server.content[:1000]
    server.asked.clear()
    assert found(fetch_archive(server.url)) == FILES
    assert server.asked == ["bytes=1000-"]
    assert not list(cache.rglob("*.part*"))


def test_a_server_without_ranges_sends_all_again(server: Server):
    server.ranges, server.breaks = False, [1000]
    assert found(fetch_archive(server.url)) == FILES


def test_parts_of_two_versions_are_never_joined(server: Server):
    server.breaks = [1000, 0, 0, 0]
    with pytest.raises(InputError):
        fetch_archive(server.url)
    server.content, server.etag = zipped({"other.txt": b"x" * 5000}), '"two"'
    assert found(fetch_archive(server.url)) == {"other.txt": b"x" * 5000}


def test_without_etag_or_date_only_a_known_checksum_allows_to_continue(server: Server):
    server.etag, server.breaks = "", [1000]
    assert found(fetch_archive(server.url)) == FILES
    assert server.asked == [None, None]
    server.asked.clear()
    server.breaks = [1000]
    assert found(fetch_archive(server.url, server.md5)) == FILES
    assert server.asked == [None, "bytes=1000-"]


def test_a_whole_file_whose_checksum_is_wrong_is_removed_and_fetched_again(server: Server, cache: Path):
    good, known = server.content, server.md5
    server.content = good[:1000] + bytes(len(good) - 1000)
    with pytest.raises(InputError, match=r"could not be fetched.*hash"):
        fetch_archive(server.url, known)
    assert left(cache) == []
    server.content = good
    assert found(fetch_archive(server.url, known)) == FILES


@pytest.mark.parametrize("more", [b"", b"what another version had"])
def test_a_part_that_is_whole_is_used_and_one_that_is_longer_is_not(server: Server, cache: Path, more: bytes):
    server.breaks = [1000, 0, 0, 0]
    with pytest.raises(InputError):
        fetch_archive(server.url)
    (part,) = cache.rglob("*.part")
    part.write_bytes(server.content + more)
    server.asked.clear()
    assert found(fetch_archive(server.url)) == FILES
    assert len(server.asked) == (2 if more else 1)


def test_two_addresses_with_one_file_name_have_their_own_files(served):
    www, url = served
    for name, content in (("one", {"a": b"1"}), ("two", {"a": b"2"})):
        (www / name).mkdir()
        (www / name / "set.zip").write_bytes(zipped(content))
    first, second = (fetch_archive(f"{url}/{name}/set.zip") for name in ("one", "two"))
    assert (found(first), found(second)) == ({"a": b"1"}, {"a": b"2"})
    assert fetch_archive(f"{url}/one/set.zip") == first


@pytest.mark.parametrize("checksum", ["sha256:abc", "md5:" + "0" * 64, "0" * 64, "sha1:" + "0" * 40])
def test_what_is_no_checksum_is_refused_before_anything_is_fetched(server: Server, checksum: str):
    with pytest.raises(InputError, match="is no checksum"):
        fetch_archive(server.url, checksum)
    assert server.asked == []


def linked(kind: bytes, target: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = kind, target
        archive.addfile(member)
    return stream.getvalue()


def zipped_link() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        member = zipfile.ZipInfo("link")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    return stream.getvalue()


def corrupted(archive: bytes) -> bytes:
    """The same with another byte inside its first member."""
    middle = archive.index(FILES["set/images/a.bin"][:64]) + 100
    return archive[:middle] + b"?" + archive[middle + 1 :]


REFUSED = {
    "zip, above": (zipped({"../evil": b"x"}), r"holds '\.\./evil', outside its folder"),
    "zip, above, inside": (zipped({"a/../../evil": b"x"}), r"outside its folder"),
    "zip, absolute": (zipped({"/evil": b"x"}), r"holds '/evil', outside its folder"),
    "zip, drive": (zipped({"C:\\evil": b"x"}), r"outside its folder"),
    "zip, backslashes": (zipped({"..\\evil": b"x"}), r"outside its folder"),
    "zip, link": (zipped_link(), r"holds 'link', which is a link"),
    "zip, truncated": (zipped()[:-30], r"not a whole zip archive.*try again"),
    "zip, corrupted": (corrupted(zipped()), r"not a whole zip archive \(Bad CRC-32"),
    "tar, above": (tarred({"../evil": b"x"}), r"holds '\.\./evil', outside its folder"),
    "tar, absolute": (tarred({"/evil": b"x"}), r"outside its folder"),
    "tar, link": (linked(tarfile.SYMTYPE, "/etc/passwd"), r"holds 'link', which is a link"),
    "tar, hard link": (linked(tarfile.LNKTYPE, "../../evil"), r"is not unpacked"),
    "tar, device": (linked(tarfile.CHRTYPE, ""), r"holds 'link', which is no plain file"),
    "tar, truncated": (tarred(mode="w")[:3000], r"not a whole tar archive"),
    "tar.gz, truncated": (tarred()[:-30], r"not a whole tar archive"),
    "tar.gz, its first bytes only": (tarred()[:20], r"not a whole tar archive"),
    "too much": (zipped({"a": bytes(70_000), "b": bytes(40_000)}), r"holds more than .* GiB; unpack it yourself"),
    "a page": (b"<!DOCTYPE html><title>Sign in</title>" * 100, r"neither a zip nor a tar archive"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_archives_that_are_not_unpacked_leave_nothing(server: Server, cache: Path, tmp_path: Path, what: str):
    server.content, message = REFUSED[what]
    with pytest.raises(InputError, match=message) as caught:
        fetch_archive(server.url, most_bytes=100_000)
    assert "\n" not in str(caught.value)
    assert left(cache) == []
    assert not list(tmp_path.rglob("evil"))
    assert not [path for path in (cache / "gradsam_exp/archives").iterdir() if path.is_dir()]


def test_an_encrypted_archive_is_refused(tmp_path: Path):
    content = bytearray(zipped({"a": b"secret"}))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match="'a', which is encrypted"):
        unpack(tmp_path / "a.zip", tmp_path / "out", "here")


def test_a_second_name_of_a_member_is_allowed_inside(tmp_path: Path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        one, two = tarfile.TarInfo("one"), tarfile.TarInfo("two")
        one.size, two.type, two.linkname = 3, tarfile.LNKTYPE, "one"
        archive.addfile(one, io.BytesIO(b"abc"))
        archive.addfile(two)
    unpack(tmp_path / "a.tar", tmp_path / "out", "here")
    assert found(tmp_path / "out") == {"one": b"abc", "two": b"abc"}


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/set.zip", "ftp://127.0.0.1/set.zip", "no address"])
def test_an_address_that_does_not_answer_is_one_line_with_a_hint(cache: Path, url: str):
    with pytest.raises(InputError, match=r"could not be fetched from .*data\.root=PATH") as caught:
        fetch_archive(url)
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written_is_named(cache: Path):
    cache.write_text("a file")
    with pytest.raises(InputError, match=r"cache .* cannot be written.*data\.root=PATH"):
        fetch_archive("http://127.0.0.1:9/set.zip")


@pytest.fixture
def shapes_archive(tmp_path: Path, served) -> tuple[Path, str]:
    """Three images in the layout of the reference data set, as an archive on localhost."""
    base = tmp_path / "files" / "synthetic shapes"
    rng = np.random.default_rng(0)
    for kind in ("images", "masks", "labels"):
        (base / kind / "test").mkdir(parents=True)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(base / f"images/test/{number}.png")
        mask = np.zeros((48, 64), dtype=np.uint8)
        mask[10:20, 10:30] = 255
        Image.fromarray(mask).save(base / f"masks/test/{number}.png")
        (base / f"labels/test/{number}.txt").write_text("star\n")
    www, url = served
    path = Path(shutil.make_archive(str(www / "synthetic_shapes"), "zip", base.parent, base.name))
    return path, f"{url}/synthetic_shapes.zip"


def read_shapes(url: str, **parameters: str):
    return DATASETS.build({"name": "synthetic_shapes", "url": url, **parameters}, split="test")


def test_the_reference_data_set_is_downloaded_once_and_unpacked(shapes_archive):
    archive, url = shapes_archive
    data = read_shapes(url)
    assert len(data) == 3
    assert data[0].examples[0].mask.sum() == 200
    archive.unlink()
    assert read_shapes(url).digest == data.digest


def test_a_damaged_download_is_removed_and_refused(shapes_archive, tmp_path: Path):
    archive, url = shapes_archive
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(InputError, match="not a whole zip archive"):
        read_shapes(url)
    assert not list((tmp_path / "cache").rglob("*synthetic_shapes*")), "nothing damaged stays in the cache"


def test_a_download_with_another_digest_is_refused(shapes_archive, tmp_path: Path):
    _, url = shapes_archive
    with pytest.raises(InputError, match="could not be fetched"):
        read_shapes(url, sha256="0" * 64)
    assert not list((tmp_path / "cache").rglob("*synthetic_shapes*"))


def test_without_network_the_hint_is_named(served):
    _, url = served
    with pytest.raises(InputError, match=r"data\.root=PATH"):
        read_shapes(f"{url}/nowhere.zip")
