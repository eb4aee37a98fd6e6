"""Numbers worked out by hand, and one definition shared by batches, shards and whole runs."""

import numpy as np
import pandas as pd
import pytest
import torch
from torchmetrics.functional import jaccard_index

from gradsam_exp.metrics.base import build_metrics
from gradsam_exp.metrics.masks import MeanMaskIoU
from gradsam_exp.metrics.points import PointDistance, PointHitRate, points_on_masks
from gradsam_exp.overlap import iou
from gradsam_exp.runs.summary import MetricFacts, summarize, summarize_run
from gradsam_exp.types import BACKGROUND, FOREGROUND, Prompts

USUAL = dict.fromkeys(["fg_hit_rate", "bg_hit_rate", "distance_px", "miou", "accuracy", "sparsity"], True)
MASK = torch.zeros(1, 6, 8, dtype=torch.bool)
MASK[0, 2:4, 3:6] = True  # x 3..5, y 2..3: centre of mass (4, 2.5)


def one_query(*points: tuple[float, float, int]) -> Prompts:
    return Prompts(
        torch.tensor([0]), torch.tensor([[p[:2] for p in points]]).float(), torch.tensor([[p[2] for p in points]])
    )


def test_points_hit_the_pixel_they_round_to():
    prompts = one_query((3, 2, 1), (2.5, 2, 1), (2.49, 2, 1), (5.49, 3.49, 1), (5.5, 3, 1), (4, 3.5, 1))
    assert points_on_masks(prompts, MASK)[0].tolist() == [True, True, False, True, False, False]


def test_hit_rates_of_foreground_and_background():
    prompts = one_query((3, 2, 1), (0, 0, 1), (4, 3, 0), (7, 5, 0), (0, 5, 0), (4, 2, -1))
    assert PointHitRate(FOREGROUND).measure(prompts, MASK).tolist() == [1 / 2]
    assert PointHitRate(BACKGROUND).measure(prompts, MASK).tolist() == [2 / 3]


def test_distance_to_the_centre_of_mass():
    prompts = one_query((4, 2.5, 1), (7, 6.5, 1), (0, 0, 0))
    assert PointDistance().measure(prompts, MASK).tolist() == [2.5]  # (0 + 5) / 2


def test_images_without_such_points_do_not_count():
    masks = MASK.expand(2, -1, -1)
    prompts = Prompts(torch.tensor([0]), torch.tensor([[[3.0, 2.0]]]), torch.tensor([[1]]))
    foreground, background = PointHitRate(FOREGROUND), PointHitRate(BACKGROUND)
    foreground.update(prompts, masks)
    background.update(prompts, masks)
    assert foreground.per_example().isnan().tolist() == [False, True]
    assert foreground.compute() == 1.0
    assert background.compute().isnan()


def test_several_queries_of_an_image_are_pooled():
    prompts = Prompts(torch.tensor([0, 0]), torch.tensor([[[3.0, 2.0]], [[0.0, 0.0]]]), torch.tensor([[1], [1]]))
    assert PointHitRate(FOREGROUND).measure(prompts, MASK).tolist() == [0.5]


def test_distance_from_an_empty_mask_is_unknown():
    metric = PointDistance()
    metric.update(one_query((3, 2, 1)), torch.zeros(1, 6, 8, dtype=torch.bool))
    assert metric.compute().isnan()


def test_iou_by_hand_and_of_empty_masks():
    predicted = torch.zeros(3, 6, 8, dtype=torch.bool)
    predicted[0, 2:4, 4:8] = True  # 4 in common, 10 in the union
    truth = torch.cat([MASK, MASK, torch.zeros_like(MASK)])
    assert iou(predicted, truth).tolist() == [0.4, 0.0, 1.0]


def test_iou_equals_torchmetrics_per_image():
    torch.manual_seed(0)
    predicted, truth = torch.rand(20, 12, 16) > 0.5, torch.rand(20, 12, 16) > 0.3
    ours = iou(predicted, truth)
    theirs = [jaccard_index(p.int(), t.int(), "binary").item() for p, t in zip(predicted, truth, strict=True)]
    assert ours.tolist() == pytest.approx(theirs)


def test_batches_add_up_to_the_whole():
    torch.manual_seed(0)
    predicted, truth = torch.rand(7, 6, 8) > 0.5, torch.rand(7, 6, 8) > 0.5
    whole, parts = MeanMaskIoU(), MeanMaskIoU()
    whole.update(predicted, truth)
    for rows in ([0, 1, 2], [3], [4, 5, 6]):
        parts.update(predicted[rows], truth[rows])
    assert parts.compute() == whole.compute()
    assert torch.equal(parts.per_example(), whole.per_example())
    whole.reset()
    assert len(whole.per_example()) == 0


def test_hit_rate_refuses_an_unknown_label():
    with pytest.raises(ValueError, match=r"1 .foreground. or 0"):
        PointHitRate(2)


def test_summary_leaves_out_what_has_no_value():
    summary = summarize(np.array([0.0, 1.0, np.nan, 1.0]))
    assert summary.mean == pytest.approx(2 / 3)
    assert summary.n == 3
    low, high = summary.ci95
    assert 0 <= low < 2 / 3 < high <= 1


def test_summary_of_one_and_of_no_value():
    assert summarize(np.array([0.5])).ci95 == (0.5, 0.5)
    nothing = summarize(np.array([np.nan]))
    assert nothing.n == 0
    assert nothing.as_json() == {"mean": None, "ci95": [None, None], "n": 0}


def test_interval_covers_the_mean_as_often_as_it_says():
    """95 % intervals of means of 60 draws: the true mean lies inside in 92 to 98 of 100 repetitions."""
    rng = np.random.default_rng(0)
    inside = 0
    for repetition in range(100):
        low, high = summarize(rng.beta(5, 2, 60), seed=repetition).ci95
        inside += low <= 5 / 7 <= high
    assert 88 <= inside <= 99


def test_summary_of_a_run_counts_each_metrics_own_images():
    table = pd.DataFrame(
        {
            "iou": [0.5, 1.0],
            "fg_hit_rate": [1.0, 1.0],
            "bg_hit_rate": [np.nan, 0.5],
            "distance_px": [np.nan, np.nan],
            "correct": [True, False],
        }
    )
    run = summarize_run(table, {m.name: MetricFacts.of(m) for m in build_metrics(USUAL)})
    assert {name: s.n for name, s in run.items()} == {
        "fg_hit_rate": 2, "bg_hit_rate": 1, "distance_px": 0, "miou": 2, "accuracy": 2
    }  # fmt: skip
    assert run["accuracy"].mean == 0.5
