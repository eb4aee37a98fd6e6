"""The store: whole or not at all, damaged chunks are made again, and what is in use stays."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch

from gradsam_exp.engine import store as module
from gradsam_exp.engine.store import Store


class Maker:
    """Gives the same chunk every time and counts."""

    def __init__(self, value: float = 1.0, size: int = 1000) -> None:
        self.value, self.size, self.calls = value, size, 0

    def __call__(self):
        self.calls += 1
        tensors = {"values": torch.full((self.size,), self.value), "flags": torch.tensor([True, False])}
        return tensors, {"size": [3, 4]}


def test_a_chunk_is_made_once_and_read_back_bit_by_bit(tmp_path: Path):
    make = Maker(value=1 / 3)
    made, _ = Store(tmp_path).get("maps", "key", make)
    read, facts = Store(tmp_path).get("maps", "key", make)
    assert make.calls == 1
    assert facts == {"size": [3, 4]}
    assert {name: value.tolist() for name, value in read.items()} == {n: v.tolist() for n, v in made.items()}
    assert read["values"].dtype == torch.float32
    Store(tmp_path).get("maps", "another key", make)
    Store(tmp_path).get("other", "key", make)
    assert make.calls == 3
    assert not list(tmp_path.rglob("*.partial"))


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    make = Maker()
    for _ in range(2):
        Store(None).get("maps", "key", make)
    assert make.calls == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["flipped byte", "other facts", "truncated", "empty"])
def test_a_damaged_chunk_is_reported_and_made_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture):
    make = Maker()
    Store(tmp_path).get("maps", "key", make)
    path = tmp_path / "maps" / "key.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "flipped byte":
        content[-100] ^= 1
    if damage == "other facts":
        content = content.replace(b"[3, 4]", b"[3, 5]")
    path.write_bytes({"truncated": content[:-50], "empty": b""}.get(damage, content))
    with caplog.at_level(logging.WARNING):
        read, _ = Store(tmp_path).get("maps", "key", make)
    assert "key.safetensors is damaged and is made again" in caplog.text
    assert make.calls == 2
    assert read["values"].eq(1).all()
    Store(tmp_path).get("maps", "key", make)
    assert make.calls == 2, "it is whole again"


def test_the_least_recently_used_go_but_not_what_is_in_use(tmp_path: Path):
    for name in ("first", "second"):  # of other processes
        Store(tmp_path).get("maps", name, Maker())
    store = Store(tmp_path, max_bytes=10_000)
    long_ago = time.time() - module.IN_USE_S - 100
    for age, name in enumerate(("second", "first")):
        os.utime(tmp_path / "maps" / f"{name}.safetensors", (long_ago + age, long_ago + age))
    store.get("maps", "third", Maker())
    assert {path.stem for path in tmp_path.rglob("*.safetensors")} == {"first", "third"}
    store.get("maps", "first", Maker())  # read: in use again
    store.get("maps", "fourth", Maker())
    assert {path.stem for path in tmp_path.rglob("*.safetensors")} == {"first", "third", "fourth"}
    assert {path.stem for path in tmp_path.rglob("*.lock")} == {"first", "third", "fourth"}


def test_of_what_a_run_needs_itself_as_much_as_fits_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(module, "IN_USE_S", -1.0)
    names, made = [f"{k}" for k in range(10)], []
    store = Store(tmp_path, max_bytes=8 * 4_300)  # eight of the ten
    for _ in range(4):
        makers = [Maker() for _ in names]
        for name, maker in zip(names, makers, strict=True):
            store.get("maps", name, maker)
            time.sleep(0.002)  # file systems count time in steps
        made.append(sum(maker.calls for maker in makers))
    assert made[0] == 10
    assert all(number <= 4 for number in made[1:]), made
    assert caplog.text.count("too small for this run") == 1
    assert "give store.max_gb more than" in caplog.text


def test_bf16_tensors_are_kept(tmp_path: Path):
    values = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    for _ in range(2):
        kept, _ = Store(tmp_path).get("maps", "key", lambda: ({"values": values}, None))
        assert torch.equal(kept["values"], values)


def test_a_full_disk_costs_the_store_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    made, _ = Store(tmp_path).get("maps", "key", Maker())
    assert made["values"].eq(1).all()
    assert "No space left on device" in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_folder_that_cannot_be_written_to_costs_the_store_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").write_text("not a folder")
    store = Store(tmp_path / "file")
    for _ in range(2):
        made, _ = store.get("maps", "key", Maker())
        assert made["values"].eq(1).all()
    assert caplog.text.count("cannot be used as a store") == 1


def _slowly(root: Path, calls: Path) -> None:
    def make():
        with calls.open("a") as file:
            file.write("made\n")
        time.sleep(0.5)
        return {"values": torch.ones(3)}, None

    tensors, _ = Store(root).get("maps", "key", make)
    assert tensors["values"].tolist() == [1, 1, 1]


@pytest.mark.slow
def test_processes_that_need_the_same_chunk_make_it_once(tmp_path: Path):
    calls = tmp_path / "calls"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_slowly, args=(tmp_path / "store", calls)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert calls.read_text() == "made\n"


@pytest.mark.slow
def test_a_process_that_was_killed_holds_nobody_up_and_leaves_nothing_half_made(tmp_path: Path):
    def forever(root: Path) -> None:
        def make():
            (root / "begun").touch()
            time.sleep(600)

        Store(root).get("maps", "key", make)

    process = multiprocessing.get_context("fork").Process(target=forever, args=(tmp_path,))
    process.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    process.kill()
    process.join(60)
    start = time.monotonic()
    made, _ = Store(tmp_path).get("maps", "key", Maker())
    assert made["values"].eq(1).all()
    assert time.monotonic() - start < 5
    assert [path.name for path in tmp_path.rglob("*.*") if path.suffix != ".lock"] == ["key.safetensors"]
