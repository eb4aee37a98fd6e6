"""Strategies that others published, on cases worked out by hand from their papers and code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gradsam_exp.engine.pipeline import Pipeline
from gradsam_exp.prompts.gensam import widest_boxes
from gradsam_exp.segmenters.everything import everything
from gradsam_exp.selectors.base import SELECTORS
from gradsam_exp.selectors.score import PredictedIoU
from gradsam_exp.types import EverythingMode, Heatmaps, MaskSet, Prompts, Segmentation
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
    equal = strategy(name="hottest_k", k=60).propose(context(filled(40, 30, (0, 0, 39, 29, 1.0)))).points[0]
    assert equal.tolist() == [[k % 40, k // 40] for k in range(60)]


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
    squared = choose(strategy(name="subsets", exponent=2), ctx, answer[:1])
    assert squared.candidate.tolist() == [2]
    assert squared.predicted_iou.tolist() == [answer.predicted_iou[0, 2]]
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


def test_sam_refiners_second_round_by_hand():
    """`sam_refiner` asks about its answer as about the coarse mask. This one's distances are 1 px at the edge and
    2 px in the middle column: the first maximum is (2, 2). In its box, cut to x 1…4, y 1…4 as in `extract_points`,
    all pixels off the mask are 1 px away: (4, 1) is the first. The area is 17: at distance 1 the logits are
    30·exp(−(1 − 2)² / (17/4))."""
    answer = drawn(
        ".......",
        ".###...",
        ".###...",
        ".###...",
        ".###...",
        ".#####.",
        ".......",
    )
    refiner = strategy(name="sam_refiner")
    ctx = replace(context(peak(7, 7, 5, 5)), frames=Doubled())
    prompts, active = revise(refiner, ctx, answer[None], refiner.propose(ctx))
    assert active.tolist() == [True]
    assert prompts.points[0].tolist() == [[2, 2], [4, 1]]
    assert prompts.boxes.tolist() == [[0.5, 0.5, 5.5, 5.5]]
    logits = prompts.mask_logits[0, 0, ::2, ::2]
    assert logits[2, 2] == 30
    assert logits[1, 1] == pytest.approx(30 * np.exp(-4 / 17), rel=1e-6)
    assert (logits[~answer] == -30).all()
    small = strategy(name="sam_refiner", gamma=100.0)
    prompts, _ = revise(small, ctx, answer[None], small.propose(ctx))
    assert prompts.mask_logits[0, 0, 2, 2] == pytest.approx(30 * np.exp(-1), rel=1e-6), "max(17 / 100, 1) = 1"


def found(*masks: torch.Tensor) -> MaskSet:
    """A mask set; the click of mask k is (k, 0), its candidate 1 + k % 3."""
    number = torch.arange(len(masks))
    points = torch.stack([number, 0 * number], 1).float()
    scores = torch.full((len(masks),), 0.9)
    packed = MaskSet.pack(torch.stack(masks))
    return MaskSet(packed, points, 1 + number % 3, scores, scores, (masks[0].shape[0], masks[0].shape[1]))


def clicked(prompts: Prompts) -> list[tuple[int, int, int]]:
    """Of each query the example, the number of the mask, and the candidate."""
    assert prompts.candidate is not None
    rows = zip(prompts.example_index, prompts.points[:, 0, 0], prompts.candidate, strict=True)
    return [(int(example), int(number), int(candidate)) for example, number, candidate in rows]


WARM = drawn("####....", "####....", "........")
MASKS = (
    drawn("##......", "........", "........"),  # all of it is warm
    drawn("...##...", "........", "........"),  # half of it, which is not more than half
    drawn("########", "########", "########"),  # covers all that is warm
    drawn("........", "........", "########"),  # cold
    drawn("....####", "####....", "........"),  # half
)


def test_sepl_merges_what_is_warm_or_covers_the_warm_and_fills_in_what_no_mask_has():
    """`max_iou_imp2`: kept if 2·|m∩p| > |m| or |m∩p| ≥ 0.85·|p|; then the pixels of p in no mask of the image."""
    ctx = replace(context(WARM.float().tolist()), everything=[found(*MASKS)])
    merge = strategy(name="everything_merge")
    assert clicked(merge.propose(ctx)) == [(0, 0, 1), (0, 2, 3)]
    assert clicked(strategy(name="everything_merge", own_share=0.4).propose(ctx)) == [
        (0, 0, 1), (0, 1, 2), (0, 2, 3), (0, 4, 2),
    ]  # fmt: skip
    some = replace(ctx, everything=[found(MASKS[0], MASKS[3])])
    assert clicked(merge.propose(some)) == [(0, 0, 1)]
    assert torch.equal(merge.complete(some, MASKS[0][None])[0], WARM)
    assert torch.equal(strategy(name="everything_merge", fill=False).complete(some, MASKS[0][None])[0], MASKS[0])
    unknown = replace(context(filled(8, 3)), everything=[found(*MASKS)])
    assert clicked(merge.propose(unknown)) == []
    assert not merge.complete(unknown, torch.zeros(1, 3, 8, dtype=torch.bool)).any(), (
        "an empty heatmap says nothing"
    )


def test_masks_vote_by_mean_heat_against_the_background():
    """Heat 0.5 loses against 0.5^0.6 = 0.66, 0.6 wins against 0.4^0.6 = 0.58; with alpha 2 both win, 0.1 loses."""
    heat = np.full((3, 8), 0.1)
    heat[0, 0], heat[1, 0] = 0.5, 0.6
    one, two = (drawn(*("#......." if row == at else "........" for row in range(3))) for at in (0, 1))
    ctx = replace(context(heat.tolist()), everything=[found(one, two, MASKS[3])])
    assert clicked(strategy(name="everything_vote").propose(ctx)) == [(0, 1, 2)]
    assert clicked(strategy(name="everything_vote", alpha=2.0).propose(ctx)) == [(0, 0, 1), (0, 1, 2)]


def test_borgli_takes_the_mask_that_is_most_like_the_boxs():
    """IoU 2/8, 1/9, 8/24, 0, 4/12."""
    ctx = replace(
        context(WARM.float().tolist(), WARM.float().tolist()), everything=[found(*MASKS), found(MASKS[3])]
    )
    box = strategy(name="box_then_everything")
    assert torch.equal(box.propose(ctx).boxes, strategy(name="box").propose(ctx).boxes)
    prompts, active = revise(box, ctx, torch.stack([WARM, WARM]), box.propose(ctx))
    assert active.tolist() == [True, False], "without any overlap the box's mask stays"
    assert clicked(prompts) == [(0, 2, 3)], "the first of equals"


def test_the_masks_of_everything_mode_are_the_answer():
    ctx = context(filled(40, 30, (5, 5, 34, 24, 1.0)))
    lenient = {"points_per_side": 4, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.5}
    result = segmented(ctx, strategy(name="everything_vote", **lenient))
    album = Album()
    masks = everything(album, album.encode(ctx.images), EverythingMode(4, 0.5, 0.5)).masks
    inside = [mask for mask in masks if (ctx.heatmaps.values[0] * mask).sum() > 0.5 * mask.sum()]
    assert len(result.choice) == len(inside) > 3
    assert torch.equal(result.masks[0], torch.stack(inside).any(0))


def test_persam_clicks_where_features_are_most_and_least_like_the_warm_ones():
    """`point_selection` of persam.py; the warm one of 2×2 cells is at the upper left: cosines 1, 0.6, −1, 0."""
    features = torch.tensor([[[2.0, 3.0], [-1.0, 0.0]], [[0.0, 4.0], [0.0, 1.0]]])[None]
    ctx = replace(context(peak(8, 8, 1, 1)), features=features)
    persam = strategy(name="persam")
    cosines = [[1.0, 0.6], [-1.0, 0.0]]
    expected = torch.nn.functional.interpolate(torch.tensor(cosines)[None, None], (8, 8), mode="bilinear")[0, 0]
    torch.testing.assert_close(persam.similarity(ctx)[0], expected)
    prompts = persam.propose(ctx)
    assert prompts.points[0].tolist() == [[0, 0], [0, 6]], "the first of the equal pixels"
    assert prompts.labels.tolist() == [[1, 0]]


def test_persam_learns_from_the_cells_whose_middle_is_warm():
    """`set_image` of per_segment_anything normalizes the mask, (255·m − 123.675) / 58.395, and `persam.py` samples
    it at each cell's middle: above 0 are more than 0.485 of 2×2 px. Two of four are, in the first cell (0.5); one
    of four is in the second (0.25), which is therefore no part of the mean, though it touches the mask."""
    features = torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]])[None]  # cells of 4×4 px
    heat = np.zeros((4, 12))
    heat[1, 1:6] = 1.0
    persam = strategy(name="persam")
    ctx = replace(context(heat.tolist()), features=features)
    assert persam.similarity(ctx)[0, 0].tolist() == [1, 1, 0.875, 0.625, 0.375, 0.125, *[0] * 6]
    prompts = persam.propose(ctx)
    assert prompts.points[0].tolist() == [[0, 0], [6, 0]]
    edge = np.zeros((4, 12))
    edge[0, 8] = 1.0
    assert persam.propose(replace(ctx, heatmaps=context(edge.tolist()).heatmaps)).points[0, 0].tolist() == [
        10,
        0,
    ], "in the middle of no cell: the cell that is touched"


def test_persam_refines_as_its_code_does(segmenter):
    """One mask, then three asked with its logits, then three asked with those and the box."""
    images = torch.randint(0, 256, (1, 3, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ctx = replace(context(peak(64, 48, 20, 20)), images=images)
    embeddings = segmenter.encode(images)
    assert embeddings.features.shape[2:] == (12, 16), "without the padding below"
    once, twice, thrice = (
        Pipeline(strategy(name="persam", max_rounds=rounds), segmenter, PredictedIoU())(ctx, embeddings)
        for rounds in (1, 2, 3)
    )
    assert once.candidates.tolist() == [0]
    assert twice.candidates[0] > 0
    assert [sorted(one.prompts.kinds) for one in (once, twice, thrice)] == [
        ["points"], ["masks", "points"], ["boxes", "masks", "points"],
    ]  # fmt: skip
    torch.testing.assert_close(twice.prompts.mask_logits[0], once.segmentation.logits[0, :1])
    best = twice.segmentation.predicted_iou[0, 1:].argmax() + 1  # np.argmax(scores) of the three
    assert twice.candidates.tolist() == [best]
    torch.testing.assert_close(thrice.prompts.mask_logits[0, 0], twice.segmentation.logits[0, best])
    ys, xs = twice.masks[0].nonzero(as_tuple=True)
    assert thrice.prompts.boxes[0].tolist() == [xs.min() - 0.5, ys.min() - 0.5, xs.max() + 0.5, ys.max() + 0.5]
    assert torch.equal(thrice.prompts.points, once.prompts.points), "the points stay"


def test_gensam_explains_the_image_that_its_heatmap_has_dimmed():
    """0.3 · 100 · heat + 0.7 · 100, then 0.3 · 100 · new heat + 0.7 · that; each heatmap gives new points."""
    shown = []
    later = torch.zeros(1, 8, 8)
    later[0, 6:, 6:] = 1.0

    def explain(images: torch.Tensor, targets: torch.Tensor) -> Heatmaps:
        shown.append((images[0, 0, 0, 0].item(), images[0, 0, 7, 7].item(), targets.tolist()))
        return Heatmaps(later, torch.tensor([False]), targets)

    ctx = context(filled(8, 8, (0, 0, 1, 1, 1.0)))
    ctx = replace(ctx, images=torch.full((1, 3, 8, 8), 100, dtype=torch.uint8), explain=explain)
    ctx = replace(ctx, heatmaps=replace(ctx.heatmaps, targets=torch.tensor([4])))
    gensam = strategy(name="gensam", cells=4, max_rounds=3)
    assert gensam.propose(ctx).points[0].tolist() == [[1, 1], [3, 1]], "one hot cell, the first cold one"
    result = segmented(ctx, gensam)
    assert shown == [(100, 70, [4]), (70, 79, [4])], "70 + 0; 0.7 · 100; 30 + 49"
    assert result.rounds.tolist() == [3]
    assert result.prompts.points[0, 0].tolist() == [7, 7]
    with pytest.raises(ValueError, match="asks the classifier again"):
        segmented(context(EMPTY), strategy(name="gensam"))


def test_the_component_with_the_largest_box_a_tenth_wider():
    mask = torch.zeros(2, 30, 40, dtype=torch.bool)
    mask[0, 2:4, 2:4] = True
    mask[0, 10, 10:30] = mask[0, 10:20, 29] = True  # 20×10 px
    assert widest_boxes(mask).tolist() == [[7.5, 8.5, 31.5, 20.5], [-0.5, -0.5, 39.5, 29.5]]
