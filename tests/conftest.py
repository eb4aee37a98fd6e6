"""Shared pieces: small data, small networks, and a folder of files in the reference layout."""

from __future__ import annotations

import functools
import gc
import http.server
import os
import shutil
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # what shares out the tests needs none of it, and would import it first for many seconds
    from gradsam_exp.classifiers.classifier import ImageClassifier
    from gradsam_exp.data.shapes import Shapes
    from gradsam_exp.segmenters.sam import SamSegmenter
    from gradsam_exp.types import ExampleBatch

os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"

COMMANDS = ("python", "wandb", "gradsam")
gc.set_threshold(50_000, 20, 20)  # so many objects are there that looking at all takes a second
_quick: list[str] = []  # the test that is running, unless it is slow
_started: list[str] = []  # what it has started


def _refuse_processes(event: str, arguments: tuple[object, ...]) -> None:
    command = Path(str(arguments[0])).name if event == "subprocess.Popen" else ""
    starts = event in ("os.fork", "os.posix_spawn", "os.system") or command.startswith(COMMANDS)
    if starts and _quick:
        _started.append(command or event)
        raise AssertionError(f"{_quick[0]} starts a process: mark it slow")


sys.addaudithook(_refuse_processes)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs commands is slow."""
    for item in items:
        if {"run", "command"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Keep the quick tests from starting processes, by whichever way."""
    if item.get_closest_marker("slow") is None:
        _quick.append(item.nodeid)
    try:
        return (yield)
    finally:
        _quick.clear()
        _started.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape what a test has logged that is no Unicode, which the processes of a parallel run cannot send."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail also where the program has coped with the refusal, as it does with a tracker that cannot start."""
    del item
    yield
    assert not _started, f"starts {', '.join(_started)}: mark it slow"


@pytest.fixture(scope="session")
def shapes() -> Shapes:
    from gradsam_exp.data.backgrounds import Mixed
    from gradsam_exp.data.shapes import Shapes

    return Shapes("test", Mixed("test"), length=8)


@pytest.fixture(scope="session")
def batch(shapes: Shapes) -> ExampleBatch:
    from gradsam_exp.data.base import collate

    return collate([shapes[k] for k in range(8)])


@pytest.fixture
def classifier() -> ImageClassifier:
    import torch

    from gradsam_exp.classifiers.classifier import ImageClassifier
    from gradsam_exp.data.shapes import SHAPES

    torch.manual_seed(0)
    return ImageClassifier("resnet18", SHAPES).eval()


@pytest.fixture(scope="session")
def segmenter() -> SamSegmenter:
    """The compact architecture with random weights, loaded."""
    import torch

    from gradsam_exp.segmenters.compact import build_compact
    from gradsam_exp.segmenters.sam import SamSegmenter

    torch.manual_seed(0)
    segmenter = SamSegmenter(build_compact, "random")
    segmenter.load(torch.device("cpu"))
    return segmenter


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gradsam_exp.data.backgrounds import Mixed
    from gradsam_exp.data.shapes import Shapes
    from gradsam_exp.data.synthetic_shapes import export

    root = tmp_path_factory.mktemp("exported")
    for split in ("train", "val", "test"):
        export(Shapes(split, Mixed(split), length=10), root)
    return root


@pytest.fixture
def shape_files(exported: Path, tmp_path: Path) -> Path:
    """Ten images of each split in the layout of ``data=synthetic_shapes``; the test may spoil them."""
    return shutil.copytree(exported, tmp_path / "synthetic shapes")


class _Server:
    """Serves a folder on localhost for the length of a test."""

    def __init__(self, folder: Path) -> None:
        handler = functools.partial(_Quiet, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder served on localhost, its address, and an empty user cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "www").mkdir()
    server = _Server(tmp_path / "www")
    yield tmp_path / "www", server.url
    server.server.shutdown()
