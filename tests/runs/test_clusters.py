"""Examples of one unit, an image or a group of images, are drawn together when an interval is made."""

import numpy as np
import pandas as pd
import pytest

from gradsam_exp.metrics.classification import MacroAccuracy
from gradsam_exp.runs.paired import all_pairs, paired_difference, sign_flip_p
from gradsam_exp.runs.summary import MetricFacts, summarize, summarize_counts, summarize_metrics, summarize_run
from gradsam_exp.runs.units import Units, effective_number


def test_an_image_that_comes_several_times_is_one_draw():
    """Three equal values of one image say no more than one, but weigh as much as three in the mean."""
    rng = np.random.default_rng(0)
    values = rng.random(40)
    images = np.arange(40)
    once, thrice = summarize(values), summarize(np.repeat(values, 3), units=np.repeat(images, 3))
    assert thrice.mean == pytest.approx(once.mean)
    assert thrice.n == 120
    assert thrice.ci95 == pytest.approx(once.ci95, abs=1e-12)
    narrow = summarize(np.repeat(values, 3))
    assert narrow.ci95[1] - narrow.ci95[0] < 0.7 * (once.ci95[1] - once.ci95[0])


def test_images_of_one_example_each_change_nothing():
    values = np.random.default_rng(1).random(30)
    names = np.array([f"image-{k}" for k in range(30)])
    values[4] = np.nan
    assert summarize(values, units=names) == summarize(values)
    assert summarize(values, units=names[::-1]) == summarize(values)
    assert paired_difference(values, values / 2, units=names) == paired_difference(values, values / 2)
    table = np.random.default_rng(2).random((3, 30))
    assert all_pairs(table, units=names) == all_pairs(table)


def test_two_images_by_hand():
    """Resamples are a a, a b (twice as often) and b b: means 0, 2/3 and 1."""
    found = summarize(np.array([0.0, 1.0, 1.0]), units=["a", "b", "b"])
    assert found.mean == pytest.approx(2 / 3)
    assert found.ci95 == (0.0, 1.0)
    assert summarize(np.array([0.2, 0.4]), units=["a", "a"]).ci95 == pytest.approx((0.3, 0.3))


def test_pairs_of_examples_are_tested_by_image():
    rng = np.random.default_rng(0)
    difference = 0.1 * rng.standard_normal(20)
    baseline = rng.random(60)
    images = np.repeat(np.arange(20), 3)
    found = paired_difference(baseline + np.repeat(difference, 3), baseline, units=images)
    assert found.p == pytest.approx(sign_flip_p(3 * difference))
    assert found.difference.ci95 == pytest.approx(summarize(difference).ci95, abs=1e-9)
    assert found.wins + found.losses == 60
    pair = all_pairs(np.stack([baseline, baseline + np.repeat(difference, 3)]), units=images)[1, 0]
    assert pair.p == pytest.approx(found.p)
    assert pair.difference.ci95 == pytest.approx(found.difference.ci95, abs=1e-9)


def test_a_runs_table_says_which_images_belong_together():
    table = pd.DataFrame({"image_id": ["a", "b", "b"], "iou": [0.0, 1.0, 1.0]})
    assert summarize_run(table, {"miou": MetricFacts("iou", "mIoU")})["miou"].ci95 == (0.0, 1.0)


def grouped(sizes: dict[str, int], alone: int = 0) -> pd.DataFrame:
    """A table of images, so many of each group, and some that are alone; each has one example."""
    groups = [group for group, size in sizes.items() for _ in range(size)]
    images = [f"image {k:03d}" for k in range(len(groups) + alone)]
    return pd.DataFrame({"image_id": images, "group": groups + images[len(groups) :]})


def test_images_on_one_photograph_are_one_unit():
    """Ten photographs of three images each: the interval is that of the ten means."""
    table = grouped({f"photograph {k}": 3 for k in range(10)})
    means = np.random.default_rng(0).random(10)
    table["iou"] = np.repeat(means, 3)
    found = summarize_run(table, {"miou": MetricFacts("iou", "mIoU")})["miou"]
    assert found.n == 30
    assert found.ci95 == pytest.approx(summarize(means).ci95, abs=1e-12)
    assert Units.of(table).note == (
        "intervals and p are over 10 independent units: 30 of the 30 images are on 10 photographs, "
        "and those on one are drawn together"
    )


def test_two_photographs_are_too_few_to_be_drawn():
    """250 images on two photographs and 250 alone: 500² / (2 · 125² + 250) = 7.9 units, though there are 252."""
    table = grouped({"coffee": 125, "cat": 125}, alone=250)
    units = Units.of(table)
    assert effective_number(table["group"].to_numpy()) == pytest.approx(500**2 / 31_500)
    assert units.names.tolist() == table["image_id"].tolist()
    assert units.note == (
        "250 of the 500 images are on only 2 photographs: intervals and p are over images and hold for these; "
        "on others it may come out otherwise (the images count as 7.9 independent units, fewer than 10)"
    )
    values = np.random.default_rng(0).random(500)
    assert summarize(values, units=units.names) == summarize(values), "as if no photograph were known"


def test_groups_of_one_image_change_nothing():
    table = grouped({}, alone=30)
    assert Units.of(table).note == ""
    assert Units.of(table).names.tolist() == table["image_id"].tolist()
    assert Units.of(table.drop(columns="group")).names.tolist() == table["image_id"].tolist()
    assert Units.of(table[["group"]]).names is None
    table.loc[3, "group"] = None
    assert Units.of(table).names.tolist() == table["image_id"].tolist(), "an image of no known group is alone"


def test_examples_of_one_image_are_no_reason_for_a_note():
    table = pd.DataFrame({"image_id": ["a", "a", "b"], "group": ["a", "a", "b"]})
    assert Units.of(table).note == ""
    assert Units.of(table).names.tolist() == ["a", "a", "b"]


def test_counts_are_drawn_by_photograph_as_well():
    """Twelve photographs of four images each, all right or all wrong: the interval is that of twelve images."""
    table = grouped({f"photograph {k}": 4 for k in range(12)})
    right = np.random.default_rng(0).integers(0, 2, 12)
    metric = MacroAccuracy()
    rows = [
        {"image_id": image, "part": "cat", "correct": int(r), "examples": 1}
        for image, r in zip(table["image_id"], np.repeat(right, 4), strict=True)
    ]
    alone = [
        {"image_id": f"{k:02d}", "part": "cat", "correct": int(r), "examples": 1} for k, r in enumerate(right)
    ]
    metric.rows = rows
    found = summarize_metrics([metric], table)["macro_accuracy"]
    expected = summarize_counts(metric, pd.DataFrame(alone))
    assert found.mean == expected.mean == right.mean()
    assert found.n == 48
    assert found.ci95 == expected.ci95
    by_image = summarize_counts(metric, pd.DataFrame(rows)).ci95
    assert by_image[1] - by_image[0] < 0.7 * (found.ci95[1] - found.ci95[0])


def test_pairs_are_tested_by_photograph():
    """Ten photographs of four images: ten signs are flipped, not forty."""
    rng = np.random.default_rng(0)
    difference, baseline = rng.normal(0.05, 0.1, 10), rng.random(40)
    units = Units.of(grouped({f"photograph {k}": 4 for k in range(10)})).names
    found = paired_difference(baseline + np.repeat(difference, 4), baseline, units=units)
    assert found.p == pytest.approx(sign_flip_p(difference))
    assert found.p > 2 * paired_difference(baseline + np.repeat(difference, 4), baseline).p
    assert found.difference.ci95 == pytest.approx(summarize(difference).ci95, abs=1e-9)
