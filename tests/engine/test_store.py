"""The store: whole or not at all, damaged chunks are made again, and what is in use stays."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import random
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from gradsam_exp.digest import digest
from gradsam_exp.engine import store as module
from gradsam_exp.engine.session import Session
from gradsam_exp.engine.store import Store, StoreSettings, find_store
from gradsam_exp.errors import InputError
from tests.faults.counts import soaked

KEY = digest("key", size=16)


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
    made, _ = Store(tmp_path).get("heatmaps", KEY, make)
    read, facts = Store(tmp_path).get("heatmaps", KEY, make)
    assert make.calls == 1
    assert facts == {"size": [3, 4]}
    assert {name: value.tolist() for name, value in read.items()} == {n: v.tolist() for n, v in made.items()}
    assert read["values"].dtype == torch.float32
    Store(tmp_path).get("heatmaps", digest("another", size=16), make)
    Store(tmp_path).get("quality", KEY, make)
    assert make.calls == 3
    assert not list(tmp_path.rglob("*.partial"))


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    make = Maker()
    for _ in range(2):
        Store(None).get("heatmaps", KEY, make)
    assert make.calls == 2
    assert not list(tmp_path.iterdir())


def test_the_settings_choose_a_store_once_for_a_process(tmp_path: Path):
    session, root = Session(), tmp_path / "a" / "b"
    store = find_store(StoreSettings(root=str(root), max_gb=0.5), session)
    assert (store.root, store.max_bytes) == (root, 2**29)
    assert find_store(StoreSettings(root=f"{root}/../b", max_gb=0.5), session) is store
    assert find_store(StoreSettings(root=str(root), max_gb=1.0), session) is not store
    assert find_store(StoreSettings(enabled=False, root=str(root)), session).root is None
    assert not store.has("heatmaps", KEY)
    store.get("heatmaps", KEY, Maker())
    assert store.has("heatmaps", KEY)
    assert store.size("heatmaps", KEY) == (root / "heatmaps" / f"{KEY}.safetensors").stat().st_size
    assert not Store(None).has("heatmaps", KEY)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"store.root=.*file cannot be written to .* or store.enabled=false"):
        find_store(StoreSettings(root=str(tmp_path / "file")), session)


@pytest.mark.parametrize("damage", ["flipped byte", "other facts", "truncated", "empty"])
def test_a_damaged_chunk_is_reported_and_made_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture):
    make = Maker()
    Store(tmp_path).get("heatmaps", KEY, make)
    path = tmp_path / "heatmaps" / f"{KEY}.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "flipped byte":
        content[-100] ^= 1
    if damage == "other facts":
        content = content.replace(b"[3, 4]", b"[3, 5]")
    path.write_bytes({"truncated": content[:-50], "empty": b""}.get(damage, content))
    with caplog.at_level(logging.WARNING):
        read, _ = Store(tmp_path).get("heatmaps", KEY, make)
    assert f"{KEY}.safetensors is damaged and is made again" in caplog.text
    assert make.calls == 2
    assert read["values"].eq(1).all()
    Store(tmp_path).get("heatmaps", KEY, make)
    assert make.calls == 2, "it is whole again"


def test_whichever_bit_is_flipped_the_chunk_counts_as_damaged(tmp_path: Path):
    def make():
        return {"values": torch.arange(5.0) / 3, "flags": torch.tensor([True, False])}, {"size": [3, 4]}

    Store(tmp_path).get("heatmaps", KEY, make)
    path = tmp_path / "heatmaps" / f"{KEY}.safetensors"
    whole = path.read_bytes()
    assert Store(tmp_path).peek(f"heatmaps/{KEY}") is not None
    unnoticed = []
    for bit in range(0, 8 * len(whole), soaked(19, 1)):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        if Store(tmp_path).peek(f"heatmaps/{KEY}") is not None:
            unnoticed.append(bit)
    assert unnoticed == []


class _Runs:
    """What runs a program when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("instead", ["pickle", "torch", "pipe", "folder", "device", "dangling"])
def test_what_is_no_chunk_is_neither_run_nor_waited_for(
    tmp_path: Path, instead: str, caplog: pytest.LogCaptureFixture
):
    path, ran = tmp_path / "heatmaps" / f"{KEY}.safetensors", tmp_path / "ran"
    path.parent.mkdir()
    make = {
        "pickle": lambda: path.write_bytes(pickle.dumps(_Runs(ran))),
        "torch": lambda: torch.save({"values": _Runs(ran)}, path),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "device": lambda: path.symlink_to("/dev/zero"),
        "dangling": lambda: path.symlink_to(tmp_path / "nowhere"),
    }
    make[instead]()
    for store in (Store(tmp_path), Store(tmp_path)):
        made, _ = store.get("heatmaps", KEY, Maker())
        assert made["values"].eq(1).all()
    assert not ran.exists()
    assert not (tmp_path / "nowhere").exists(), "nothing is written where a link leads"
    if instead not in ("folder", "dangling"):  # a folder stays where it is
        assert caplog.text.count("damaged") == 1
    if instead != "folder":
        assert path.is_file()
        assert not path.is_symlink()


def test_the_least_recently_used_go_but_not_what_is_in_use(tmp_path: Path):
    first, second, third, fourth = (digest(k, size=16) for k in range(4))
    for name in (first, second):  # of other processes
        Store(tmp_path).get("heatmaps", name, Maker())
    store = Store(tmp_path, max_bytes=10_000)
    long_ago = time.time() - module.IN_USE_S - 100
    for age, name in enumerate((second, first)):
        os.utime(tmp_path / "heatmaps" / f"{name}.safetensors", (long_ago + age, long_ago + age))
    store.get("heatmaps", third, Maker())
    assert {path.stem for path in tmp_path.rglob("*.safetensors")} == {first, third}
    store.get("heatmaps", first, Maker())  # read: in use again
    store.get("heatmaps", fourth, Maker())
    assert {path.stem for path in tmp_path.rglob("*.safetensors")} == {first, third, fourth}
    assert {path.stem for path in tmp_path.rglob("*.lock")} == {first, third, fourth}


def test_of_what_a_run_needs_itself_as_much_as_fits_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(module, "IN_USE_S", -1.0)
    names, made = [digest(k, size=16) for k in range(10)], []
    store = Store(tmp_path, max_bytes=8 * 4_300)  # eight of the ten
    for _ in range(4):
        makers = [Maker() for _ in names]
        for name, maker in zip(names, makers, strict=True):
            store.get("heatmaps", name, maker)
            time.sleep(0.002)  # file systems count time in steps
        made.append(sum(maker.calls for maker in makers))
    assert made[0] == 10
    assert all(number <= 4 for number in made[1:]), made
    assert caplog.text.count("too small for this run") == 1
    assert "give store.max_gb more than" in caplog.text


def test_bf16_tensors_are_kept(tmp_path: Path):
    values = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    for _ in range(2):
        kept, _ = Store(tmp_path).get("heatmaps", KEY, lambda: ({"values": values}, None))
        assert torch.equal(kept["values"], values)


def test_a_full_disk_costs_the_store_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    made, _ = Store(tmp_path).get("heatmaps", KEY, Maker())
    assert made["values"].eq(1).all()
    assert "No space left on device" in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_folder_that_cannot_be_written_to_costs_the_store_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").write_text("not a folder")
    store = Store(tmp_path / "file")
    for _ in range(2):
        made, _ = store.get("heatmaps", KEY, Maker())
        assert made["values"].eq(1).all()
    assert caplog.text.count("cannot be used as a store") == 1


def _slowly(root: Path, calls: Path) -> None:
    def make():
        with calls.open("a") as file:
            file.write("made\n")
        time.sleep(0.5)
        return {"values": torch.ones(3)}, None

    tensors, _ = Store(root).get("heatmaps", KEY, make)
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


KEYS = [digest(["shared", k], size=16) for k in range(12)]


def _worker(root: Path, number: int) -> None:
    """Reads and writes chunks in an order of its own; the store holds few of them, and some are damaged."""
    module.IN_USE_S = 0.05
    store, order = Store(root, max_bytes=20_000), random.Random(number)
    for turn in range(100):
        k = order.randrange(len(KEYS))
        tensors, facts = store.get("heatmaps", KEYS[k], Maker(value=float(k)))
        assert facts == {"size": [3, 4]}
        assert tensors["values"].tolist() == [float(k)] * 1000
        path = root / "heatmaps" / f"{KEYS[k]}.safetensors"
        if turn % 10 == number:
            with suppress(FileNotFoundError):
                half = path.with_suffix(f".{number}")
                half.write_bytes(path.read_bytes()[:2000])
                half.replace(path)


@pytest.mark.slow
def test_eight_processes_on_one_store_that_is_too_small_read_what_is_right(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_worker, args=(tmp_path, number)) for number in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 8
    assert not list(tmp_path.rglob("*.partial"))
    assert {path.stem for path in tmp_path.rglob("*.safetensors")} <= set(KEYS)


@pytest.mark.slow
def test_a_process_that_was_killed_holds_nobody_up_and_leaves_nothing_half_made(tmp_path: Path):
    def forever(root: Path) -> None:
        def make():
            (root / "begun").touch()
            time.sleep(600)

        Store(root).get("heatmaps", KEY, make)

    process = multiprocessing.get_context("fork").Process(target=forever, args=(tmp_path,))
    process.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    process.kill()
    process.join(60)
    start = time.monotonic()
    made, _ = Store(tmp_path).get("heatmaps", KEY, Maker())
    assert made["values"].eq(1).all()
    assert time.monotonic() - start < 5
    assert [path.name for path in tmp_path.rglob("*.*") if path.suffix != ".lock"] == [f"{KEY}.safetensors"]


def test_only_what_a_store_has_made_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whoever puts a store on a folder of their own, with any size, loses nothing."""
    monkeypatch.setattr(module, "IN_USE_S", -1.0)
    own = [tmp_path / "models" / "my.safetensors", tmp_path / "images" / "my.safetensors"]
    own += [tmp_path / "models" / f"{digest('x', size=16)}.safetensors", tmp_path / "images" / "my.partial"]
    own += [tmp_path / "images" / f"{digest('x', size=16)}.partial"]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
    store = Store(tmp_path, max_bytes=1)
    for k in range(3):
        store.get("heatmaps", digest(k, size=16), Maker())
    assert [path for path in own if not path.exists()] == []
    assert len(list((tmp_path / "heatmaps").glob("*.safetensors"))) == 1, "the store itself is emptied"


def test_a_chunk_that_could_never_be_deleted_is_refused(tmp_path: Path):
    for stage, key in (("models", KEY), ("images", "my"), ("images", f"../{KEY}")):
        with pytest.raises(ValueError, match="is no place in a store"):
            Store(tmp_path).get(stage, key, Maker())


def test_peeking_leaves_no_trace(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    Store(tmp_path).get("heatmaps", KEY, Maker())
    path = tmp_path / "heatmaps" / f"{KEY}.safetensors"
    os.utime(path, (1000, 1000))
    (tmp_path / "heatmaps" / f"{KEY}.lock").unlink(missing_ok=True)
    found = Store(tmp_path, max_bytes=1).peek(f"heatmaps/{KEY}")
    assert found is not None
    assert found[0]["values"].eq(1).all()
    assert path.stat().st_mtime == 1000
    assert [path.name for path in tmp_path.rglob("*.*")] == [f"{KEY}.safetensors"]
    (tmp_path / "secret.safetensors").write_bytes(path.read_bytes())
    for place in (f"images/{KEY}", "heatmaps/../secret", f"heatmaps/../heatmaps/{KEY}", "", f"heatmaps/{KEY}/"):
        assert Store(tmp_path).peek(place) is None
    assert Store(None).peek(f"heatmaps/{KEY}") is None
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert Store(tmp_path).peek(f"heatmaps/{KEY}") is None, "damaged"
    assert path.exists()
    path.unlink()
    os.mkfifo(path)
    assert Store(tmp_path).peek(f"heatmaps/{KEY}") is None, "a pipe is not waited for"
    assert caplog.text == ""
