"""The strategies beyond fg and fgbg, on heatmaps small enough to work out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gradsam_exp.prompts.adaptive import heatmap_agreement, innermost_places
from gradsam_exp.prompts.base import STRATEGIES
from gradsam_exp.prompts.regions import bounding_boxes
from gradsam_exp.types import Segmentation
from tests.prompts.test_points import context, peak, strategy


def filled(width: int, height: int, *boxes: tuple[int, int, int, int, float]) -> list[list[float]]:
    values = np.zeros((height, width))
    for x0, y0, x1, y1, heat in boxes:
        values[y0 : y1 + 1, x0 : x1 + 1] = heat
    return values.tolist()


EMPTY = filled(9, 7)


def test_argmax_and_the_corner_farthest_from_it():
    ctx = context(peak(9, 7, x=6, y=1), EMPTY)
    assert strategy(name="argmax").propose(ctx).points[:, 0].tolist() == [[6, 1], [4, 3]]
    prompts = strategy(name="argmax_corner").propose(ctx)
    assert prompts.points[0].tolist() == [[6, 1], [0, 6]]
    assert prompts.labels[0].tolist() == [1, 0]


def test_topk_prefers_a_warm_region_to_a_lonely_peak():
    ctx = context(filled(15, 9, (1, 1, 1, 1, 1.0), (8, 3, 12, 7, 0.9)), filled(15, 9))
    points = strategy(name="topk_smoothed", k=3, radius=2).propose(ctx).points
    assert points[0, 0].tolist() == [10, 5]
    assert all(8 <= x <= 12 and 3 <= y <= 7 for x, y in points[0].tolist())
    assert points[1].tolist() == [[7, 4]] * 3


def test_topk_adds_heat_by_the_inverse_of_the_distance():
    """A row of 1, 0, 0.9, 0 adds up to 1 + 0.9/2, 1 + 0.9, 1/2 + 0.9, 1/3 + 0.9."""
    row = [[1.0, 0.0, 0.9, 0.0]]
    assert strategy(name="topk_smoothed", k=4).propose(context(row)).points[0, :, 0].tolist() == [1, 0, 2, 3]
    assert strategy(name="topk_smoothed", k=4, radius=1).propose(context(row)).points[0, :, 0].tolist() == [
        1,
        0,
        2,
        3,
    ]
    tie = [[1.0, 0.0, 0.0, 0.0, 0.5]]  # without the square's reach, the peak alone
    assert strategy(name="topk_smoothed", radius=1).propose(context(tie)).points[0, :, 0].tolist() == [0]


def test_far_points_are_far_and_do_not_depend_on_batching():
    ctx = context(peak(30, 20, 4, 4), peak(30, 20, 25, 15))
    far = strategy(name="topk_far", k=1, n=4, distance=8.0, radius=1)
    prompts = far.propose(ctx)
    assert prompts.labels.tolist() == [[1, 0, 0, 0, 0]] * 2
    distances = (prompts.points[:, 1:] - prompts.points[:, :1]).norm(dim=2)
    assert distances.min() > 8
    second = replace(context(peak(30, 20, 25, 15)), example_ids=("image 1",))
    assert torch.equal(far.propose(second).points[0], prompts.points[1])
    nowhere = strategy(name="topk_far", k=1, n=4, distance=99.0, radius=1).propose(ctx)
    assert (nowhere.labels == 1).all()


def test_several_peaks_become_several_points_of_one_query():
    ctx = context(
        filled(20, 9, (3, 4, 3, 4, 1.0), (5, 4, 5, 4, 0.9), (15, 4, 15, 4, 0.8), (10, 1, 10, 1, 0.3)),
        filled(20, 9),
    )
    prompts = strategy(name="multi_peak", peaks=3, min_distance=3, min_heat=0.5).propose(ctx)
    assert sorted(prompts.points[0].tolist()) == [[3, 4], [15, 4]], "one is too near, one too cold"
    assert prompts.points[1][prompts.labels[1] == 1].tolist() == [[9.5, 4]]
    two = strategy(name="multi_peak", peaks=2, min_distance=1, min_heat=0.5).propose(ctx)
    assert sorted(two.points[0].tolist()) == [[3, 4], [5, 4]], "the hottest"


def test_a_box_holds_the_component_of_the_peak():
    ctx = context(filled(12, 8, (2, 1, 4, 5, 1.0), (9, 1, 10, 2, 0.9)), filled(12, 8))
    prompts = strategy(name="box").propose(ctx)
    assert prompts.boxes.tolist() == [[1.5, 0.5, 4.5, 5.5], [-0.5, -0.5, 11.5, 7.5]]
    assert prompts.kinds == {"boxes"}
    assert strategy(name="box", margin=3.0).propose(ctx).boxes[0].tolist() == [-0.5, -0.5, 7.5, 7.5]
    both = strategy(name="box_points", grid_size=1).propose(ctx)
    assert both.kinds == {"boxes", "points"}
    assert both.points[0, 0].tolist() != [0, 0]


class Doubled:
    """A low-resolution grid of twice the size, to have one."""

    def to_low_res(self, values: torch.Tensor) -> torch.Tensor:
        return values.repeat_interleave(2, 1).repeat_interleave(2, 2)

    def to_original(self, logits: torch.Tensor) -> torch.Tensor:
        return logits[:, ::2, ::2] > 0


def test_the_heatmap_itself_as_mask_prompt():
    ctx = replace(context(filled(6, 6, (1, 1, 2, 2, 1.0))), frames=Doubled())
    prompts = strategy(name="mask", gain=10.0, mask_threshold=0.4).propose(ctx)
    assert prompts.mask_logits.shape == (1, 1, 12, 12)
    assert prompts.mask_logits[0, 0, 3, 3] == pytest.approx(6.0)
    assert prompts.mask_logits[0, 0, 0, 0] == pytest.approx(-4.0)
    assert prompts.kinds == {"points", "masks"}
    assert strategy(name="mask", points=False).propose(ctx).kinds == {"masks"}
    with pytest.raises(ValueError, match="needs the segmenter's frames"):
        strategy(name="mask").propose(context(EMPTY))


def test_the_warm_pixels_as_mask_prompt():
    heat = [[0.0, 1.0, 0.5], [0.4, 0.49, 0.0], [0.0, 0.0, 0.5]]
    ctx = replace(context(heat, np.zeros((3, 3)).tolist()), frames=Doubled())
    prompts = strategy(name="threshold", fg_threshold=0.5).propose(ctx)
    assert prompts.kinds == {"masks"}
    assert prompts.mask_logits[0, 0, ::2, ::2].tolist() == [[-4, 4, 4], [-4, -4, -4], [-4, -4, 4]]
    assert prompts.mask_logits[0, 0, 1::2, 1::2].tolist() == prompts.mask_logits[0, 0, ::2, ::2].tolist()
    assert (prompts.mask_logits[1] == -4).all(), "nothing is warm in an empty heatmap"
    peak_only = strategy(name="threshold", fg_threshold=0.5, region="peak", logit=9.0).propose(ctx)
    assert peak_only.mask_logits[0, 0, ::2, ::2].tolist() == [[-9, 9, 9], [-9, -9, -9], [-9, -9, -9]]


def test_a_grid_of_queries_on_the_warm_pixels():
    ctx = context(filled(12, 8, (0, 0, 5, 7, 1.0)), filled(12, 8), filled(12, 8, (6, 0, 11, 3, 0.5)))
    prompts = strategy(name="grid_match", spacing=4).propose(ctx)
    assert prompts.example_index.tolist() == [0, 0, 1, 2, 2]
    assert prompts.points[:, 0].tolist() == [[2, 2], [2, 6], [5.5, 3.5], [6, 2], [10, 2]]
    assert prompts.labels.tolist() == [[1]] * 5


def leaking():
    """A warm square at the left; the mask covers it and a cold bar at the right."""
    ctx = context(filled(20, 10, (2, 2, 6, 6, 1.0)), filled(20, 10, (2, 2, 6, 6, 1.0)), filled(20, 10))
    masks = torch.zeros(3, 10, 20, dtype=torch.bool)
    masks[:, 2:7, 2:7] = True
    masks[0, 2:7, 12:17] = True
    return ctx, masks


def revise(chosen, ctx, masks, prompts):
    nothing = Segmentation(torch.zeros(len(prompts), 4, 4, 4), torch.zeros(len(prompts), 4), prompts.example_index)
    return chosen.revise(ctx, prompts, nothing, masks, torch.zeros(len(masks), 4, 4))


def test_adaptive_puts_background_points_into_the_leak_and_nowhere_else():
    ctx, masks = leaking()
    adaptive = strategy(name="adaptive", grid_size=1)
    first = adaptive.propose(ctx)
    prompts, active = revise(adaptive, ctx, masks, first)
    assert active.tolist() == [True, False, False], "the second mask fits, the third heatmap knows nothing"
    assert prompts.example_index.tolist() == [0]
    assert prompts.points[0, 0].tolist() == first.points[0, 0].tolist()
    assert prompts.points[0, prompts.labels[0] == 0].tolist() == [[14, 4]]


def test_adaptive_looks_at_the_area_as_well():
    ctx = context(filled(20, 10, (0, 0, 19, 9, 0.4), (2, 2, 4, 4, 1.0)))
    masks = torch.ones(1, 10, 20, dtype=torch.bool)
    _, leaks = strategy(name="adaptive").leaks(ctx, masks)
    assert leaks.tolist() == [True]
    prompts, active = revise(strategy(name="adaptive"), ctx, masks, strategy(name="adaptive").propose(ctx))
    assert active.tolist() == [False], "too large, but no pixel is cold: nowhere to put a background point"
    assert len(prompts) == 0
    assert strategy(name="adaptive", max_area_ratio=100.0).leaks(ctx, masks)[1].tolist() == [False]


def test_adaptive_leaves_masks_alone_that_the_heatmap_does_not_support():
    ctx, masks = leaking()  # of the first mask's pixels half are as hot as can be, the others cold
    assert strategy(name="adaptive", min_support=0.5).leaks(ctx, masks)[1].tolist() == [True, False, False]
    assert strategy(name="adaptive", min_support=0.51).leaks(ctx, masks)[1].tolist() == [False, False, False]


def test_adaptive_keeps_what_agrees_better():
    ctx, masks = leaking()
    good = masks.clone()
    good[0, :, 10:] = False
    adaptive = strategy(name="adaptive")
    assert adaptive.better(ctx, good, masks).tolist() == [True, False, False]
    assert adaptive.better(ctx, masks, good).tolist() == [False, False, False]
    assert heatmap_agreement(ctx, masks)[:2].tolist() == [0.5, 1.0]
    assert strategy(name="adaptive", min_gain=0.5).better(ctx, good, masks).tolist() == [False] * 3
    assert strategy(name="adaptive", min_gain=-0.6).better(ctx, masks, good).tolist() == [True] * 3


def test_adaptive_decided_by_the_truth_is_an_upper_bound():
    """The revised mask agrees less with the heatmap; of four true pixels it has two, the first mask one."""
    ctx = context(filled(4, 2, (0, 0, 0, 0, 1.0)))
    first, revised, truth = (torch.zeros(1, 2, 4, dtype=torch.bool) for _ in range(3))
    first[0, 0, 0], revised[0, 0, 2:], truth[0, 0, 1:] = True, True, True
    truth[0, 0, 0] = True
    bound = strategy(name="adaptive", decide="truth")
    assert bound.needs_truth
    assert not strategy(name="adaptive").needs_truth
    known = replace(ctx, masks=truth)
    assert bound.better(known, revised, first).tolist() == [True]
    assert bound.better(known, first, revised).tolist() == [False]
    assert bound.better(known, first, first).tolist() == [False]
    assert strategy(name="adaptive").better(known, revised, first).tolist() == [False]
    counted = torch.ones_like(truth)
    counted[0, 0, 2:] = False  # what the revised mask has does not count
    assert bound.better(replace(known, counted=counted), revised, first).tolist() == [False]
    with pytest.raises(ValueError, match="needs true masks"):
        bound.better(ctx, revised, first)


def test_innermost_places_of_the_largest_components():
    region = torch.zeros(9, 12, dtype=torch.bool)
    region[0:5, 0:5] = True
    region[7, 8:11] = True
    region[0, 11] = True
    assert innermost_places(region, 2) == [(2.0, 2.0), (8.0, 7.0)]
    assert innermost_places(torch.zeros(3, 3, dtype=torch.bool), 2) == []


def test_bounding_boxes_enclose_the_outermost_pixels():
    masks = torch.zeros(3, 4, 6, dtype=torch.bool)
    masks[0, 1:3, 2:5] = True
    masks[1, 3, 5] = True
    boxes = bounding_boxes(masks).tolist()
    assert boxes == [[1.5, 0.5, 4.5, 2.5], [4.5, 2.5, 5.5, 3.5], [-0.5, -0.5, 5.5, 3.5]]


def test_a_cascade_feeds_back_what_it_is_told_to():
    ctx = context(filled(20, 10, (2, 2, 5, 5, 1.0)), filled(20, 10, (9, 2, 12, 5, 1.0)))
    masks = torch.zeros(2, 10, 20, dtype=torch.bool)
    masks[1, 3:6, 9:11] = True
    chosen = torch.rand(2, 64, 64)
    answer = Segmentation(torch.zeros(2, 4, 64, 64), torch.zeros(2, 4), torch.arange(2))

    def again(**settings):
        cascade = strategy(name="cascade", grid_size=1, **settings)
        return cascade.revise(ctx, cascade.propose(ctx), answer, masks, chosen)

    prompts, active = again()
    assert active.tolist() == [False, True], "an empty mask has nothing to feed back"
    assert prompts.example_index.tolist() == [1]
    assert prompts.kinds == {"points", "masks"}
    assert torch.equal(prompts.mask_logits, chosen[1:, None])
    assert again(feed_box=True)[0].boxes.tolist() == [[8.5, 2.5, 10.5, 5.5]]
    assert again(feed_box=True, feed_points=False)[0].kinds == {"boxes", "masks"}
    both = torch.ones_like(masks)
    cascade = strategy(name="cascade", grid_size=1, feed_box=True)
    later = cascade.propose(ctx)[torch.tensor([1, 0])]  # as after a round in which one image's answer was kept
    prompts, _ = cascade.revise(
        ctx, later, answer, both & (torch.arange(20) < 5 + 5 * torch.arange(2)[:, None, None]), chosen
    )
    assert torch.equal(prompts.mask_logits[:, 0], chosen[[1, 0]]), "each image's own, in any order"
    assert prompts.boxes[:, 2].tolist() == [9.5, 4.5]
    boxed = strategy(name="cascade", start="box").propose(ctx)
    assert torch.equal(boxed.boxes, strategy(name="box").propose(ctx).boxes)


def test_every_strategy_is_found_by_name():
    assert set(STRATEGIES.names()) == {
        "adaptive", "argmax", "argmax_corner", "box", "box_points", "box_then_everything", "cascade", "center",
        "clip_surgery", "components", "everything_merge", "everything_vote", "fg", "fgbg", "gensam", "grid_match",
        "hottest_k", "mask", "multi_peak", "oracle", "oracle_box", "oracle_heatmap", "persam", "random_points",
        "robot_user", "s2c_peaks", "sam_refiner", "skeleton", "subsets", "threshold", "topk_far",
        "topk_smoothed",
    }  # fmt: skip


def test_a_perfect_heatmap_is_the_true_mask():
    mask = torch.zeros(2, 9, 13, dtype=torch.bool)
    mask[0, 2:5, 6:11] = True
    ctx = replace(context(peak(13, 9, 1, 1), peak(13, 9, 1, 1)), masks=mask)
    found = strategy(name="oracle_heatmap")
    assert found.needs_truth
    points = found.propose(ctx).points
    assert points[0].tolist() == [[x, y] for y in (2, 3, 4) for x in (7, 8, 9)]
    assert points[1].mean(0).tolist() == [6, 4], "an empty mask gets the image's centre"
