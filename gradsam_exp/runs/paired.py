"""This module computes paired statistics of two runs: mean difference, bootstrap interval, sign-flip p-value."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from gradsam_exp.runs.summary import RESAMPLES, Summary, summarize
from gradsam_exp.runs.units import numbered

TIE = 1e-9
FLIPS = 9999
"""Random flips of the signs, where there are more ways than these."""
_EXACT = 13  # units whose signs are all tried: 2¹³ ways are fewer than FLIPS
_AT_ONCE = 2**22  # signs, for the memory


@dataclass(frozen=True)
class PairedDifference:
    """Tells how a run differs from a baseline on the images both have a value for.

    Attributes:
        difference: run minus baseline, averaged over examples, with its bootstrap interval over independent units.
        p: of the two-sided sign-flip test of that mean, see `sign_flip_p`; NaN if no unit differs.
        wins, ties, losses: number of examples where the run's value is larger, equal, smaller.
    """

    difference: Summary
    p: float
    wins: int
    ties: int
    losses: int


def paired_difference(
    run: Float[np.ndarray, " examples"],
    baseline: Float[np.ndarray, " others"],
    *,
    units: np.ndarray | None = None,
    seed: int = 0,
) -> PairedDifference:
    """Compare two runs' values of the same examples, in the same order.

    Args:
        run, baseline: one value per example; examples where either is NaN are left out.
        units: the name of each example's unit, see `gradsam_exp.runs.units.Units`; None: each is one of its own.
        seed: of the bootstrap and of the sign flips.

    Raises:
        ValueError: if the numbers of images differ.
    """
    if len(run) != len(baseline):
        raise ValueError(f"runs of {len(run)} and {len(baseline)} images cannot be paired")
    differences = np.asarray(run, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    summary = summarize(differences, units=units, seed=seed)
    known = ~np.isnan(differences)
    differences = differences[known]
    sums = _sums(differences[None], numbered(None if units is None else units[known], len(differences)))[0]
    return _found(differences, summary, sign_flip_p(sums, seed=seed))


def all_pairs(
    values: Float[np.ndarray, "runs examples"], *, units: np.ndarray | None = None, seed: int = 0
) -> dict[tuple[int, int], PairedDifference]:
    """Compare every run ``i`` with every earlier run ``j``, see `paired_difference`; by ``(i, j)``.

    All pairs share the resamples and the flips, so that hundreds of pairs take the time of a few.

    Args:
        values: of the same examples in the same order; NaN where there is none.
        units: the name of each example's unit, see `gradsam_exp.runs.units.Units`; None: each is one of its own.
        seed: of the bootstrap and of the sign flips.
    """
    runs, examples = values.shape
    pairs = [(i, j) for i in range(runs) for j in range(i)]
    place = numbered(units, examples)
    count = int(place.max(initial=-1)) + 1
    if count < 2 or np.isnan(values).any():
        return {(i, j): paired_difference(values[i], values[j], units=units, seed=seed) for i, j in pairs}
    values = values.astype(np.float64)
    means = _resampled_means(values, place, seed)
    sums = _sums(values, place)
    flipped = _flipped_sums(sums, seed)
    found = {}
    for i, j in pairs:
        differences = values[i] - values[j]
        low, high = np.percentile(means[i] - means[j], [2.5, 97.5])
        summary = Summary(float(differences.mean()), (float(low), float(high)), examples)
        p = _exact_p(sums[i] - sums[j])
        p = _random_p((sums[i] - sums[j]).sum(), flipped[i] - flipped[j]) if p is None else p
        found[i, j] = _found(differences, summary, p)
    return found


def _resampled_means(
    values: Float[np.ndarray, "runs examples"], place: Int[np.ndarray, " examples"], seed: int
) -> Float[np.ndarray, "runs resamples"]:
    """Each run's means of the same resamples of the units, whose numbers are in ``place``."""
    count = int(place.max()) + 1
    chosen = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    drawn = np.stack([np.bincount(row, minlength=count) for row in chosen])[:, place]
    return np.asarray(values @ (drawn / drawn.sum(1, keepdims=True)).T)


def comparison_intervals(
    values: Float[np.ndarray, "runs examples"], *, units: np.ndarray | None = None, seed: int = 0
) -> tuple[Float[np.ndarray, " runs"], Float[np.ndarray, " runs"]]:
    """Compute intervals around runs' means that show whether runs on the same examples differ.

    An interval over images is wide because images differ, which says nothing about runs on the same ones. Here
    each example's mean over the runs is taken out first (Cousineau, 2005), and the 95 % bootstrap interval of what
    is left is scaled by √(runs / (2 (runs − 1))), so that two runs' intervals touch about where 0 is at the end of
    the interval of their paired difference (Goldstein and Healy, 1995); exactly so for two runs.

    Args:
        values: of the same examples in the same order; examples with a NaN are left out.
        units: the name of each example's unit, see `gradsam_exp.runs.units.Units`; None: each is one of its own.
        seed: of the bootstrap.

    Returns:
        Lower and upper ends; a single run, and a single unit, has its mean twice.
    """
    known = ~np.isnan(values).any(0)
    values = values[:, known].astype(np.float64)
    place = numbered(None if units is None else units[known], values.shape[1])
    means = values.mean(1) if values.shape[1] else np.full(len(values), np.nan)
    if len(values) < 2 or place.max(initial=0) < 1:
        return means, means
    apart = values - values.mean(0)
    scale = np.sqrt(len(values) / (2 * (len(values) - 1)))
    low, high = np.percentile(_resampled_means(apart, place, seed), [2.5, 97.5], axis=1)
    middle = apart.mean(1)
    return means + scale * (low - middle), means + scale * (high - middle)


def sign_flip_p(sums: Float[np.ndarray, " units"], *, seed: int = 0) -> float:
    """Test whether the mean of paired differences is zero, by flipping their signs; NaN if none differs from zero.

    If neither run were better, each unit's difference could as well have the other sign. The two-sided p is the
    share of all ways to set the signs in which the mean is at least as far from zero as it is (Fisher's
    randomization test for pairs; Good, 2005). Of more than 13 units that differ, `FLIPS` random ways stand for
    all, and the one that was found is counted with them (Phipson and Smyth, 2010): p is 0.0001 at least.

    `scipy.stats.permutation_test` gives the same; here pairs of runs share their flips.

    Args:
        sums: the differences' sum in each independent unit.
        seed: of the random flips.
    """
    p = _exact_p(sums)
    return _random_p(sums.sum(), _flipped_sums(sums[None], seed)[0]) if p is None else p


def _exact_p(sums: Float[np.ndarray, " units"]) -> float | None:
    """`sign_flip_p` over all ways to set the signs; None if these are too many."""
    sums = sums[np.abs(sums) > TIE]
    if len(sums) > _EXACT:
        return None
    if not len(sums):
        return float("nan")
    ways = np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums)) & 1
    return float(_as_extreme((1 - 2 * ways) @ sums, sums.sum()).mean())


def _random_p(found: float, flipped: Float[np.ndarray, " flips"]) -> float:
    """`sign_flip_p` of a sum and of what random signs make of it."""
    return float((_as_extreme(flipped, found).sum() + 1) / (len(flipped) + 1))


def _as_extreme(sums: Float[np.ndarray, " ways"], found: float) -> np.ndarray:
    return np.abs(sums) >= abs(found) - TIE


def _flipped_sums(sums: Float[np.ndarray, "rows units"], seed: int) -> Float[np.ndarray, "rows flips"]:
    """The total of each row with random signs, the same ones for all rows."""
    rng, units = np.random.default_rng(seed), sums.shape[1]
    totals = []
    for start in range(0, FLIPS, step := max(1, _AT_ONCE // max(units, 1))):
        ways = rng.integers(0, 2, (min(step, FLIPS - start), units), dtype=np.int8)
        totals.append(sums @ (1.0 - 2.0 * ways).T)
    return np.concatenate(totals, axis=1)


def _sums(values: Float[np.ndarray, "rows examples"], place: Int[np.ndarray, " examples"]) -> np.ndarray:
    """Add up each row's values by unit."""
    return np.stack([np.bincount(place, weights=row) for row in values]).astype(np.float64)


def _found(differences: Float[np.ndarray, " examples"], summary: Summary, p: float) -> PairedDifference:
    wins, losses = int((differences > TIE).sum()), int((differences < -TIE).sum())
    return PairedDifference(summary, p, wins, len(differences) - wins - losses, losses)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm 1979, step-down); NaN stays NaN and does not count."""
    p = np.array(p_values, dtype=np.float64)
    order = np.argsort(p)  # NaN last
    left = np.count_nonzero(~np.isnan(p)) - np.arange(len(p))
    p[order] = np.maximum.accumulate(np.minimum(1.0, left * p[order]))
    return p.tolist()
