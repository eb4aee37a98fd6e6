import numpy as np
import pytest
from scipy.stats import wilcoxon

from gradsam_exp.runs.paired import all_pairs, holm, paired_difference


def test_a_paired_difference_worked_out_by_hand():
    run = np.array([0.5, 0.9, 0.3, 0.7, np.nan])
    baseline = np.array([0.4, 0.6, 0.3, 0.85, 0.1])
    found = paired_difference(run, baseline)
    assert found.difference.mean == pytest.approx(0.0625)
    assert found.difference.n == 4
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    assert found.p == pytest.approx(0.75), "signed ranks 1 and 3 against 2: 2·P(W ≤ 2) = 2·3/8"


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
    assert found.p < 1e-20


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


@pytest.mark.parametrize(
    "values", [[0.1, 0.1, -0.2, 0.3, 0.3, 0.4], [0.1] * 13, [-0.1, 0.1, 0.1], [0.5], [0.2, 0.2] * 10]
)
def test_wilcoxons_p_is_scipys(values: list[float]):
    """Tied ranks, few and many, and one image alone."""
    differences = np.array(values)
    assert paired_difference(differences, np.zeros(len(values))).p == pytest.approx(wilcoxon(differences).pvalue)


def test_differences_that_differ_by_rounding_are_tied():
    """−0.1, 0.1 four times, and 0.2 have the ranks 3 (five times) and 6: of 64 ways, W ≤ 3 in 1 + 5."""
    run, baseline = np.array([0.1, 0.3, 0.9, 0.4, 1.0, 0.2]), np.array([0.0, 0.2, 0.8, 0.3, 1.1, 0.0])
    assert len(np.unique(np.abs(run - baseline))) > 2, "by rounding"
    assert paired_difference(run, baseline).p == pytest.approx(2 * 6 / 64)  # 0.1875
    assert all_pairs(np.stack([baseline, run]))[1, 0].p == pytest.approx(0.1875)
