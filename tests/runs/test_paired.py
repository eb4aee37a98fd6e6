import numpy as np
import pytest
from scipy.stats import permutation_test, wilcoxon

from gradsam_exp.runs.paired import all_pairs, comparison_intervals, holm, paired_difference, sign_flip_p


def test_a_paired_difference_worked_out_by_hand():
    run = np.array([0.5, 0.9, 0.3, 0.7, np.nan])
    baseline = np.array([0.4, 0.6, 0.3, 0.85, 0.1])
    found = paired_difference(run, baseline)
    assert found.difference.mean == pytest.approx(0.0625)
    assert found.difference.n == 4
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    assert found.p == pytest.approx(6 / 8), "±0.1 ±0.3 ±0.15 is ±0.55, ±0.35, ±0.25 or ±0.05, found is 0.25"


def test_equal_runs_do_not_differ():
    found = paired_difference(np.ones(5), np.ones(5))
    assert (found.wins, found.ties, found.losses) == (0, 5, 0)
    assert found.difference.ci95 == (0.0, 0.0)
    assert np.isnan(found.p)
    with pytest.raises(ValueError, match="5 and 4 images cannot be paired"):
        paired_difference(np.ones(5), np.ones(4))


def test_a_clear_difference_is_significant():
    rng = np.random.default_rng(0)
    baseline = rng.random(200)
    found = paired_difference(baseline + 0.05 + 0.02 * rng.standard_normal(200), baseline)
    low, high = found.difference.ci95
    assert 0.04 < low < 0.05 < high < 0.06
    assert found.p == pytest.approx(1 / 10_000), "no random flip comes near"


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, float("nan")]) == pytest.approx([0.03, 0.06, 0.06, float("nan")], nan_ok=True)
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize("missing", [False, True])
def test_all_pairs_are_the_pairs_one_by_one(missing: bool):
    rng = np.random.default_rng(0)
    values = rng.random((4, 30))
    values[3] = values[1]
    if missing:
        values[2, 5] = np.nan
    found = all_pairs(values)
    assert set(found) == {(i, j) for i in range(4) for j in range(i)}
    for (i, j), pair in found.items():
        alone = paired_difference(values[i], values[j])
        assert pair.difference.mean == alone.difference.mean
        assert pair.difference.ci95 == pytest.approx(alone.difference.ci95, abs=1e-12)
        assert pair.p == pytest.approx(alone.p, nan_ok=True)
        assert (pair.wins, pair.ties, pair.losses) == (alone.wins, alone.ties, alone.losses)


@pytest.mark.parametrize("values", [[0.1, 0.1, -0.2, 0.3, 0.3, 0.4], [0.1] * 13, [-0.1, 0.1, 0.1]])
def test_few_signs_are_all_tried_as_scipy_does(values: list[float]):
    differences = np.array(values)
    theirs = permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(differences) == pytest.approx(theirs.pvalue)


def test_many_signs_are_drawn_as_scipy_does():
    differences = np.random.default_rng(3).normal(0.2, 1, 100)
    theirs = permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1)
    assert 0.05 < theirs.pvalue < 0.5, "neither sure nor impossible"
    assert sign_flip_p(differences) == pytest.approx(theirs.pvalue, abs=4 * (theirs.pvalue / 10_000) ** 0.5)
    assert sign_flip_p(differences) == sign_flip_p(differences)
    assert sign_flip_p(differences, seed=1) != sign_flip_p(differences)


def test_p_is_of_the_mean_and_agrees_with_its_sign():
    """Many small losses and one large win: ranks say worse, the mean says nothing."""
    differences = np.array([-0.01] * 30 + [0.9])
    assert wilcoxon(differences).pvalue < 1e-4
    assert differences.mean() > 0
    assert sign_flip_p(differences) > 0.5


def test_one_unit_alone_proves_nothing():
    assert sign_flip_p(np.array([0.5])) == 1


def test_where_nothing_differs_there_is_no_p():
    nothing = paired_difference(np.full(3, np.nan), np.zeros(3))
    assert np.isnan(nothing.p)
    assert (nothing.difference.n, nothing.wins) == (0, 0)
    assert np.isnan(sign_flip_p(np.zeros(40)))
    assert np.isnan(sign_flip_p(np.zeros(0)))


def test_ways_that_differ_by_rounding_are_as_extreme():
    """The differences 0.1, −0.1 and 0.3: 0.1 − 0.1 + 0.3 was found, and −0.1 + 0.1 + 0.3 is as far from 0."""
    run, baseline = np.array([0.4, 0.1, 0.3]), np.array([0.3, 0.2, 0.0])
    first, second, third = run - baseline
    assert -first - second + third < first + second + third, "by rounding"
    assert paired_difference(run, baseline).p == pytest.approx(6 / 8)
    assert all_pairs(np.stack([baseline, run]))[1, 0].p == pytest.approx(6 / 8)


def test_comparison_intervals_of_two_runs_touch_where_their_difference_begins_to_be_clear():
    """Images differ by 0.5, runs by 0.01: each half-width is half of that of the paired difference."""
    rng = np.random.default_rng(0)
    base = rng.random(200)
    values = np.stack([base, base + rng.normal(0.01, 0.05, 200)])
    low, high = comparison_intervals(values)
    difference = paired_difference(values[1], values[0]).difference
    width = difference.ci95[1] - difference.ci95[0]
    assert high - low == pytest.approx([width / 2, width / 2], rel=0.05)
    assert (low[1] > high[0]) == (difference.ci95[0] > 0)
    for k in range(2):
        assert low[k] < values[k].mean() < high[k]
    single, same = comparison_intervals(values[:1])
    assert single == same == pytest.approx([base.mean()])
