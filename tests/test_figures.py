"""Figures are made for print: nothing drawn beyond an image, points told apart by everyone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from gradsam_exp import colours, figures
from gradsam_exp.gallery import Example


@pytest.fixture
def example() -> Example:
    rng = np.random.default_rng(0)
    mask = np.zeros((30, 40), dtype=bool)
    mask[10:, 10:20] = True  # down to the edge
    image, heatmap = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8), rng.random((30, 40), dtype=np.float32)
    return Example(
        "name", "circle", image, heatmap,
        np.array([[15.0, 15.0], [0.0, 0.0]]), np.array([1, 0]), np.zeros((0, 4)), mask, mask, 1.0,
    )  # fmt: skip


def test_figure1_is_written_twice_and_without_truth_lacks_its_column(example: Example, tmp_path: Path):
    with_truth = figures.figure1([example], tmp_path / "with.png")
    without = figures.figure1([replace(example, truth=None, iou=float("nan"))], tmp_path / "without.png")
    assert with_truth.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    with Image.open(with_truth) as six, Image.open(without) as five:
        assert six.width - five.width == pytest.approx(200 * (1.25 + 0.08), abs=2)


def test_an_outline_runs_along_the_pixels_edges(example: Example):
    axes = Figure().subplots()
    figures.outline(axes, example.mask, colours.MASK)
    (path,) = axes.collections[-1].get_paths()
    low, high = path.vertices.min(0), path.vertices.max(0)
    assert low == pytest.approx([9.5, 9.5], abs=0.1)
    assert high == pytest.approx([19.5, 29.5], abs=0.1)


def test_kinds_of_points_differ_in_lightness_as_well():
    def lightness(colour: str) -> float:
        return float(np.dot(to_rgb(colour), [0.2126, 0.7152, 0.0722]))

    assert lightness(colours.FOREGROUND_POINT) - lightness(colours.BACKGROUND_POINT) > 0.2
    heats = [lightness(colour) for colour in colours.heat_table()]
    assert len(heats) == 256
    assert all(one <= other + 0.01 for one, other in pairwise(heats)), "warmer is lighter"


def test_no_worst_cases_are_kept_if_none_are_wanted(run_gallery):
    gallery = run_gallery(first=2, worst=0)
    assert (len(gallery.first_examples()), gallery.worst_examples()) == (2, [])


def test_the_same_images_are_kept_in_whichever_order_they_come(run_gallery):
    one = run_gallery(first=6, worst=3)
    other = run_gallery([slice(4, 8), slice(0, 4)], first=6, worst=3)
    first, worst = one.first_examples(), one.worst_examples()
    assert len({example.class_name for example in first[:3]}) == 3, "one of each class before a second"
    assert [example.image_id for example in other.first_examples()] == [example.image_id for example in first]
    everyone = run_gallery(first=0, worst=8).worst_examples()
    assert [example.image_id for example in worst] == [example.image_id for example in everyone[:3]]
    assert [example.iou for example in everyone] == sorted(example.iou for example in everyone)
    assert [example.image_id for example in other.worst_examples()] == [example.image_id for example in worst]


@pytest.fixture
def run_gallery(batch, segmenter):
    import torch

    from gradsam_exp.gallery import Gallery
    from gradsam_exp.pipeline import Pipeline
    from gradsam_exp.preparation import Prepared
    from gradsam_exp.prompts.foreground import Foreground
    from gradsam_exp.selectors.score import PredictedIoU
    from gradsam_exp.types import Heatmaps, PromptContext

    def made(parts: Sequence[slice] = (slice(None),), **kept: int) -> Gallery:
        gallery = Gallery(["a", "b", "c", "d", "e"], **kept)
        for part in parts:
            some = batch[part]
            empty = torch.zeros(len(some), dtype=torch.bool)
            heatmaps = Heatmaps(some.masks.float(), empty, some.labels)
            embeddings = segmenter.encode(some.images)
            context = PromptContext(some.images, heatmaps, some.image_ids)
            result = Pipeline(Foreground(), segmenter, PredictedIoU())(context, embeddings)
            gallery(Prepared(some, heatmaps, embeddings, some.labels), result)
        return gallery

    return made
