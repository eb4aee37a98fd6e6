"""Figures are made for print: nothing drawn beyond an image, points told apart by everyone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from gradsam_exp.reports import colours, figures
from gradsam_exp.reports.gallery import Example


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


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would be written."""
    kept: list[Figure] = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: kept.append(figure) or path)
    return kept


def test_names_with_dollars_are_names(example: Example, tmp_path: Path):
    evil = replace(example, class_name="$x^$", example_id="cost $5 and $10_{", predicted_class="$\\frac$")
    path = figures.figure1([evil], tmp_path / "figure1.png")
    assert path.with_suffix(".pdf").is_file()


def test_the_predicted_outline_is_seen_beside_the_true_one(example: Example, drawn: list[Figure]):
    half = replace(example, truth=np.roll(example.mask, 5, axis=1))
    for shown in (example, half):  # the two run together, or cross
        figures.figure1([shown], Path("figure1.png"))
        axes = drawn.pop().axes[4]
        lines = [(to_rgb(c.get_edgecolor()[0]), c.get_linewidths()[0]) for c in axes.collections]
        truth, mask = (k for colour in (colours.TRUTH, colours.MASK) for k in [
            max(k for k, (found, _) in enumerate(lines) if found == to_rgb(colour))
        ])  # fmt: skip
        assert mask == len(lines) - 1, "nothing is drawn over the prediction"
        assert lines[truth][1] > lines[mask][1], "the truth shows on both sides of it"
        assert all(found != to_rgb("black") for found, _ in lines[truth + 1 :]), "and no halo hides the truth"


def test_long_names_stay_within_their_row(example: Example, drawn: list[Figure]):
    long = replace(example, class_name="c" * 200, example_id="folder/" + "W" * 300 + ".png")
    figures.figure1([long, long], Path("figure1.png"))
    (figure,) = drawn
    figure.draw_without_rendering()
    first, second = (figure.axes[k].yaxis.label.get_window_extent() for k in (0, 6))
    assert first.y0 > second.y1
    text = figure.axes[0].get_ylabel()
    assert text.count("…") == 2
    assert text.splitlines()[1].startswith("folder")
    assert text.endswith("W.png")


@pytest.mark.parametrize(
    ("predicted", "said"), [("star", "circle\nseen as star\nname"), ("circle", "circle\nname")]
)
def test_a_wrong_class_is_said(example: Example, drawn: list[Figure], predicted: str, said: str):
    figures.figure1([replace(example, predicted_class=predicted)], Path("figure1.png"))
    assert drawn[0].axes[0].get_ylabel() == said


def test_scores_are_counted_in_whole_images_and_look_like_no_points(drawn: list[Figure]):
    figures.score_histograms(pd.DataFrame({"iou": [0.2, 0.9], "predicted_iou": [0.5, 0.6]}), Path("scores.png"))
    axes = drawn[0].axes[0]
    assert all(tick == round(tick) for tick in axes.get_yticks())
    used = {to_rgb(bar.get_facecolor()) for bar in axes.patches} | {
        to_rgb(line.get_color()) for line in axes.lines
    }
    assert used.isdisjoint({to_rgb(colours.FOREGROUND_POINT), to_rgb(colours.BACKGROUND_POINT)})


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
    assert [example.example_id for example in other.first_examples()] == [example.example_id for example in first]
    everyone = run_gallery(first=0, worst=8).worst_examples()
    assert [example.example_id for example in worst] == [example.example_id for example in everyone[:3]]
    assert [example.iou for example in everyone] == sorted(example.iou for example in everyone)
    assert [example.example_id for example in other.worst_examples()] == [example.example_id for example in worst]


@pytest.fixture
def run_gallery(batch, segmenter):
    import torch

    from gradsam_exp.engine.pipeline import Pipeline
    from gradsam_exp.engine.preparation import Prepared
    from gradsam_exp.prompts.foreground import Foreground
    from gradsam_exp.reports.gallery import Gallery
    from gradsam_exp.selectors.score import PredictedIoU
    from gradsam_exp.types import Heatmaps, PromptContext

    def made(parts: Sequence[slice] = (slice(None),), **kept: int) -> Gallery:
        gallery = Gallery(["a", "b", "c", "d", "e"], **kept)
        for part in parts:
            some = batch.of_images(part)
            empty = torch.zeros(len(some), dtype=torch.bool)
            heatmaps = Heatmaps(some.masks.float(), empty, some.labels)
            embeddings = segmenter.encode(some.images)
            context = PromptContext(some.images, heatmaps, some.example_ids)
            result = Pipeline(Foreground(), segmenter, PredictedIoU())(context, embeddings)
            gallery(Prepared(some, heatmaps, embeddings, some.labels), result)
        return gallery

    return made
