"""Pictures in a page are small, and lie where masks and prompts lie."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools import mask as coco

from gradsam_exp.reports import pictures
from gradsam_exp.runs.folder import Run
from tests.reports.finished_runs import write_run


def test_masks_shrink_with_their_picture():
    mask = np.zeros((300, 400), dtype=bool)
    mask[100:200, 50:150] = True
    size, scale = pictures.fitting((400, 300), pictures.SIDE)
    assert (size, scale) == ((160, 120), 0.4)
    small = pictures.shrunk_mask(mask, size)
    assert small.shape == (120, 160)
    assert small.sum() == 40 * 40
    assert small[40:80, 20:60].all()


def test_small_pictures_stay_as_they_are():
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    assert pictures.fitting((64, 48), pictures.SIDE) == ((64, 48), 1)
    kind, _, content = pictures.as_url(Image.fromarray(noise)).partition(",")
    assert kind == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as back:
        assert back.size == (64, 48)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_prompts_and_masks_of_a_run(tmp_path: Path, scale: float):
    run = write_run(tmp_path / "0", {}, [0.5] * 4)
    size = (int(6 * scale), int(4 * scale))
    found = pictures.Pictures(ids=["b", "a"], sizes=[size] * 2, scales=[scale] * 2)
    masks, prompts = pictures.small_predictions(Run(run), found)
    decoded = coco.decode({"size": [size[1], size[0]], "counts": masks[0].encode()})
    xy, labels, boxes = prompts[0]
    assert (labels, boxes) == ("10", [])
    if scale == 1:
        assert decoded.sum() == 6
        assert xy == [3, 1, 0, 0]
    else:
        assert decoded.shape == (2, 3)
        assert xy == pytest.approx([1.2, 0.2, -0.2, -0.2], abs=0.06), "pixel centres stay pixel centres"


def test_where_runs_disagree_comes_first_then_worst_and_best(monkeypatch: pytest.MonkeyPatch):
    ious = pd.DataFrame({"0": [0.9, 0.1, 0.5, 1.0], "1": [0.9, 0.1, 0.8, 1.0]}, index=list("wxyz"))
    monkeypatch.setattr(pictures, "BUDGET", 3 * (100 * 0.62 + 500))
    assert pictures.wanted_images(ious, 100.0, 1) == ["y", "x", "z"]


@pytest.mark.parametrize(("left", "said"), [(None, "is missing"), (b"no table", "cannot be read")])
def test_without_predictions_there_are_pictures_and_a_note(tmp_path: Path, left: bytes | None, said: str):
    run = write_run(tmp_path / "0", {}, [0.5] * 4)
    (run / "predictions.parquet").unlink()
    if left is not None:
        (run / "predictions.parquet").write_bytes(left)
    found = pictures.Pictures(ids=["b", "a"], sizes=[(6, 4)] * 2, scales=[1.0] * 2)
    masks, prompts = pictures.small_predictions(Run(run), found)
    assert (masks, prompts) == ([None] * 2, [[[], "", []]] * 2)
    (note,) = found.notes
    assert note.startswith(f"{run}: no masks and prompts, predictions.parquet {said}")
