"""From per-image values to what a table shows: mean, 95 % interval and number of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import bootstrap

RESAMPLES = 2000
_NAMES = {"iou": "miou", "correct": "accuracy"}  # of means, where they differ from the column's


@dataclass(frozen=True)
class Summary:
    """A mean over images with its 95 % bootstrap interval; NaN where no image has a value."""

    mean: float
    ci95: tuple[float, float]
    n: int

    def as_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes None, which JSON can say."""
        plain = asdict(self)
        plain["mean"] = None if np.isnan(self.mean) else self.mean
        plain["ci95"] = [None if np.isnan(v) else v for v in self.ci95]
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Summary:
        """What `as_json` gave."""
        numbers = [plain["mean"], *plain["ci95"]]
        mean, low, high = (float("nan") if value is None else float(value) for value in numbers)
        return cls(mean, (low, high), int(plain["n"]))


def summarize(values: Float[np.ndarray, " images"], *, seed: int = 0) -> Summary:
    """Mean, and the 2.5th and 97.5th percentile of the means of 2000 resamples of the images.

    The percentile bootstrap of Efron and Tibshirani (1993, ch. 13).

    Args:
        values: one per image; NaN is left out and not counted in ``n``.
        seed: of the resampling; equal seeds and values give equal intervals.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return Summary(float("nan"), (float("nan"), float("nan")), 0)
    mean = float(values.mean())
    if len(values) == 1:
        return Summary(mean, (mean, mean), 1)
    interval = bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return Summary(mean, (float(interval.low), float(interval.high)), len(values))


def summarize_run(per_image: pd.DataFrame, *, seed: int = 0) -> dict[str, Summary]:
    """The metrics of a run from its per-image table, in the order tables show them."""
    columns = ["fg_hit_rate", "bg_hit_rate", "distance_px", "iou", "correct"]
    columns += ["pointing_game", "energy_in_mask", "best_threshold_iou", "sparsity"]
    columns += ["deletion_auc", "insertion_auc", "road"]
    return {
        _NAMES.get(column, column): summarize(per_image[column].astype("float64").to_numpy(), seed=seed)
        for column in columns
        if column in per_image
    }
