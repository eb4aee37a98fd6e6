"""mIoU against what was varied."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from gradsam_exp.metrics.points import PointDistance
from gradsam_exp.reports import figures
from gradsam_exp.reports.charts import charts
from gradsam_exp.reports.curves import curves_of, in_order
from gradsam_exp.reports.plots import dots_of, draw_curves, limits_of
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.sweep import collect_runs, with_comparison
from tests.reports.finished_runs import facts_of, write_run


def sweep(folder: Path, **knobs: list[str]) -> Path:
    """Every combination; a run's IoUs rise by 0.01 with its number."""
    combinations: list[dict[str, str]] = [{}]
    for key, values in knobs.items():
        combinations = [{**given, key: value} for given in combinations for value in values]
    for k, given in enumerate(combinations):
        write_run(folder / str(k), given, [0.3 + 0.01 * k, 0.4, 0.5, 0.6])
    return folder


def test_one_curve_for_each_combination_of_the_others(tmp_path: Path):
    sweep(tmp_path, pipeline=["fg", "fgbg"], bg_threshold=["0.2", "0.05", "0.1"])
    table = collect_runs(Runs(tmp_path))
    fg, fgbg = curves_of(Runs(tmp_path), table, "bg_threshold")
    assert (fg.name, fgbg.name) == ("fg", "fgbg")
    assert fg.x == ["0.05", "0.1", "0.2"], "by size, not as given"
    assert fg.mean == pytest.approx([0.4525, 0.455, 0.45])
    for low, mean, high in zip(fgbg.low, fgbg.mean, fgbg.high, strict=True):
        assert low <= mean <= high
        assert high - low < 0.03, "images differ by 0.3, the runs on them by 0.03 on one"
    assert fgbg.jobs == [["4"], ["5"], ["3"]]
    by_word = curves_of(Runs(tmp_path), table, "pipeline")
    assert [curve.name for curve in by_word] == ["bg_threshold=0.2", "bg_threshold=0.05", "bg_threshold=0.1"]


def test_too_many_curves_are_averaged_image_by_image(tmp_path: Path):
    sweep(tmp_path, grid_size=["1", "3"], bg_threshold=[f"0.{k:02}" for k in range(1, 11)])
    (mean,) = curves_of(Runs(tmp_path), collect_runs(Runs(tmp_path)), "grid_size")
    assert mean.name == "mean over the rest"
    assert mean.x == ["1", "3"]
    assert mean.mean == pytest.approx([(0.345 + 1.5) / 4, (0.445 + 1.5) / 4])


def test_images_that_differ_are_not_averaged(tmp_path: Path):
    seeds, shares = [f"{k}" for k in range(5)], ["0.1", "0.2"]
    for k, (background, seed, share) in enumerate(product(["mixed", "cifar10"], seeds, shares)):
        knobs = {"background": background, "seed": seed, "fg_threshold": share}
        write_run(tmp_path / str(k), knobs, [0.01 * k, 0.4, 0.5, 0.6], data=background)
    table = collect_runs(Runs(tmp_path))
    curves = curves_of(Runs(tmp_path), table, "fg_threshold")
    assert [curve.name for curve in curves] == ["mean over the rest · mixed", "mean over the rest · cifar10"]
    assert curves[1].mean == pytest.approx([(0.14 + 1.5) / 4, (0.15 + 1.5) / 4])
    (one,) = curves_of(Runs(tmp_path), table, "background")
    assert (one.name, one.x) == ("mean over the rest", ["mixed", "cifar10"]), "each value has images of its own"


def test_words_keep_their_order_and_numbers_are_sorted():
    assert in_order(["fgbg", "fg", "fgbg"]) == ["fgbg", "fg"]
    assert in_order(["10", "9", "1e-3"]) == ["1e-3", "9", "10"]


def test_the_pages_charts(tmp_path: Path):
    sweep(tmp_path, pipeline=["fg", "fgbg"], bg_threshold=["0.05", "0.1"])
    write_run(tmp_path / "9", {"pipeline": "fg", "bg_threshold": "no"}, None, error="not a number")
    found = {chart["id"]: chart["figure"] for chart in charts(Runs(tmp_path), collect_runs(Runs(tmp_path)))}
    assert set(found) == {"knob-0", "knob-1", "heatmap-0", "parallel"}
    band, line, *_ = found["knob-1"]["data"]
    assert line["x"] == [0.05, 0.1]
    assert band["y"][:2] > line["y"] > band["y"][:1:-1], "up along the high ends, back along the low"
    assert band["meta"] == [["0"], ["1"], ["1"], ["0"]]
    assert max(found["knob-0"]["data"][0]["error_y"]["arrayminus"]) < 0.02
    (cells,) = found["heatmap-0"]["data"]
    assert (cells["y"], cells["x"]) == (["fg", "fgbg"], ["0.05", "0.1"])
    assert cells["z"][1] == pytest.approx([0.455, 0.4575])
    (parallel,) = found["parallel"]["data"]
    assert [d["label"] for d in parallel["dimensions"]] == ["pipeline", "bg_threshold", "mIoU"]


def test_heatmaps_average_no_runs_on_different_images(tmp_path: Path):
    for k, (data, bg, fg) in enumerate(product(["mixed", "cifar10"], ["0.1", "0.2"], ["0.6", "0.8"])):
        knobs = {"background": data, "bg_threshold": bg, "fg_threshold": fg}
        write_run(tmp_path / str(k), knobs, [0.1 * k] * 4, data=data)
    found = [c for c in charts(Runs(tmp_path), collect_runs(Runs(tmp_path))) if c["id"].startswith("heatmap")]
    assert [chart["title"] for chart in found] == [
        "background × bg_threshold",
        "background × fg_threshold",
        "bg_threshold × fg_threshold · mixed",
        "bg_threshold × fg_threshold · cifar10",
    ]
    assert "Not all cells are of the same images" in found[0]["note"]
    cells = [chart["figure"]["data"][0] for chart in found]
    assert cells[3]["z"][1] == pytest.approx([0.6, 0.7])
    assert [(cell["zmin"], cell["zmax"]) for cell in cells] == [(0.0, pytest.approx(0.7))] * 4, "one scale"


def test_upper_bounds_have_a_star(tmp_path: Path):
    for k, (pipeline, fg) in enumerate(product(["fg", "oracle"], ["0.6", "0.8"])):
        knobs = {"pipeline": pipeline, "fg_threshold": fg}
        write_run(tmp_path / str(k), knobs, [0.5, 0.6, 0.7, 0.8], bound=pipeline == "oracle")
    table = collect_runs(Runs(tmp_path))
    assert [curve.name for curve in curves_of(Runs(tmp_path), table, "fg_threshold")] == ["fg", "oracle*"]
    words, numbers, heatmap, parallel = charts(Runs(tmp_path), table)
    assert words["figure"]["layout"]["xaxis"]["ticktext"] == ["fg", "oracle*"]
    assert heatmap["figure"]["layout"]["yaxis"]["ticktext"] == ["fg", "oracle*"]
    assert parallel["figure"]["data"][0]["dimensions"][0]["ticktext"] == ["fg", "oracle*"]
    assert all("* upper bound" in chart["note"] for chart in (words, numbers, heatmap, parallel))


def test_a_curve_of_one_point_has_an_interval(tmp_path: Path):
    write_run(tmp_path / "0", {"pipeline": "fg", "bg_threshold": "0.1"}, [0.5, 0.6, 0.7, 0.8])
    write_run(tmp_path / "1", {"pipeline": "fg", "bg_threshold": "0.2"}, [0.5, 0.6, 0.7, 0.8])
    write_run(tmp_path / "2", {"pipeline": "fgbg", "bg_threshold": "0.2"}, [0.5, 0.6, 0.7, 0.8])
    found = {
        chart["id"]: chart["figure"]["data"] for chart in charts(Runs(tmp_path), collect_runs(Runs(tmp_path)))
    }
    band, line, single = found["knob-1"]
    assert band["fill"] == "toself"
    assert "error_y" not in line
    assert single["error_y"]["array"] == pytest.approx([0.0]), "the runs are the same on every image"
    assert (line["marker"]["symbol"], single["marker"]["symbol"]) == ("circle", "square"), "as in print"


def test_what_is_better_is_up(tmp_path: Path):
    for k, distance in enumerate((2.0, 3.0)):
        more = {"distance_px": facts_of(PointDistance) | {"mean": distance}}
        write_run(tmp_path / str(k), {"pipeline": ("fg", "fgbg")[k]}, [0.5 + 0.1 * k] * 4, more=more)
    runs = Runs(tmp_path)
    *_, parallel = charts(runs, collect_runs(runs))
    ranges = {d["label"]: d.get("range") for d in parallel["figure"]["data"][0]["dimensions"]}
    assert ranges == {"pipeline": None, "distance px": [3.0, 2.0], "mIoU": None}


def test_nothing_varied_nothing_drawn(tmp_path: Path):
    write_run(tmp_path / "0", {"pipeline": "fg"}, [0.5] * 4)
    table = collect_runs(Runs(tmp_path))
    assert charts(Runs(tmp_path), table) == []
    assert draw_curves(Runs(tmp_path), table, tmp_path / "sweep.png") is None


def test_long_names_leave_room_for_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    words = ["a_name_of_some_length", "another_that_is_longer"]
    sweep(tmp_path, pipeline=words, selector=words, explainer=["gradcam", "layercam"])
    drawn: list[Figure] = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: drawn.append(figure))
    draw_curves(Runs(tmp_path), collect_runs(Runs(tmp_path)), tmp_path / "sweep.png")
    drawn[0].draw_without_rendering()
    chart, *_ = charts(Runs(tmp_path), collect_runs(Runs(tmp_path)))
    assert chart["figure"]["layout"]["height"] > 300, "of four names below one another"
    widths = [axes.get_position().width for axes in drawn[0].axes]
    assert min(widths) > 0.25, "of three panels side by side"


def test_a_run_far_outside_does_not_squeeze_the_others(tmp_path: Path):
    added = {"fg": 0.0, "box": 0.02, "center": -0.25, "mask": 0.01, "fgbg": -0.01}
    for k, (name, more) in enumerate(added.items()):
        write_run(tmp_path / str(k), {"pipeline": name}, [0.3 + more, 0.4 + more, 0.5 + more, 0.6 + more])
    runs = Runs(tmp_path)
    table = with_comparison(runs, collect_runs(runs))
    dots = dots_of(table, ["pipeline"])
    assert [dot.name for dot in dots] == ["1 box", "3 mask", "0 fg", "4 fgbg", "2 center"]
    assert [dot.is_baseline for dot in dots] == [False, False, True, False, False]
    low, high = limits_of(dots)
    assert (low, high) == pytest.approx((-0.01 - 0.06 * 0.03, 0.02 + 0.06 * 0.03))
    assert limits_of(dots[:-1]) == pytest.approx((low, high))
    draw_curves(runs, table, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.pdf").read_bytes().startswith(b"%PDF")


def test_curves_for_print(tmp_path: Path):
    sweep(tmp_path, pipeline=["fg", "fgbg"], bg_threshold=["0.05", "0.1"])
    draw_curves(Runs(tmp_path), collect_runs(Runs(tmp_path)), tmp_path / "sweep.png")
    assert (tmp_path / "sweep.pdf").read_bytes().startswith(b"%PDF")
    with Image.open(tmp_path / "sweep.png") as picture:
        assert picture.width > 1000
