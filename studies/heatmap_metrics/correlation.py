"""These functions compute rank correlations between a heatmap metric and IoU, both (methods, examples).

A method is a way to make heatmaps: an explainer, at a layer. NaN stands for no value. Each correlation has a
bootstrap interval over independent units of examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from gradsam_exp.runs.paired import paired_difference
from gradsam_exp.runs.summary import RESAMPLES
from gradsam_exp.runs.units import numbered

Values: TypeAlias = Float[np.ndarray, "methods examples"]
Weights: TypeAlias = Float[np.ndarray, "resamples examples"]
FEWEST_METHODS = 3
"""Methods that a correlation over methods needs: two are always perfectly correlated."""
_DIGITS = 9  # values that are equal in these are
_ROUNDING = 1e-6  # of what is divided by


@dataclass(frozen=True)
class Correlation:
    """Holds a rank correlation ρ in [-1, 1] with its 95 % bootstrap interval; NaN where there is none.

    Attributes:
        n: how many examples, or methods, it is of.
        p: of the sign-flip test that its mean over examples is 0; NaN where it is no mean over examples.
    """

    rho: float
    ci95: tuple[float, float]
    n: int
    p: float = float("nan")


def over_methods(metric: Values, iou: Values, *, units: np.ndarray | None = None, seed: int = 0) -> Correlation:
    """Correlate over the methods of one example (Spearman), and average over examples.

    The image and its object are held fixed. Left out are examples with fewer than three methods that have both
    values, and those of which all methods have the same metric or the same IoU.

    Args:
        units: the name of each example's independent unit; None: each is one of its own.
        seed: of the bootstrap and of the sign flips.
    """
    x, y = _ranks(metric, iou, axis=0)
    known = ~np.isnan(x)
    rho = _correlated(*_moments(np.nan_to_num(x), np.nan_to_num(y), known.astype(np.float64), axis=0))
    rho[known.sum(0) < FEWEST_METHODS] = np.nan
    found = paired_difference(rho, np.zeros_like(rho), units=units, seed=seed)
    return Correlation(found.difference.mean, found.difference.ci95, found.difference.n, found.p)


def over_examples(
    metric: Values,
    iou: Values,
    size: Float[np.ndarray, " examples"] | None,
    *,
    units: np.ndarray | None = None,
    seed: int = 0,
) -> Correlation:
    """Correlate over the examples of one method with the objects' size held fixed, and average over methods.

    It is the partial correlation of the ranks of metric and IoU, given those of size. In a resample examples keep
    the rank that they have among all. Left out are methods of which all examples have the same metric or the same
    IoU.

    Args:
        size: of each example's object, in any unit; None: not held fixed. Examples without one are left out.
        units, seed: see `over_methods`.
    """
    x, y = _ranks(metric if size is None else np.where(np.isnan(size), np.nan, metric), iou, axis=1)
    known = ~np.isnan(x)
    z = np.zeros_like(x) if size is None else _ranked(np.where(known, size, np.nan), axis=1)
    x, y, z = (np.nan_to_num(ranks) for ranks in (x, y, z))
    weights = resampled(metric.shape[1], units, seed)
    xy, xz, yz = (_weighted(one, other, known, weights) for one, other in ((x, y), (x, z), (y, z)))
    rho = xy if size is None else _partial(xy, np.nan_to_num(xz), np.nan_to_num(yz))
    return _found(_mean(rho), int(known.any(0).sum()))


def of_means(metric: Values, iou: Values, *, units: np.ndarray | None = None, seed: int = 0) -> Correlation:
    """Correlate the methods' mean metric with their mIoU (Spearman): does the metric order methods as mIoU does?

    Args:
        units, seed: see `over_methods`; the examples are resampled, the methods are not.
    """
    known = (~np.isnan(metric) & ~np.isnan(iou)).astype(np.float64)
    weights = resampled(metric.shape[1], units, seed)
    with np.errstate(invalid="ignore"):
        means = [weights @ (np.nan_to_num(own) * known).T / (weights @ known.T) for own in (metric, iou)]
    x, y = _ranks(means[0].T, means[1].T, axis=0)
    there = ~np.isnan(x)
    rho = _correlated(*_moments(np.nan_to_num(x), np.nan_to_num(y), there.astype(np.float64), axis=0))
    rho[there.sum(0) < FEWEST_METHODS] = np.nan
    return _found(rho, int(there[:, 0].sum()))


def resampled(examples: int, units: np.ndarray | None, seed: int) -> Weights:
    """Say how often each example is drawn: first all once, then in each of `RESAMPLES` resamples of the units."""
    place = numbered(units, examples)
    count = int(place.max(initial=-1)) + 1
    chosen = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    drawn = np.stack([np.bincount(row, minlength=count) for row in chosen])[:, place]
    return np.concatenate([np.ones((1, examples)), drawn])


def _found(rho: Float[np.ndarray, " resamples"], n: int) -> Correlation:
    """What was found on all examples, and the percentiles of the resamples."""
    if np.isnan(rho[0]):
        return Correlation(float("nan"), (float("nan"), float("nan")), n)
    low, high = np.nanpercentile(rho[1:], [2.5, 97.5])
    return Correlation(float(rho[0]), (float(low), float(high)), n)


def _ranks(metric: Values, iou: Values, axis: int) -> tuple[Values, Values]:
    """Rank both along an axis, where both are known; NaN elsewhere."""
    known = ~np.isnan(metric) & ~np.isnan(iou)
    first, second = (_ranked(np.where(known, own, np.nan), axis) for own in (metric, iou))
    return first, second


def _ranked(values: Values, axis: int) -> Values:
    """Rank along an axis; equal values share their mean rank, and values equal up to rounding are equal."""
    return rankdata(values.round(_DIGITS), axis=axis, nan_policy="omit")


def _moments(x: Values, y: Values, weights: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The weighted covariance of two arrays along an axis and their variances, times the sum of the weights."""
    total = np.maximum(weights.sum(axis, keepdims=True), 1)
    x, y = (own - (weights * own).sum(axis, keepdims=True) / total for own in (x, y))
    return (weights * x * y).sum(axis), (weights * x * x).sum(axis), (weights * y * y).sum(axis)


def _weighted(x: Values, y: Values, known: np.ndarray, weights: Weights) -> Float[np.ndarray, "resamples methods"]:
    """The correlation of each method's rows in each resample."""
    there = known.astype(np.float64)
    x, y = ((own - own.mean()) * there for own in (x, y))  # closer to 0, for the rounding
    total = np.maximum(weights @ there.T, 1)
    sums = [weights @ own.T for own in (x, y, x * y, x * x, y * y)]
    of_x, of_y, xy, xx, yy = sums
    return _correlated(xy - of_x * of_y / total, xx - of_x**2 / total, yy - of_y**2 / total)


def _correlated(xy: np.ndarray, xx: np.ndarray, yy: np.ndarray) -> np.ndarray:
    """Divide a covariance by the standard deviations; NaN where one of them is 0."""
    scale = np.sqrt(np.maximum(xx, 0) * np.maximum(yy, 0))
    return np.divide(xy, scale, out=np.full_like(scale, np.nan), where=scale > _ROUNDING)


def _partial(xy: np.ndarray, xz: np.ndarray, yz: np.ndarray) -> np.ndarray:
    """The partial correlation of x and y given z; NaN where z says all of one of them."""
    scale = np.sqrt(np.maximum(1 - xz**2, 0) * np.maximum(1 - yz**2, 0))
    return np.divide(xy - xz * yz, scale, out=np.full_like(scale, np.nan), where=scale > _ROUNDING)


def _mean(rho: Float[np.ndarray, "resamples methods"]) -> Float[np.ndarray, " resamples"]:
    """Average over the methods that have a correlation on all examples, and in the resample."""
    known = ~np.isnan(rho) & ~np.isnan(rho[:1])
    return np.divide(
        np.where(known, rho, 0).sum(1), known.sum(1), out=np.full(len(rho), np.nan), where=known.any(1)
    )
