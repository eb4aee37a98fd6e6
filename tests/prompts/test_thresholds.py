"""Thresholds on heat: numbers mean what they always did, rules find one for each heatmap."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradsam_exp.errors import InputError
from gradsam_exp.prompts.base import STRATEGIES, check_knobs
from gradsam_exp.prompts.thresholds import at_least, below, level
from tests.prompts.test_points import context, peak, strategy
from tests.prompts.test_strategies import filled

KNOBS = {"fg_threshold": 0.8, "bg_threshold": 0.1, "grid_size": 3, "grid_offset": 1.0}
HEAT = torch.tensor([[[0.0, 0.0, 0.0, 0.1, 0.1, 0.2, 0.8, 0.9, 0.9, 1.0]]])


def test_a_number_is_a_share_of_the_maximum_for_warm_pixels_and_heat_for_cold_ones():
    values = torch.tensor([[[0.0, 0.2, 0.39, 0.4, 0.5]]])
    assert at_least(values, 0.8).tolist() == [[[False, False, False, True, True]]]
    assert below(values, 0.2).tolist() == [[[True, False, False, False, False]]]
    assert level(values, 0.2) == 0.2


def test_otsu_parts_the_pixels_where_the_variance_between_the_classes_is_largest():
    values = HEAT.flatten().numpy().astype(float)

    def between(cut: float) -> float:
        low, high = values[values < cut], values[values >= cut]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2

    best = max(np.unique(values)[1:], key=between)
    assert best == pytest.approx(0.8), "worked out: four pixels are warm"
    assert at_least(HEAT, "otsu").flatten().tolist() == (values >= best).tolist()
    assert below(HEAT, "otsu").flatten().tolist() == (values < best).tolist()


def test_a_quantile_is_taken_of_each_heatmaps_pixels():
    """Of 0, 0.1, …, 1 the 0.9 quantile is 0.9, of half of it 0.45."""
    values = torch.linspace(0, 1, 11, dtype=torch.float64)[torch.randperm(11)].view(1, 1, 11)
    values = torch.cat([values, values / 2])
    assert torch.as_tensor(level(values, "quantile:0.9")).flatten().tolist() == pytest.approx([0.9, 0.45])
    assert at_least(values, "quantile:0.9").sum((1, 2)).tolist() == [2, 2]
    assert below(values, "quantile:0.25").sum((1, 2)).tolist() == [3, 3]


def test_the_coldest_pixels_of_a_quantile_are_there_even_if_many_have_no_heat():
    assert below(HEAT, "quantile:0.1").flatten().tolist() == [True] * 3 + [False] * 7
    assert below(torch.zeros(1, 2, 2), "quantile:0.1").all()


def test_foreground_is_the_centre_of_what_a_rule_finds():
    ctx = context(HEAT[0].tolist())
    points = strategy(name="fg", fg_threshold="otsu", grid_size=1, weighting="uniform").propose(ctx).points
    assert points[0, 0].tolist() == [7.5, 0], "of pixels 6 to 9"
    hottest = strategy(name="fg", fg_threshold="quantile:0.9", grid_size=1, weighting="uniform").propose(ctx)
    assert hottest.points[0, 0].tolist() == [9, 0], "quantile 0.91"


def test_background_is_what_is_cold_by_a_rule_and_not_warm():
    """The lower half is cold up to the median, 0.15; from 0.1 on the pixels are warm."""
    ctx = context(HEAT[0].tolist())
    fgbg = strategy(name="fgbg", grid_size=1, fg_threshold=0.1, bg_threshold="quantile:0.5")
    assert fgbg.cold_pixels(ctx).flatten().tolist() == [True] * 3 + [False] * 7
    prompts = fgbg.propose(ctx)
    assert prompts.labels[0].tolist() == [1, 0, 0, 0, -1], "three pixels"
    by_otsu = strategy(name="fgbg", fg_threshold="otsu", bg_threshold="otsu")
    assert by_otsu.cold_pixels(ctx).flatten().tolist() == [True] * 6 + [False] * 4


def test_a_numbers_cold_pixels_may_be_warm_as_ever():
    """Where a heatmap's maximum is low; nothing is taken away from what numbers mean."""
    ctx = context([[0.0, 0.05]])
    assert strategy(name="fgbg").cold_pixels(ctx).flatten().tolist() == [True, True]


@pytest.mark.parametrize("rule", ["otsu", "quantile:0.75"])
@pytest.mark.parametrize(
    ("name", "knob"),
    [
        ("adaptive", "warm_threshold"), ("box", "box_threshold"), ("box_points", "box_threshold"),
        ("cascade", "box_threshold"), ("box_then_everything", "box_threshold"), ("components", "threshold"),
        ("skeleton", "threshold"), ("random_points", "threshold"), ("subsets", "threshold"),
        ("sam_refiner", "threshold"), ("everything_merge", "threshold"), ("clip_surgery", "threshold"),
        ("gensam", "threshold"), ("persam", "fg_threshold"), ("mask", "mask_threshold"), ("fg", "fg_threshold"),
    ],
)  # fmt: skip
def test_every_threshold_of_heat_takes_a_rule(name: str, knob: str, rule: str):
    assert getattr(STRATEGIES.build({"name": name, knob: rule}), knob) == rule


def test_a_box_and_cells_by_a_rule():
    """5×5 hot pixels of 100 are one class; as cells of 5×5 px they are one of four."""
    heat = filled(10, 10, (0, 0, 4, 4, 1.0), (5, 5, 5, 5, 0.1))
    boxes = strategy(name="box", box_threshold="otsu").propose(context(heat)).boxes
    assert boxes.tolist() == [[-0.5, -0.5, 4.5, 4.5]]
    cells = strategy(name="clip_surgery", threshold="quantile:1", cells=2).propose(context(heat))
    assert cells.points[0].tolist()[0] == [2, 2]
    assert cells.labels[0].tolist() == [1, 0]


@pytest.mark.parametrize("given", ["otzu", "quantile", "quantile:", "quantile:x", "0.8%", None, True, [0.8]])
def test_what_is_no_threshold_is_refused_with_what_is_one(given: object):
    with pytest.raises(
        InputError, match=r"^fg_threshold=.*: must be a number between 0 and 1, otsu, or a quantile"
    ):
        check_knobs({**KNOBS, "fg_threshold": given})


@pytest.mark.parametrize("given", [1.5, -0.1, "quantile:1.5"])
def test_a_threshold_out_of_range_is_refused(given: object):
    with pytest.raises(InputError, match=r"^bg_threshold=.*: must lie between 0 and 1"):
        check_knobs({**KNOBS, "bg_threshold": given})


def test_background_must_be_colder_where_that_can_be_told():
    with pytest.raises(InputError, match=r"bg_threshold=quantile:0\.5 must be below fg_threshold=quantile:0\.5"):
        strategy(name="fgbg", fg_threshold="quantile:0.5", bg_threshold="quantile:0.50")
    for fg, bg in (("otsu", 0.9), (0.1, "quantile:0.5"), ("otsu", "otsu")):
        prompts = strategy(name="fgbg", fg_threshold=fg, bg_threshold=bg).propose(context(peak(8, 6, 4, 3)))
        assert prompts.labels[0].tolist() == [1] * 9 + [0] * 4
