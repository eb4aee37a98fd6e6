"""Prompt strategies on heatmaps small enough to work out by hand."""

import numpy as np
import pytest
import torch

from gradsam_exp.errors import InputError
from gradsam_exp.prompts.base import STRATEGIES
from gradsam_exp.types import Heatmaps, PromptContext


def context(*heatmaps: list[list[float]], masks: torch.Tensor | None = None) -> PromptContext:
    values = torch.tensor(heatmaps, dtype=torch.float32)
    count, height, width = values.shape
    return PromptContext(
        images=torch.zeros(count, 3, height, width, dtype=torch.uint8),
        example_ids=[f"image {k}" for k in range(count)],
        heatmaps=Heatmaps(values, values.flatten(1).amax(1) == 0, torch.zeros(count, dtype=torch.long)),
        masks=masks,
    )


def peak(width: int, height: int, x: int, y: int, value: float = 1.0) -> list[list[float]]:
    values = np.zeros((height, width))
    values[y, x] = value
    return values.tolist()


def strategy(**node: object):
    return STRATEGIES.build(node)


def test_fg_is_a_grid_around_the_centre_row_by_row():
    prompts = strategy(name="fg").propose(context(peak(9, 7, x=4, y=3)))
    assert prompts.example_index.tolist() == [0]
    assert prompts.points[0].tolist() == [
        [3, 2], [4, 2], [5, 2],
        [3, 3], [4, 3], [5, 3],
        [3, 4], [4, 4], [5, 4],
    ]  # fmt: skip
    assert prompts.labels.tolist() == [[1] * 9]
    assert prompts.kinds == {"points"}


def test_fg_grid_is_clipped_to_the_image():
    prompts = strategy(name="fg", grid_offset=2).propose(context(peak(9, 7, x=0, y=6)))
    assert prompts.points[0].tolist() == [
        [0, 4], [0, 4], [2, 4],
        [0, 6], [0, 6], [2, 6],
        [0, 6], [0, 6], [2, 6],
    ]  # fmt: skip


def test_fg_centre_is_weighted_by_activation_above_the_threshold():
    heat = [[0.0, 1.0, 0.8, 0.79, 0.0]]
    weighted = strategy(name="fg", grid_size=1).propose(context(heat))
    uniform = strategy(name="fg", grid_size=1, weighting="uniform").propose(context(heat))
    assert weighted.points[0, 0].tolist() == pytest.approx([(1 * 1.0 + 2 * 0.8) / 1.8, 0.0])
    assert uniform.points[0, 0].tolist() == [1.5, 0.0]


def test_fg_region_peak_ignores_a_second_warm_spot():
    heat = [[1.0, 0.9, 0.0, 0.0, 0.0, 0.95]]
    everywhere = strategy(name="fg", grid_size=1, weighting="uniform").propose(context(heat))
    at_peak = strategy(name="fg", grid_size=1, weighting="uniform", region="peak").propose(context(heat))
    assert everywhere.points[0, 0, 0] == 2.0
    assert at_peak.points[0, 0, 0] == 0.5


def test_an_empty_heatmap_falls_back_to_the_image_centre():
    prompts = strategy(name="fg", grid_size=1).propose(context([[0.0] * 5] * 3, peak(5, 3, 0, 0)))
    assert prompts.points[:, 0].tolist() == [[2.0, 1.0], [0.0, 0.0]]


def test_fgbg_takes_the_extreme_cold_pixels_first_in_scan_order():
    """5×4, warm in the middle: top-most → (0,0), bottom-most → (0,3), left-most → (0,1), right-most → (4,0)."""
    prompts = strategy(name="fgbg", grid_size=1).propose(context(peak(5, 4, x=2, y=2)))
    assert prompts.labels[0].tolist() == [1, 0, 0, 0, 0]
    assert prompts.points[0, 1:].tolist() == [[0, 0], [0, 3], [0, 1], [4, 0]]


def test_fgbg_each_pick_leaves_the_pixels_already_taken():
    """Only three cold pixels in one column: the fourth point does not exist."""
    heat = np.ones((5, 5))
    heat[1:4, 2] = 0
    prompts = strategy(name="fgbg", grid_size=1).propose(context(heat.tolist()))
    assert prompts.points[0, 1:4].tolist() == [[2, 1], [2, 3], [2, 2]]
    assert prompts.labels[0].tolist() == [1, 0, 0, 0, -1]


def test_fgbg_tie_median_takes_the_middle_of_the_edge():
    prompts = strategy(name="fgbg", grid_size=1, tie="median").propose(context(peak(5, 5, x=2, y=2)))
    assert prompts.points[0, 1:].tolist() == [[2, 0], [2, 4], [0, 2], [4, 2]]


def test_fgbg_tie_farthest_goes_away_from_the_foreground():
    prompts = strategy(name="fgbg", grid_size=1, tie="farthest").propose(context(peak(6, 6, x=1, y=1)))
    assert prompts.points[0, 1:].tolist() == [[5, 0], [5, 5], [0, 5], [5, 4]]


def test_fgbg_without_cold_pixels_asks_with_foreground_only():
    prompts = strategy(name="fgbg").propose(context([[0.5] * 6 + [1.0]] * 5))
    assert prompts.labels[0].tolist() == [1] * 9 + [-1] * 4


def test_fgbg_of_an_empty_heatmap_has_no_background_points():
    prompts = strategy(name="fgbg", grid_size=1).propose(context([[0.0] * 5] * 5))
    assert prompts.labels[0].tolist() == [1, -1, -1, -1, -1]
    assert prompts.points[0, 0].tolist() == [2.0, 2.0]


def test_fgbg_ring_surrounds_the_warm_region_at_its_distance():
    heat = np.zeros((41, 41))
    ys, xs = np.mgrid[0:41, 0:41]
    heat[(xs - 20) ** 2 + (ys - 20) ** 2 <= 25] = 1  # 81 px: radius √(81/π) ≈ 5.08
    ring = strategy(name="fgbg", grid_size=1, placement="ring", ring_distance=6, n=8)
    prompts = ring.propose(context(heat.tolist()))
    background = prompts.points[0, 1:]
    distance = (background - 20).norm(dim=1)
    assert len({tuple(p.tolist()) for p in background}) == 8
    assert torch.all((distance - 11.08).abs() < 0.75)
    assert background.mean(0).tolist() == pytest.approx([20, 20], abs=0.5)


def test_fgbg_ring_follows_an_elongated_region():
    heat = np.zeros((41, 61))
    heat[19:22, 15:46] = 1  # 31×3 px around (30, 20)
    prompts = strategy(name="fgbg", grid_size=1, placement="ring", ring_distance=6, n=4).propose(
        context(heat.tolist())
    )
    assert prompts.points[0, 1:].tolist() == [
        [30, 13],
        [51, 20],
        [30, 27],
        [9, 20],
    ]  # 6 px from its sides and ends


def test_fgbg_places_as_many_points_as_asked():
    prompts = strategy(name="fgbg", grid_size=1, n=7).propose(context(peak(8, 8, 4, 4)))
    assert prompts.labels[0].tolist() == [1] + [0] * 7
    assert len({tuple(p.tolist()) for p in prompts.points[0, 1:]}) == 7


HILL = [
    [0.3, 0.2, 0.1, 0.0],
    [0.4, 1.0, 0.2, 0.3],
    [0.5, 0.4, 0.3, 0.2],
]
"""Warm at (1, 1). The coldest pixels are (3, 0), then (2, 0); corners have 0.3, 0, 0.5 and 0.2."""


@pytest.mark.parametrize(
    ("placement", "n", "points"),
    [
        ("argmin", 1, [[3, 0]]),
        ("argmin", 3, [[3, 0], [2, 0], [1, 0]]),
        ("corner_far", 1, [[3, 0]]),
        ("corner_far", 4, [[3, 0], [3, 2], [0, 0], [0, 2]]),
        ("corner_cold", 1, [[3, 0]]),
        ("corner_cold", 3, [[3, 0], [3, 2], [0, 0]]),
    ],
)
def test_fgbg_places_points_as_public_solutions_do(placement: str, n: int, points: list[list[float]]):
    fgbg = strategy(name="fgbg", grid_size=1, placement=placement, n=n, bg_threshold=0.0)
    prompts = fgbg.propose(context(HILL, [[0.0] * 4] * 3))
    assert prompts.labels.tolist() == [[1] + [0] * n, [1] + [-1] * n], "nothing is known of an empty heatmap"
    assert prompts.points[0].tolist() == [[1, 1], *points]


def test_there_are_no_more_than_four_corners():
    prompts = strategy(name="fgbg", grid_size=1, placement="corner_cold", n=6).propose(context(HILL))
    assert prompts.labels[0].tolist() == [1, 0, 0, 0, 0, -1, -1]


def test_the_farthest_corner_is_that_of_argmax_corner():
    ctx = context(peak(9, 7, x=6, y=1), peak(9, 7, x=2, y=5))
    fgbg = strategy(name="fgbg", grid_size=1, placement="corner_far", n=1).propose(ctx)
    assert fgbg.points.tolist() == strategy(name="argmax_corner").propose(ctx).points.tolist()


def test_center_is_the_image_centre():
    prompts = strategy(name="center").propose(context(peak(8, 5, 0, 0)))
    assert prompts.points.tolist() == [[[3.5, 2.0]]]


def test_oracle_is_the_true_centre_of_mass_or_the_nearest_pixel_of_the_mask():
    masks = torch.zeros(3, 5, 5, dtype=torch.bool)
    masks[0, 1:3, 1:3] = True
    masks[1] = True
    masks[1, 1:4, 1:4] = False  # a ring: its centre of mass is not part of it
    ctx = context(*[peak(5, 5, 0, 0)] * 3, masks=masks)
    oracle = strategy(name="oracle")
    assert oracle.needs_truth
    points = oracle.propose(ctx).points[:, 0].tolist()
    assert points[0] == [1.5, 1.5]
    assert masks[1, int(points[1][1]), int(points[1][0])]
    assert points[2] == [2.0, 2.0], "an empty mask: the image centre"


def test_oracle_box_is_the_true_bounding_box():
    masks = torch.zeros(2, 5, 8, dtype=torch.bool)
    masks[0, 1:3, 2] = masks[0, 2, 2:7] = True
    oracle = strategy(name="oracle_box")
    prompts = oracle.propose(context(*[peak(8, 5, 0, 0)] * 2, masks=masks))
    assert prompts.boxes.tolist() == [[1.5, 0.5, 6.5, 2.5], [-0.5, -0.5, 7.5, 4.5]], (
        "an empty mask: the whole image"
    )
    assert prompts.points.shape == (2, 0, 2)
    assert oracle.needs_truth


def test_strategies_do_not_see_the_truth_unless_they_say_so():
    assert not strategy(name="fg").needs_truth
    for name in ("oracle", "oracle_box"):
        with pytest.raises(ValueError, match="needs true masks"):
            strategy(name=name).propose(context(peak(5, 5, 0, 0)))


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"name": "fgb"}, "pipeline='fgb' is not known; did you mean 'fg(bg)?'"),
        ({"name": "fg", "bg_threshold": 0.1}, "pipeline.bg_threshold is not a parameter"),
        ({"name": "fg", "grid_sise": 3}, "did you mean 'grid_size'"),
        ({"name": "fg", "grid_size": 4}, "pipeline.grid_size=4: must be odd"),
        ({"name": "fg", "grid_size": -1}, "pipeline.grid_size=-1"),
        ({"name": "fg", "fg_threshold": 1.5}, "pipeline.fg_threshold=1.5"),
        ({"name": "fg", "region": "some"}, "pipeline.region='some': .*'all' or 'peak'"),
        ({"name": "fg", "grid_offset": "wide"}, "pipeline.grid_offset='wide'"),
        ({"name": "fgbg", "bg_threshold": 0.8}, "bg_threshold=0.8 must be below fg_threshold=0.8"),
        ({}, "pipeline.name is missing"),
    ],
)
def test_bad_knobs_are_named(node: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        STRATEGIES.build(node)


def test_randomness_depends_on_the_image_not_on_the_batch():
    ctx = context(peak(4, 4, 0, 0), peak(4, 4, 1, 1))
    assert ctx.generator(0).random() != ctx.generator(1).random()
    assert ctx.generator(1).random() == ctx.generator(1).random()


@pytest.mark.parametrize(
    ("node", "ignored"),
    [
        ({"name": "fg"}, set()),
        ({"name": "fg", "grid_size": 1}, {"grid_offset"}),
        ({"name": "adaptive", "grid_size": 1}, {"grid_offset"}),
        ({"name": "fgbg"}, {"ring_distance"}),
        ({"name": "fgbg", "placement": "ring"}, {"tie"}),
        ({"name": "fgbg", "placement": "argmin"}, {"bg_threshold", "tie", "ring_distance"}),
        ({"name": "fgbg", "placement": "corner_far"}, {"bg_threshold", "tie", "ring_distance"}),
        (
            {"name": "fgbg", "n": 0, "grid_size": 1},
            {"grid_offset", "bg_threshold", "placement", "tie", "ring_distance"},
        ),
    ],
)
def test_what_is_ignored_makes_no_difference(node: dict[str, object], ignored: set[str]):
    """To be the same run, prompts must be the same."""
    other = {"grid_offset": 3.0, "bg_threshold": 0.4, "placement": "ring", "tie": "farthest", "ring_distance": 1.0}
    heat = np.random.default_rng(0).random((2, 16, 20)) ** 2
    ctx = context(*heat.tolist())
    assert strategy(**node).ignored == ignored
    expected = strategy(**node).propose(ctx)
    for name in ignored:
        found = strategy(**node | {name: other[name]}).propose(ctx)
        assert torch.equal(found.points, expected.points)
        assert torch.equal(found.labels, expected.labels)
