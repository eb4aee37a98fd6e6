"""Lengths in pixels, or as shares of the image's shorter side."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gradsam_exp.app.composing import compose
from gradsam_exp.engine.plan import Plan
from gradsam_exp.engine.session import Job
from gradsam_exp.errors import InputError
from gradsam_exp.prompts.base import STRATEGIES, check_knobs, pixels, whole_pixels
from gradsam_exp.types import Heatmaps, PromptContext

KNOBS: dict[str, Any] = {"fg_threshold": 0.8, "bg_threshold": 0.1, "grid_size": 3, "grid_offset": 1.0}


def context(height: int = 50, width: int = 100) -> PromptContext:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    heat = torch.exp(-((x - 40.0) ** 2 + (y - 20.0) ** 2) / 50)[None]
    images = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    return PromptContext(images, Heatmaps(heat, torch.tensor([False]), torch.tensor([0])), ["a"])


def test_a_share_is_one_of_the_shorter_side():
    assert pixels("2%", (50, 100)) == 1.0
    assert pixels("2%", (4000, 3000)) == 60.0
    assert pixels(1.5, (4000, 3000)) == 1.5
    assert whole_pixels("5%", (50, 100)) == 2, "2.5 is rounded to even"
    assert whole_pixels("0.1%", (50, 100)) == 1, "at least 1"


@pytest.mark.parametrize(
    ("name", "in_pixels", "in_shares"),
    [
        ("fg", {"grid_offset": 2}, {"grid_offset": "4%"}),
        ("fgbg", {"placement": "ring", "ring_distance": 4}, {"placement": "ring", "ring_distance": "8 %"}),
        ("box", {"margin": 1}, {"margin": "2.0%"}),
        ("box_points", {"margin": 1}, {"margin": "2%"}),
        ("topk_smoothed", {"k": 3, "radius": 3}, {"k": 3, "radius": "6%"}),
        ("topk_far", {"distance": 15}, {"distance": "30%"}),
        ("multi_peak", {"min_distance": 2}, {"min_distance": "4%"}),
        ("grid_match", {"spacing": 5}, {"spacing": "10%"}),
        ("components", {"margin": 2}, {"margin": "4%"}),
        ("s2c_peaks", {"min_distance": 5, "min_heat": 0}, {"min_distance": "10%", "min_heat": 0}),
    ],
)
def test_a_share_and_the_pixels_that_it_is_ask_the_same(name: str, in_pixels: dict, in_shares: dict):
    one, other = (STRATEGIES.build({"name": name, **knobs}).propose(context()) for knobs in (in_pixels, in_shares))
    assert one.points.shape == other.points.shape
    assert torch.equal(one.points, other.points)
    assert one.boxes is None or torch.equal(one.boxes, other.boxes)


def test_a_share_grows_with_the_image():
    points = STRATEGIES.build({"name": "fg", "grid_offset": "4%"}).propose(context(100, 200)).points[0]
    assert (points[-1] - points[0]).tolist() == [8.0, 8.0], "4 px between neighbours"


@pytest.mark.parametrize("wrong", ["2 px", "%", "-2%", "0%", "101%", True, None, "nan", 0, -1.0])
def test_other_lengths_are_refused(wrong: object):
    with pytest.raises(InputError, match=r"^grid_offset="):
        check_knobs({**KNOBS, "grid_offset": wrong})


@pytest.mark.parametrize("wrong", [2.5, "0%", 0, 2147483647])
def test_whole_lengths_are_whole(wrong: object):
    with pytest.raises(InputError, match=r"^pipeline\.spacing="):
        STRATEGIES.build({"name": "grid_match", "spacing": wrong})


def test_the_command_line_takes_both_and_1_is_1_0():
    assert compose(["grid_offset=2%"]).pipeline["grid_offset"] == "2%"
    assert repr(compose(["grid_offset=1"]).pipeline["grid_offset"]) == "1.0"


def notes(*overrides: str, side: int = 64, sweep: Path | None = None) -> list[str]:
    """What a plan says of these overrides, for pictures of so many pixels."""
    config = compose(overrides)
    plan = SimpleNamespace(
        config=config,
        job=Job(Path("run"), overrides, sweep),
        pipeline=SimpleNamespace(strategy=STRATEGIES.build(config.pipeline)),
        dataset=SimpleNamespace(image_size=lambda index: (2 * side, side)),
        classifier=SimpleNamespace(path=None),
    )
    return _notes_of(plan)


def _notes_of(plan: SimpleNamespace) -> list[str]:
    made = object.__new__(Plan)
    vars(made).update(vars(plan))
    return made.notes


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["bg_threshold=0.2"], ["bg_threshold has no effect with pipeline=fg"]),
        (["pipeline=fgbg", "bg_threshold=0.2"], []),
        (["pipeline=center", "grid_size=5"], ["grid_size has no effect with pipeline=center"]),
        (["grid_size=1", "grid_offset=2"], ["grid_offset has no effect with pipeline=fg grid_size=1"]),
        (
            ["pipeline=fgbg", "pipeline.ring_distance=3"],
            ["pipeline.ring_distance has no effect with pipeline=fgbg pipeline.placement=extreme"],
        ),
        (
            ["pipeline=fgbg", "pipeline.n=0", "bg_threshold=0.2"],
            ["bg_threshold has no effect with pipeline=fgbg pipeline.n=0"],
        ),
    ],
)
def test_a_knob_without_effect_is_named(overrides: list[str], said: list[str]):
    assert notes(*overrides) == said


def test_a_grid_that_is_nearly_one_point_is_said_of_a_single_run():
    assert notes(side=100) == []
    assert notes(side=1000, sweep=Path("sweep")) == []
    assert notes("grid_offset=1%", side=1000) == []
    assert notes(side=1000) == [
        "the 3×3 grid of points spans 2 px, 0.2% of the first picture's shorter side: "
        "grid_offset=2% would grow with the picture"
    ]
