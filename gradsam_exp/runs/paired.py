"""This module computes paired statistics of two runs: mean difference, bootstrap interval, Wilcoxon p-value."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.stats import permutation_test, rankdata, wilcoxon

from gradsam_exp.runs.summary import RESAMPLES, Summary, summarize

TIE = 1e-9
_DIGITS = 9  # differences that are equal in these are
_FEW = 13  # differences whose signs are all tried, 2¹³ ways, where ranks are tied: scipy's bound


@dataclass(frozen=True)
class PairedDifference:
    """Tells how a run differs from a baseline on the images both have a value for.

    Attributes:
        difference: run minus baseline, averaged over examples, with its bootstrap interval over images.
        p: two-sided Wilcoxon signed-rank test of the differences, of an image with several examples of their mean;
            NaN if no image differs.
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
    images: np.ndarray | None = None,
    seed: int = 0,
) -> PairedDifference:
    """Compare two runs' values of the same examples, in the same order.

    Args:
        run, baseline: one value per example; examples where either is NaN are left out.
        images: the name of each example's image; None: each has one of its own.
        seed: of the bootstrap.

    Raises:
        ValueError: if the numbers of images differ.
    """
    if len(run) != len(baseline):
        raise ValueError(f"runs of {len(run)} and {len(baseline)} images cannot be paired")
    differences = np.asarray(run, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    summary = summarize(differences, images=images, seed=seed)
    known = ~np.isnan(differences)
    return _found(differences[known], summary, None if images is None else images[known])


def all_pairs(
    values: Float[np.ndarray, "runs examples"], *, images: np.ndarray | None = None, seed: int = 0
) -> dict[tuple[int, int], PairedDifference]:
    """Compare every run ``i`` with every earlier run ``j``, see `paired_difference`; by ``(i, j)``.

    All pairs share the resamples, so that hundreds of pairs take the time of a few.

    Args:
        values: of the same examples in the same order; NaN where there is none.
        images: the name of each example's image; None: each has one of its own.
        seed: of the bootstrap.
    """
    runs, examples = values.shape
    pairs = [(i, j) for i in range(runs) for j in range(i)]
    place = _places(examples, images)
    units = int(place.max(initial=-1)) + 1
    if units < 2 or np.isnan(values).any():
        return {(i, j): paired_difference(values[i], values[j], images=images, seed=seed) for i, j in pairs}
    values = values.astype(np.float64)
    chosen = np.random.default_rng(seed).integers(0, units, (RESAMPLES, units))
    drawn = np.stack([np.bincount(row, minlength=units) for row in chosen])[:, place]
    means = values @ (drawn / drawn.sum(1, keepdims=True)).T  # (runs, RESAMPLES)
    found = {}
    for i, j in pairs:
        differences = values[i] - values[j]
        low, high = np.percentile(means[i] - means[j], [2.5, 97.5])
        summary = Summary(float(differences.mean()), (float(low), float(high)), examples)
        found[i, j] = _found(differences, summary, images)
    return found


def _places(examples: int, images: np.ndarray | None) -> Int[np.ndarray, " examples"]:
    """Number each example's image."""
    return np.arange(examples) if images is None else pd.factorize(images)[0]


def _found(
    differences: Float[np.ndarray, " examples"], summary: Summary, images: np.ndarray | None
) -> PairedDifference:
    wins, losses = int((differences > TIE).sum()), int((differences < -TIE).sum())
    place = _places(len(differences), images)
    independent = differences
    if len(set(place)) < len(place):
        independent = np.bincount(place, weights=differences) / np.bincount(place)
    differing = independent[np.abs(independent) > TIE]
    p = _signed_rank(differing) if len(differing) else float("nan")
    return PairedDifference(summary, p, wins, len(differences) - wins - losses, losses)


def _signed_rank(differences: Float[np.ndarray, " images"]) -> float:
    """`scipy.stats.wilcoxon`'s p of differences that are not zero; those that differ by rounding are tied.

    For few differences with tied ranks scipy tries all signs one after the other, which takes a second; here they
    are tried at once.
    """
    differences = differences.round(_DIGITS)  # 0.3 - 0.2 and 0.2 - 0.1 are of one rank
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
