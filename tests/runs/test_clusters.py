"""Examples of one image are drawn together when an interval is made."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from gradsam_exp.runs.paired import all_pairs, paired_difference
from gradsam_exp.runs.summary import MetricFacts, summarize, summarize_run


def test_an_image_that_comes_several_times_is_one_draw():
    """Three equal values of one image say no more than one, but weigh as much as three in the mean."""
    rng = np.random.default_rng(0)
    values = rng.random(40)
    images = np.arange(40)
    once, thrice = summarize(values), summarize(np.repeat(values, 3), images=np.repeat(images, 3))
    assert thrice.mean == pytest.approx(once.mean)
    assert thrice.n == 120
    assert thrice.ci95 == pytest.approx(once.ci95, abs=1e-12)
    narrow = summarize(np.repeat(values, 3))
    assert narrow.ci95[1] - narrow.ci95[0] < 0.7 * (once.ci95[1] - once.ci95[0])


def test_images_of_one_example_each_change_nothing():
    values = np.random.default_rng(1).random(30)
    names = np.array([f"image-{k}" for k in range(30)])
    values[4] = np.nan
    assert summarize(values, images=names) == summarize(values)
    assert summarize(values, images=names[::-1]) == summarize(values)
    assert paired_difference(values, values / 2, images=names) == paired_difference(values, values / 2)
    table = np.random.default_rng(2).random((3, 30))
    assert all_pairs(table, images=names) == all_pairs(table)


def test_two_images_by_hand():
    """Resamples are a a, a b (twice as often) and b b: means 0, 2/3 and 1."""
    found = summarize(np.array([0.0, 1.0, 1.0]), images=["a", "b", "b"])
    assert found.mean == pytest.approx(2 / 3)
    assert found.ci95 == (0.0, 1.0)
    assert summarize(np.array([0.2, 0.4]), images=["a", "a"]).ci95 == pytest.approx((0.3, 0.3))


def test_pairs_of_examples_are_tested_by_image():
    rng = np.random.default_rng(0)
    difference = 0.1 * rng.standard_normal(20)
    baseline = rng.random(60)
    images = np.repeat(np.arange(20), 3)
    found = paired_difference(baseline + np.repeat(difference, 3), baseline, images=images)
    assert found.p == pytest.approx(wilcoxon(difference).pvalue)
    assert found.difference.ci95 == pytest.approx(summarize(difference).ci95, abs=1e-9)
    assert found.wins + found.losses == 60
    pair = all_pairs(np.stack([baseline, baseline + np.repeat(difference, 3)]), images=images)[1, 0]
    assert pair.p == pytest.approx(found.p)
    assert pair.difference.ci95 == pytest.approx(found.difference.ci95, abs=1e-9)


def test_equal_differences_are_ties_however_they_were_rounded():
    run = np.array([0.3, 0.4, 0.5, 0.6, 0.8, 0.9])
    baseline = np.array([0.2, 0.3, 0.4, 0.5, 0.7, 1.1])
    exact = np.array([0.1] * 5 + [-0.2])
    assert paired_difference(run, baseline).p == pytest.approx(wilcoxon(exact).pvalue)


def test_a_runs_table_says_which_images_belong_together():
    table = pd.DataFrame({"image_id": ["a", "b", "b"], "iou": [0.0, 1.0, 1.0]})
    assert summarize_run(table, {"miou": MetricFacts("iou", "mIoU")})["miou"].ci95 == (0.0, 1.0)
