"""Published data sets, in the layout in which they are published, from the command to a table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.data.test_bsds import berkeley  # noqa: F401  (fixtures)
from tests.data.test_coco import root as coco  # noqa: F401
from tests.data.test_cub import birds  # noqa: F401
from tests.data.test_imagenet_s import subset  # noqa: F401
from tests.data.test_oxford_pet import pets  # noqa: F401
from tests.data.test_voc import devkit  # noqa: F401

DATA = {
    "voc": ("devkit", ["split=val"]),
    "coco": ("coco", ["split=val"]),
    "oxford_pet": ("pets", ["split=test"]),
    "cub": ("birds", ["split=test"]),
    "imagenet_s": ("subset", ["split=val", "data.class_list=categories.txt"]),
    "bsds": ("berkeley", ["split=train"]),
}


@pytest.mark.parametrize("name", DATA)
def test_a_published_data_set_gives_a_table(run, request: pytest.FixtureRequest, name: str):
    fixture, more = DATA[name]
    root = request.getfixturevalue(fixture)
    done = run(f"data={name}", f"data.root={root}", "data.labels=none", *more)
    assert done.code == 0, done.err
    assert "mIoU" in done.out
    table = pd.read_parquet(done.runs[0] / "per_image.parquet")
    assert len(table) >= 1
    assert table["iou"].between(0, 1).all()
    assert table["correct"].isna().all()
    metrics = json.loads((done.runs[0] / "metrics.json").read_text())["metrics"]
    assert metrics["accuracy"]["mean"] is None


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Four images of 64×48 px with three objects each, as ``folder``, ``voc`` and ``coco``."""
    rng = np.random.default_rng(0)
    places = {1: (slice(4, 20), slice(4, 24)), 8: (slice(25, 44), slice(8, 30))}
    places[12] = (slice(10, 40), slice(40, 60))
    names = {1: "aeroplane", 8: "cat", 12: "dog"}
    palette = [value for index in range(256) for value in (index, 255 - index, index * 7 % 256)]
    voc, folder, coco_root = tmp_path / "VOC2012", tmp_path / "own", tmp_path / "coco"
    for path in (
        voc / "JPEGImages", voc / "SegmentationClass", voc / "ImageSets" / "Segmentation",
        folder / "images" / "test", folder / "masks" / "test", coco_root / "val2017", coco_root / "annotations",
    ):  # fmt: skip
        path.mkdir(parents=True)
    images, annotations, stems = [], [], [f"2012_{k:06d}" for k in range(4)]
    for number, stem in enumerate(stems):
        pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        values = np.zeros((48, 64), dtype=np.uint8)
        for value, (rows, columns) in places.items():
            values[rows, columns] = value
            pixels[rows, columns] = (value * 20, 255 - value * 20, 128)
            box = [columns.start, rows.start, columns.stop, rows.stop]
            outline = [box[0], box[1], box[2], box[1], box[2], box[3], box[0], box[3]]
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": value, "segmentation": [outline],
                "iscrowd": 0, "area": 1.0, "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            })  # fmt: skip
        mask = Image.fromarray(values, mode="P")
        mask.putpalette(palette)
        for path in (voc / "JPEGImages", folder / "images" / "test", coco_root / "val2017"):
            Image.fromarray(pixels).save(path / f"{stem}.jpg", quality=95)
        for path in (voc / "SegmentationClass", folder / "masks" / "test"):
            mask.save(path / f"{stem}.png")
        images.append({"id": number, "file_name": f"{stem}.jpg", "width": 64, "height": 48})
    lists = voc / "ImageSets" / "Segmentation"
    (lists / "val.txt").write_text("\n".join(stems) + "\n")
    (folder / "names.txt").write_text("\n".join(names.get(line, f"other {line}") for line in range(1, 21)) + "\n")
    categories = [{"id": value, "name": name} for value, name in names.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (coco_root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return tmp_path


def test_the_same_images_in_three_formats_have_the_same_scores(run, scene: Path):
    formats = {
        "voc": [f"data.root={scene}/VOC2012", "split=val"],
        "coco": [f"data.root={scene}/coco", "split=val"],
        "folder": [
            f"data.root={scene}/own",
            "data.mask.object=classes",
            "data.class_list=names.txt",
            "split=test",
        ],
    }
    tables = {}
    for name, more in formats.items():
        done = run(f"data={name}", *more, "data.labels=none")
        assert done.code == 0, done.err
        tables[name] = pd.read_parquet(done.runs[0] / "per_image.parquet")
        shutil.rmtree(done.runs[0])
    voc = tables["voc"]
    assert voc["example_id"].tolist()[:3] == [f"2012_000000:{name}" for name in ("aeroplane", "cat", "dog")]
    assert len(voc) == 12
    assert voc["image_id"].nunique() == 4
    for name in ("coco", "folder"):
        pd.testing.assert_frame_equal(tables[name], voc)


def test_an_image_of_three_examples_is_encoded_once(run, scene: Path, monkeypatch: pytest.MonkeyPatch):
    from gradsam_exp.segmenters.sam import SamSegmenter

    encoded: list[int] = []
    encode = SamSegmenter.encode

    def counting(self, images):
        encoded.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(SamSegmenter, "encode", counting)
    done = run("data=voc", f"data.root={scene}/VOC2012", "split=val", "data.labels=none")
    assert done.code == 0, done.err
    assert sum(encoded) == 4
    assert len(pd.read_parquet(done.runs[0] / "per_image.parquet")) == 12
