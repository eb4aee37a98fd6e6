"""This module computes paired statistics of two runs: mean difference, bootstrap interval, Wilcoxon p-value."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import permutation_test, rankdata, wilcoxon

from gradsam_exp.runs.summary import RESAMPLES, Summary, summarize

TIE = 1e-9
_FEW = 13  # differences whose signs are all tried, 2¹³ ways, where ranks are tied: scipy's bound


@dataclass(frozen=True)
class PairedDifference:
    """Tells how a run differs from a baseline on the images both have a value for.

    Attributes:
        difference: run minus baseline, averaged over images, with its bootstrap interval.
        p: two-sided Wilcoxon signed-rank test of the differences; NaN if no image differs.
        wins, ties, losses: number of images where the run's value is larger, equal, smaller.
    """

    difference: Summary
    p: float
    wins: int
    ties: int
    losses: int


def paired_difference(
    run: Float[np.ndarray, " images"], baseline: Float[np.ndarray, " others"], *, seed: int = 0
) -> PairedDifference:
    """Compare two runs' values of the same images, in the same order.

    Args:
        run, baseline: one value per image; images where either is NaN are left out.
        seed: of the bootstrap.

    Raises:
        ValueError: if the numbers of images differ.
    """
    if len(run) != len(baseline):
        raise ValueError(f"runs of {len(run)} and {len(baseline)} images cannot be paired")
    differences = np.asarray(run, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    differences = differences[~np.isnan(differences)]
    return _found(differences, summarize(differences, seed=seed))


def all_pairs(
    values: Float[np.ndarray, "runs images"], *, seed: int = 0
) -> dict[tuple[int, int], PairedDifference]:
    """Compare every run ``i`` with every earlier run ``j``, see `paired_difference`; by ``(i, j)``.

    All pairs share the resamples, so that hundreds of pairs take the time of a few.

    Args:
        values: of the same images in the same order; NaN where there is none.
        seed: of the bootstrap.
    """
    runs, images = values.shape
    pairs = [(i, j) for i in range(runs) for j in range(i)]
    if images < 2 or np.isnan(values).any():
        return {(i, j): paired_difference(values[i], values[j], seed=seed) for i, j in pairs}
    values = values.astype(np.float64)
    chosen = np.random.default_rng(seed).integers(0, images, (RESAMPLES, images))
    drawn = np.stack([np.bincount(row, minlength=images) for row in chosen]) / images
    means = values @ drawn.T  # (runs, RESAMPLES)
    found = {}
    for i, j in pairs:
        differences = values[i] - values[j]
        low, high = np.percentile(means[i] - means[j], [2.5, 97.5])
        summary = Summary(float(differences.mean()), (float(low), float(high)), images)
        found[i, j] = _found(differences, summary)
    return found


def _found(differences: Float[np.ndarray, " images"], summary: Summary) -> PairedDifference:
    wins, losses = int((differences > TIE).sum()), int((differences < -TIE).sum())
    p = _signed_rank(differences[np.abs(differences) > TIE]) if wins + losses else float("nan")
    return PairedDifference(summary, p, wins, len(differences) - wins - losses, losses)


def _with_ties(sizes: Float[np.ndarray, " images"]) -> Float[np.ndarray, " images"]:
    """Make equal what differs by rounding: sizes within `TIE` of the next smaller one become that."""
    order = np.argsort(sizes, kind="stable")
    ascending = sizes[order]
    first = np.concatenate([[True], np.diff(ascending) > TIE])
    tied = np.empty_like(sizes)
    tied[order] = ascending[first][np.cumsum(first) - 1]
    return tied


def _signed_rank(differences: Float[np.ndarray, " images"]) -> float:
    """`scipy.stats.wilcoxon`'s p of differences that are not zero; those that differ by rounding are tied.

    For few differences with tied ranks scipy tries all signs one after the other, which takes a second; here they
    are tried at once.
    """
    differences = np.sign(differences) * _with_ties(np.abs(differences))
    ranks = rankdata(np.abs(differences))
    if len(ranks) > _FEW or len(np.unique(ranks)) == len(ranks):
        return float(wilcoxon(differences).pvalue)

    def positive_ranks(signed: np.ndarray, axis: int) -> Any:
        return np.sum(ranks * (signed > 0), axis=axis)

    return float(
        permutation_test((differences,), positive_ranks, permutation_type="samples", vectorized=True).pvalue
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm 1979, step-down); NaN stays NaN and does not count."""
    p = np.array(p_values, dtype=np.float64)
    order = np.argsort(p)  # NaN last
    left = np.count_nonzero(~np.isnan(p)) - np.arange(len(p))
    p[order] = np.maximum.accumulate(np.minimum(1.0, left * p[order]))
    return p.tolist()
