"""Strategies that others published, on cases worked out by hand from their papers and code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gradsam_exp.engine.pipeline import Pipeline
from gradsam_exp.selectors.base import SELECTORS
from gradsam_exp.selectors.score import PredictedIoU
from gradsam_exp.types import Prompts, Segmentation
from tests.album import Album
from tests.prompts.test_points import context, peak, strategy
from tests.prompts.test_strategies import EMPTY, Doubled, filled, revise


def drawn(*rows: str) -> torch.Tensor:
    """A mask that is drawn with # and dots."""
    return torch.tensor([[pixel == "#" for pixel in row] for row in rows])


def segmented(ctx, chosen, selector: str = "predicted_iou"):
    album = Album()
    pipeline = Pipeline(chosen, album, SELECTORS.build({"name": selector}))
    return pipeline(ctx, album.encode(ctx.images))


def choose(chosen, ctx, answer: Segmentation):
    asked = Prompts(
        answer.example_index, torch.zeros(len(answer), 1, 2), torch.ones(len(answer), 1, dtype=torch.long)
    )
    return chosen.choose(ctx, asked, answer, PredictedIoU())


TWO = filled(40, 30, (4, 4, 9, 8, 1.0), (25, 15, 30, 20, 0.7), (35, 2, 35, 2, 0.9))


def test_components_ask_one_query_each_and_unite_the_masks():
    ctx = context(TWO, filled(40, 30))
    prompts = strategy(name="components", min_area=0.01).propose(ctx)  # 12 px
    assert prompts.example_index.tolist() == [0, 0, 1], "the lonely pixel is too small"
    assert prompts.boxes.tolist() == [[3.5, 3.5, 9.5, 8.5], [24.5, 14.5, 30.5, 20.5], [-0.5, -0.5, 39.5, 29.5]]
    assert prompts.kinds == {"boxes"}
    centres = strategy(name="components", min_area=0.01, ask="centre").propose(ctx)
    assert centres.points[:, 0].tolist() == [[6.5, 6], [27.5, 17.5], [19.5, 14.5]]
    assert centres.kinds == {"points"}
    assert strategy(name="components", ask="both").propose(ctx).kinds == {"points", "boxes"}
    result = segmented(ctx, strategy(name="components", min_area=0.01, ask="centre"), "largest")
    assert result.masks[0].sum() == 16 * 16 + 18 * 18, "squares of 19×19 px, cut by the image, between pixels"


def test_of_components_with_nearly_the_same_mask_one_is_kept():
    """Clicks 2 px apart give squares of 19×19 px, whose boxes have an IoU of 17/21 = 0.81."""
    heat = filled(60, 40, (30, 10, 30, 18, 1.0), (32, 10, 32, 18, 1.0))
    apart = segmented(context(heat), strategy(name="components", ask="centre", nms=0.82), "largest")
    assert len(apart.choice) == 2
    assert len(segmented(context(heat), strategy(name="components", ask="centre", nms=0.8), "largest").choice) == 1


def test_s2c_clicks_the_maximum_and_distant_warm_maxima():
    y, x = np.mgrid[:9, :60]
    tops = ((3, 1.0), (8, 0.9), (30, 0.8), (55, 0.4))
    heat = np.max([top - 0.1 * np.maximum(abs(x - at), abs(y - 4)) for at, top in tops], axis=0).clip(0)
    ctx = context(heat.tolist(), filled(60, 9))
    prompts = strategy(name="s2c_peaks").propose(ctx)
    assert prompts.points[0].tolist()[0] == [3, 4]
    assert len(prompts.points[0]) == 2, "one is nearer than 20 px, one colder than 0.5"
    assert (prompts.points[0, 1] - torch.tensor([30, 4])).abs().max() <= 1, "3×3 px are equal after the filter"
    assert prompts.points[1][prompts.labels[1] == 1].tolist() == [[29.5, 4]]


def test_s2c_keeps_the_mask_of_the_largest_predicted_iou_times_mean_heat():
    """0.9·0.25 = 0.225, 0.5·0.5 = 0.25, 0.6·0.4 = 0.24; without heat the largest predicted IoU would win."""
    heat = np.zeros((5, 5))
    heat[0] = [0.5, 0.3, 0.1, 0.0, 0.4]
    ctx = replace(context(heat.tolist()), frames=Doubled())
    masks = torch.zeros(1, 4, 5, 5, dtype=torch.bool)
    masks[0, 1, 0, [0, 3]] = masks[0, 2, 0, [0]] = masks[0, 3, 0, [0, 1]] = True
    logits = Doubled().to_low_res(torch.where(masks[0], 1.0, -1.0))[None]
    answer = Segmentation(logits, torch.tensor([[1.0, 0.9, 0.5, 0.6]]), torch.tensor([0]))
    kept = choose(strategy(name="s2c_peaks"), ctx, answer)
    assert (kept.query.tolist(), kept.candidate.tolist()) == ([0], [2])
    assert kept.predicted_iou.tolist() == [0.5]
    assert choose(strategy(name="s2c_peaks", keep="whole"), ctx, answer).candidate.tolist() == [3]


def test_clip_surgery_clicks_hot_cells_and_as_many_of_the_coldest():
    """Cells of 2×2 px have means 1, 0.8; 0.1, 0.2: scaled 1, 0.78; 0, 0.11. At 0.75 two are hot, and two cold."""
    heat = np.kron([[1.0, 0.8], [0.1, 0.2]], np.ones((2, 2)))
    prompts = strategy(name="clip_surgery", cells=2, threshold=0.75).propose(context(heat.tolist()))
    asked = {
        (*xy, label) for xy, label in zip(prompts.points[0].tolist(), prompts.labels[0].tolist(), strict=True)
    }
    assert asked == {(1, 1, 1), (3, 1, 1), (1, 3, 0), (3, 3, 0)}
    one = strategy(name="clip_surgery", cells=2).propose(context(heat.tolist(), filled(4, 4)))
    assert one.labels.tolist() == [[1, 0], [1, -1]]
    assert one.points[1, 0].tolist() == [1.5, 1.5]


def test_a_skeleton_is_clicked_from_its_deepest_pixel_to_its_ends():
    """A bar of 21×3 px has its middle row for a skeleton, but for its ends."""
    ctx = context(filled(40, 9, (5, 3, 25, 5, 1.0), (30, 0, 38, 8, 0.6)), filled(40, 9))
    prompts = strategy(name="skeleton", points=3).propose(ctx)
    assert prompts.example_index.tolist() == [0, 0, 1]
    assert prompts.points[1].tolist() == [[6, 4], [24, 3], [15, 4]], "2 px deep; an end; farthest from both"
    assert len(segmented(ctx, strategy(name="skeleton")).choice) == 3, "a mask of each component"


def test_random_points_are_warm_and_the_same_in_any_batch():
    ctx = context(filled(20, 10, (2, 2, 6, 6, 1.0), (9, 9, 9, 9, 0.4)), filled(20, 10, (1, 1, 2, 1, 1.0)))
    prompts = strategy(name="random_points", k=5).propose(ctx)
    points = prompts.points[0]
    assert ((points >= 2) & (points <= 6)).all()
    assert len(points.unique(dim=0)) == 5
    assert prompts.labels.tolist() == [[1] * 5, [1, 1, -1, -1, -1]], "no more than are warm"
    second = replace(context(filled(20, 10, (2, 2, 6, 6, 1.0))), example_ids=("image 0",))
    assert torch.equal(strategy(name="random_points").propose(second).points[0], points)
    assert not torch.equal(strategy(name="random_points").propose(replace(second, seed=1)).points[0], points)


def test_the_hottest_pixels_in_scan_order():
    heat = [[0.1, 0.9, 0.9], [1.0, 0.2, 0.9]]
    assert strategy(name="hottest_k", k=3).propose(context(heat)).points[0].tolist() == [[0, 1], [1, 0], [2, 0]]
    assert strategy(name="hottest_k", k=2).propose(context(EMPTY)).points[0].tolist() == [[4, 3]] * 2


def test_subsets_are_small_sets_of_the_warm_regions_centres():
    ctx = context(filled(40, 30, (5, 5, 24, 14, 1.0)), filled(40, 30, (5, 5, 6, 5, 1.0)), filled(40, 30))
    prompts = strategy(name="subsets", draws=3).propose(ctx)
    first = prompts.example_index == 0
    sizes = (prompts.labels[first] == 1).sum(1)
    assert set(sizes.tolist()) == {4, 5, 6}
    assert first.sum() <= 9
    used = prompts.points[first][prompts.labels[first] == 1]
    assert len(used.unique(dim=0)) <= 8
    assert ((used >= 5) & (used <= torch.tensor([24, 14]))).all()
    second = prompts.points[prompts.example_index == 1]
    assert second[:, :2].tolist() == [[[5, 5], [6, 5]]], "two warm pixels are one set, drawn again and again"
    alone = replace(context(filled(40, 30, (5, 5, 24, 14, 1.0))), example_ids=("image 0",))
    assert torch.equal(strategy(name="subsets", draws=3).propose(alone).points, prompts.points[first])


def test_subsets_keep_the_mask_of_the_best_purity_and_coverage():
    """Of 4 warm pixels a mask of 2 has 2, one of 8 has 4, one of 5 has 3: 1·½, ½·1, ⅗·¾ = 0.45; with coverage²
    ¼, ½, 0.34. Another query's best is 3 of 3, ¾."""
    ctx = replace(context(filled(8, 8, (0, 0, 3, 0, 1.0))), frames=Doubled())
    rows = ["########", "##......", "########", "###.##..", "###....."]
    masks = torch.stack([drawn(row, *["........"] * 7) for row in rows])
    better = masks[[0, 1, 2, 4]]
    masks = masks[:4]
    logits = torch.stack([Doubled().to_low_res(torch.where(own, 1.0, -1.0)) for own in (masks, better)])
    answer = Segmentation(logits, torch.rand(2, 4), torch.tensor([0, 0]))
    assert choose(strategy(name="subsets"), ctx, answer[:1]).candidate.tolist() == [1], "the first of equals"
    assert choose(strategy(name="subsets", exponent=2), ctx, answer[:1]).candidate.tolist() == [2]
    kept = choose(strategy(name="subsets"), ctx, answer)
    assert (kept.query.tolist(), kept.candidate.tolist()) == ([1], [3])


def test_sam_refiner_asks_as_its_code_does():
    """The mask is a square of 5×5 px with an arm to the right. Its deepest pixel, 3 px from the outside, is its
    middle. In its box (without the last row and column, as `extract_points` cuts it) the pixel farthest from it is
    the upper right one, and its first equal."""
    mask = drawn(
        "..........",
        ".#####....",
        ".#####....",
        ".#########",
        ".#####....",
        ".#####....",
        *[".........."] * 4,
    )
    ctx = replace(context(mask.float().tolist()), frames=Doubled())
    prompts = strategy(name="sam_refiner").propose(ctx)
    assert prompts.points[0].tolist() == [[3, 3], [7, 1]]
    assert prompts.labels.tolist() == [[1, 0]]
    assert prompts.boxes.tolist() == [[0.5, 0.5, 9.5, 5.5]]
    logits = prompts.mask_logits[0, 0, ::2, ::2]
    area = 29
    assert logits[3, 3] == 30
    assert logits[1, 1] == pytest.approx(30 * np.exp(-4 * (3 - 1) ** 2 / area), rel=1e-6)
    assert logits[3, 4] == pytest.approx(30 * np.exp(-4 * (3 - 5**0.5) ** 2 / area), rel=1e-6)
    assert (logits[~mask] == -30).all()
    assert strategy(name="sam_refiner", feed_mask=False, feed_box=False).propose(ctx).kinds == {"points"}


def test_sam_refiner_asks_again_about_the_last_mask():
    ctx = replace(context(peak(10, 10, 3, 3), peak(10, 10, 3, 3)), frames=Doubled())
    refiner = strategy(name="sam_refiner")
    masks = torch.zeros(2, 10, 10, dtype=torch.bool)
    masks[1, 1:4, 5:8] = True
    prompts, active = revise(refiner, ctx, masks, refiner.propose(ctx))
    assert active.tolist() == [False, True]
    assert prompts.example_index.tolist() == [1]
    assert prompts.points[0].tolist() == [[6, 2]], "a full box leaves no place for a background point"
    assert segmented(context(TWO), refiner).rounds.tolist() == [5]
    whole = refiner.propose(replace(context(filled(10, 10)), frames=Doubled()))
    assert whole.boxes.tolist() == [[-0.5, -0.5, 9.5, 9.5]], "nothing is known: the image"
