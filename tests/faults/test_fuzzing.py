"""Every reader of files is given damaged ones: it reads them or says in an `InputError` what is wrong.

``make soak`` gives each reader two minutes and prints how many files it was given.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gradsam_exp.data.masks import read_mask
from gradsam_exp.data.pictures import inspect_picture, read_rgb
from gradsam_exp.digest import digest
from gradsam_exp.engine.store import Store
from gradsam_exp.errors import InputError
from gradsam_exp.runs.folder import Run
from gradsam_exp.weights import open_weights, read_pickle, save_weights
from tests.faults.counts import SOAKING, soaked
from tests.reports.finished_runs import write_run

SECONDS = soaked(1.0, 120.0)
LEAST = 20  # files, however slow the machine is
NAMES = ("metrics.json", "provenance.json", "per_image.parquet", ".hydra/config.yaml", ".hydra/overrides.yaml")
WORDS = (b"${oc.env:HOME}", b"!!python/name:os.system", b"\x00", b"\xff\xfe", b"NaN", b"-1", b"1e999", b"[" * 500)
KEY = digest("key", size=16)
COLOURS = np.random.default_rng(0).integers(0, 256, (9, 11, 4), dtype=np.uint8)
OBJECT = np.zeros((9, 11, 3), dtype=np.uint8)
OBJECT[2:6, 3:9] = 255


def damaged(content: bytes, chance: random.Random) -> bytes:
    """A file as it might be after an accident, or after somebody has tried something."""
    made = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(made) + 1)
        match chance.randrange(5):
            case 0 if made:
                made[at % len(made)] ^= 1 << chance.randrange(8)
            case 1:
                del made[at : at + chance.choice((1, 4, 100))]
            case 2:
                made[at:at] = chance.choice(WORDS)
            case 3:
                other = chance.randrange(len(made) + 1)
                made[at : at + 16] = made[other : other + 16]
            case _:
                made[at:] = chance.randbytes(chance.randrange(40))
    return bytes(made)


def pictures(
    folder: Path, values: np.ndarray = COLOURS, read: Callable[[Path], object] = read_rgb
) -> Mapping[Path, Callable[[Path], object]]:
    found = {}
    for kind, mode in (("png", "P"), ("png", "RGBA"), ("jpeg", "L"), ("gif", "P"), ("bmp", "RGB"), ("tiff", "L")):
        if values is OBJECT and kind == "jpeg":
            continue  # whose values are no longer two
        path = folder / f"{mode}.{kind}"
        Image.fromarray(values).convert(mode).save(path)
        found[path] = read
    return found


def masks(folder: Path) -> Mapping[Path, Callable[[Path], object]]:
    return pictures(folder, OBJECT, lambda path: (inspect_picture(path), read_mask(path)))


def checkpoints(folder: Path) -> Mapping[Path, Callable[[Path], object]]:
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
    ours = save_weights(folder / "ours.safetensors", state, {"kind": "compact"})
    torch.save({"state_dict": state, "epoch": 3}, folder / "theirs.pth")
    return {
        ours: lambda path: open_weights(path).tensors(),
        folder / "theirs.pth": lambda path: read_pickle(path, "state dict", key="x"),
    }


def chunks(folder: Path) -> Mapping[Path, Callable[[Path], object]]:
    store, made = Store(folder), ({"values": torch.arange(5.0)}, {"size": [3, 4]})
    store.get("heatmaps", KEY, lambda: made)

    def read(path: Path) -> None:
        found = store.peek(f"heatmaps/{KEY}")
        assert found is None or (torch.equal(found[0]["values"], torch.arange(5.0)) and found[1] == made[1])

    return {folder / "heatmaps" / f"{KEY}.safetensors": read}


def run_folders(folder: Path) -> Mapping[Path, Callable[[Path], object]]:
    run = write_run(folder / "run", {"pipeline": "fgbg"}, [0.5] * 4, config={"task": {"name": "evaluate"}})
    (run / "prepared.json").write_text(json.dumps({"chunks": [{"example_ids": ["a"], "stored": {}}]}))

    def read(path: Path) -> None:
        opened = Run(run)
        if opened.problem is None:
            _ = opened.given, opened.command, opened.config, opened.backbone, opened.outcome
            _ = opened.is_whole, opened.identity
        for what in ("predictions", "prepared"):
            try:
                getattr(opened, what)
            except InputError:
                continue

    return {run / name: read for name in (*NAMES, "predictions.parquet", "prepared.json")}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("readers", [pictures, masks, checkpoints, chunks, run_folders])
def test_damaged_files_are_read_or_refused(
    tmp_path: Path, readers: Callable[[Path], Mapping[Path, Callable[[Path], object]]], capsys
):
    chance, opened = random.Random(22), list(readers(tmp_path).items())
    whole = {path: path.read_bytes() for path, _ in opened}
    for path, read in opened:
        read(path)
    given = refused = 0
    began = time.monotonic()
    while given < LEAST or time.monotonic() - began < SECONDS:
        path, read = chance.choice(opened)
        content = damaged(whole[path], chance)
        path.write_bytes(content)
        try:
            read(path)
        except InputError:
            refused += 1
        except BaseException as error:
            (tmp_path / "found").write_bytes(content)
            raise AssertionError(f"{path.name}: {error!r}; the file is {tmp_path / 'found'}") from error
        finally:
            path.write_bytes(whole[path])
        given += 1
    with capsys.disabled() if SOAKING else nullcontext():
        print(f"\nsoak: {readers.__name__}: {given} damaged files, {refused} refused, none did anything else")
