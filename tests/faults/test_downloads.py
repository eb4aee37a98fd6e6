"""A server that is slow, silent or endless is given up in time, with one line, and leaves nothing behind."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from gradsam_exp.classifiers.classifier import build_backbone
from gradsam_exp.data import download
from gradsam_exp.data.backgrounds import BACKGROUNDS
from gradsam_exp.data.download import fetch_archive, unpack
from gradsam_exp.errors import InputError
from gradsam_exp.segmenters.checkpoints import cached_or_downloaded
from gradsam_exp.weights import transfer
from gradsam_exp.weights.hub import hub_file
from gradsam_exp.weights.transfer import DownloadLimits, Transfer, fetch_weights
from tests.data.test_download import FILES, zipped

Send = Callable[[bytes], None]
LIMITS = DownloadLimits(timeout=0.4, min_rate=1000)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"


class Slow:
    """A server that answers every request by what a function sends."""

    def __init__(self, answer: Callable[[Send], None]) -> None:
        self.answer, self.ended = answer, threading.Event()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/file.bin"
        self.asked = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                self.asked += 1
                threading.Thread(target=self._reply, args=(connection,), daemon=True).start()

    def _reply(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.recv(10_000)
            self.answer(connection.sendall)

    def drip(self, send: Send, content: bytes, pause: float = 0.05) -> None:
        """Send one byte after the other."""
        for byte in content:
            send(bytes([byte]))
            if self.ended.wait(pause):
                return


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "cache"


@pytest.fixture
def slow(request: pytest.FixtureRequest) -> Iterator[Slow]:
    """A server that is slow in one of many ways."""
    ways = {
        "silent": lambda send: server.ended.wait(60),
        "silent after its head": lambda send: (send(HEAD), server.ended.wait(60)),
        "silent after some bytes": lambda send: (send(HEAD + bytes(5000)), server.ended.wait(60)),
        "head byte by byte": lambda send: server.drip(send, HEAD),
        "bytes one by one": lambda send: (send(HEAD), server.drip(send, bytes(2000))),
        "chunks one by one": lambda send: (
            send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            server.drip(send, b"1\r\na\r\n" * 2000, pause=0.02),
        ),
    }
    server = Slow(ways[request.param])
    yield server
    server.ended.set()
    server.socket.close()


WAYS = ["silent", "silent after its head", "silent after some bytes", "head byte by byte", "bytes one by one"]
WAYS += ["chunks one by one"]


@pytest.mark.parametrize("slow", WAYS, indirect=True)
def test_a_slow_server_is_given_up_in_time_and_leaves_nothing(slow: Slow, cache: Path):
    began = time.monotonic()
    with pytest.raises(InputError, match=r"(nothing came for 0\.4 s|less than 1000 bytes a second)") as caught:
        fetch_archive(slow.url, limits=LIMITS)
    assert time.monotonic() - began < 10
    assert "\n" not in str(caught.value)
    assert "download." in str(caught.value), "which knob it is"
    assert slow.asked == 1
    assert not list((cache / "gradsam_exp").iterdir())


@pytest.mark.parametrize("slow", ["bytes one by one"], indirect=True)
def test_weights_from_a_slow_server_are_given_up_too(slow: Slow, cache: Path, monkeypatch: pytest.MonkeyPatch):
    published = {"DEFAULT": SimpleNamespace(url=slow.url)}
    monkeypatch.setattr("torchvision.models.get_model_weights", lambda _: published)
    monkeypatch.setattr("torchvision.datasets.CIFAR10.url", slow.url)
    asked = [
        lambda: cached_or_downloaded(slow.url, "sam.pth", "0" * 64, LIMITS),
        lambda: hub_file(slow.url, LIMITS),
        lambda: build_backbone("resnet18", 5, pretrained=True, limits=LIMITS),
        lambda: BACKGROUNDS.build({"name": "cifar10", "download": vars(LIMITS)}, split="test"),
    ]
    for ask in asked:
        began = time.monotonic()
        with pytest.raises(InputError, match="could not be downloaded"):
            ask()
        assert time.monotonic() - began < 10
    assert slow.asked == len(asked)
    assert [path for path in cache.parent.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("slow", ["bytes one by one"], indirect=True)
def test_a_transfer_has_an_end(slow: Slow, tmp_path: Path):
    patient = DownloadLimits(timeout=60, min_rate=0, max_hours=0.3 / 3600)
    with pytest.raises(OSError, match=r"it is not here after .* hours"):
        Transfer(tmp_path / "part", verified=False, limits=patient)(slow.url, str(tmp_path / "file"))
    assert not list(tmp_path.glob("[pf]*"))


def test_what_came_of_a_large_file_before_it_stalled_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transfer, "WORTH_KEEPING", 3000)
    head = HEAD[:-2] + b'ETag: "one"\r\n\r\n'
    server = Slow(lambda send: (send(head + bytes(5000)), server.ended.wait(60)))
    with pytest.raises(InputError, match=r"nothing came.* are kept, and the next run continues"):
        fetch_archive(server.url, limits=LIMITS)
    assert [path.stat().st_size for path in cache.rglob("*.part")] == [5000]
    server.ended.set()
    server.socket.close()


def test_an_endless_file_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transfer, "MOST_BYTES", 100_000)

    def flood(send: Send) -> None:
        send(b"HTTP/1.1 200 OK\r\n\r\n")
        while not server.ended.is_set():
            send(bytes(10_000))

    server = Slow(flood)
    with pytest.raises(OSError, match="it is larger than"):
        Transfer(tmp_path / "part", verified=False)(server.url, str(tmp_path / "file"))
    assert not list(tmp_path.glob("[pf]*"))
    server.ended.set()
    server.socket.close()


def test_two_who_fetch_one_file_at_once_fetch_it_once(tmp_path: Path):
    content = zipped()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    server = Slow(lambda send: (server.ended.wait(0.3), send(head + content)))
    for fetch in (
        lambda: fetch_weights(server.url, tmp_path / "weights" / "file.bin"),
        lambda: fetch_archive(server.url),
    ):
        server.asked = 0
        with ThreadPoolExecutor(3) as threads:
            found = [threads.submit(fetch) for _ in range(3)]
        assert len({one.result() for one in found}) == 1
        assert server.asked == 1
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["file.bin"]
    server.socket.close()


def test_two_who_unpack_one_file_at_once_unpack_it_once(monkeypatch: pytest.MonkeyPatch):
    """Two addresses, one archive; the second comes while the first unpacks."""
    content, unpacked, coming = zipped(), [], threading.Barrier(2)
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    server = Slow(lambda send: (coming.wait(60), send(head + content)))

    def slowly(archive: Path, *others, **more) -> None:
        time.sleep(0.3)
        unpack(archive, *others, **more)
        unpacked.append(archive)

    monkeypatch.setattr(download, "unpack", slowly)
    with ThreadPoolExecutor(2) as threads:
        found = [threads.submit(fetch_archive, f"{server.url}?{number}") for number in range(2)]
    (folder,) = {one.result() for one in found}
    assert (server.asked, len(unpacked)) == (2, 1)
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")} == FILES
    server.socket.close()


def test_the_knobs_reach_the_download(run, tmp_path: Path):
    server = Slow(lambda send: server.ended.wait(60))
    done = run("data=synthetic_shapes", f"data.url={server.url}", "download.timeout=0.5")
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert "nothing came for 0.5 s (download.timeout)" in done.err
    refused = run("download.timeout=0")
    assert refused.code == 1
    assert refused.err.startswith("gradsam_exp: download.timeout=0: ")
    server.ended.set()
    server.socket.close()
