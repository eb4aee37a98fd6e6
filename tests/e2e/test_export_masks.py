"""A run's masks become class maps in VOC's layout, which our own reader reads."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gradsam_exp.config import Config
from gradsam_exp.data.voc import read_indices
from gradsam_exp.engine.predictions import encode_mask
from gradsam_exp.engine.session import Job, Session
from gradsam_exp.errors import InputError
from gradsam_exp.tasks.export_masks import run, voc_palette


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A cat and a dog in image a that overlap, of which the dog is the surer, and a cat in b."""
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/config.yaml").write_text("split: train")
    masks = np.zeros((3, 4, 6), dtype=bool)
    masks[0, :, :4], masks[1, :, 2:], masks[2, 1] = True, True, True
    ids = ["a:cat", "a:dog", "b"]
    table = pd.DataFrame({"example_id": ids, "image_id": ["a", "a", "b"], "merge_score": [0.3, 0.4, 0.1]})
    table["explained_class"] = ["cat", "dog", "cat"]
    table.to_parquet(folder / "per_image.parquet")
    rows = {"example_id": ids, "height": 4, "width": 6, "mask_rle": [encode_mask(mask) for mask in masks]}
    pd.DataFrame(rows).to_parquet(folder / "predictions.parquet")
    (folder / "metrics.json").write_text(json.dumps({"status": "finished", "identity": "x", "metrics": {}}))
    return folder


def export(finished: Path, to: Path, **more: object) -> None:
    node = {"name": "export_masks", "run": str(finished), "to": str(to), "classes": None, **more}
    run(Config(task=node), Job(to / "job", (), None, Session()))


def test_class_maps_have_vocs_indices_and_palette(finished: Path, tmp_path: Path):
    export(finished, tmp_path / "out")
    a, b = (tmp_path / f"out/SegmentationClass/{name}.png" for name in "ab")
    assert read_indices(a).tolist() == [[8, 8, 12, 12, 12, 12]] * 4
    assert read_indices(b).tolist() == [[0] * 6, [8] * 6, [0] * 6, [0] * 6]
    assert Image.open(b).convert("RGB").getpixel((0, 1)) == (64, 0, 0), "VOC's cat"
    assert (tmp_path / "out/ImageSets/Segmentation/train.txt").read_text() == "a\nb\n"


def test_the_palette_is_the_devkits():
    palette = voc_palette().tolist()
    assert [palette[k] for k in (0, 1, 2, 15, 20, 255)] == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128], [0, 64, 128], [224, 224, 192]
    ]  # fmt: skip


def test_classes_have_the_order_that_is_given(finished: Path, tmp_path: Path):
    export(finished, tmp_path / "out", classes=["dog", "bird", "cat"])
    assert np.unique(read_indices(tmp_path / "out/SegmentationClass/a.png")).tolist() == [1, 3]
    assert (tmp_path / "out/classes.txt").read_text() == "background\ndog\nbird\ncat\n"
    with pytest.raises(InputError, match=r"task.classes lacks dog, which the run has; add it"):
        export(finished, tmp_path / "out", classes=["cat"])


def test_an_image_is_not_written_outside(finished: Path, tmp_path: Path):
    table = pd.read_parquet(finished / "per_image.parquet")
    table["image_id"] = "../../../evil"
    table.to_parquet(finished / "per_image.parquet")
    with pytest.raises(InputError, match="would be written outside of"):
        export(finished, tmp_path / "out")
    assert not (tmp_path / "evil.png").exists()
