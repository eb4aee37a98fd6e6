"""This module says what a threshold on heat is: a number, or a rule that finds one for each heatmap.

The rules are those that grad-cam's pull request 320 asks for: Otsu's method, and a quantile of the heatmap.
"""

import re
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BeforeValidator
from skimage.filters import threshold_otsu
from torch import Tensor

from gradsam_exp.types import Maps, Masks

Level = Float[Tensor, "batch 1 1"]
OTSU = "otsu"
_QUANTILE = "quantile:"
_NUMBER = r"\d+(?:\.\d*)?|\.\d+"


def _threshold(given: Any) -> float | str:
    """Bring a threshold to one form: a number as a float, ``otsu``, or ``quantile:`` and a number."""
    quantile = re.fullmatch(rf"{_QUANTILE}({_NUMBER})", given) if isinstance(given, str) else None
    if given == OTSU:
        return OTSU
    try:
        number = float(quantile[1] if quantile else given)
    except (TypeError, ValueError):
        number = None
    if number is None or isinstance(given, bool):
        raise ValueError("must be a number between 0 and 1, otsu, or a quantile such as quantile:0.9")
    if not 0 <= number <= 1:
        raise ValueError("must lie between 0 and 1")
    return f"{_QUANTILE}{number:g}" if quantile else number


Threshold = Annotated[float | str, BeforeValidator(_threshold)]
"""A threshold on heat: a number in [0, 1]; ``otsu``, which parts each heatmap's pixels into two classes of the
largest variance between them (Otsu, IEEE Trans. SMC 9(1), 1979, by scikit-image); or a quantile of each heatmap's
pixels: ``quantile:0.9`` leaves the hottest tenth above it."""


def quantile_of(threshold: float | str) -> float | None:
    """Return the ``0.9`` of ``quantile:0.9``; None for other thresholds."""
    rule = isinstance(threshold, str) and threshold.startswith(_QUANTILE)
    return float(str(threshold).removeprefix(_QUANTILE)) if rule else None


def is_below(low: float | str, high: float | str) -> bool:
    """Tell whether a threshold is below another; True where that depends on the heatmap."""
    if not isinstance(low, str) and not isinstance(high, str):
        return low < high
    quantiles = quantile_of(low), quantile_of(high)
    return quantiles[0] is None or quantiles[1] is None or quantiles[0] < quantiles[1]


def level(values: Maps, threshold: float | str) -> float | Level:
    """Find the heat that a `Threshold` stands for: itself if it is a number, else one for each map."""
    if not isinstance(threshold, str):
        return threshold
    quantile, maps = quantile_of(threshold), values.double().flatten(1).numpy()
    found = [_otsu(own) if quantile is None else np.quantile(own, quantile) for own in maps]
    return torch.tensor(found, dtype=torch.float64)[:, None, None]


def _otsu(values: Float[np.ndarray, " pixels"]) -> float:
    """Find the upper edge of the colder class's last bin, of which scikit-image gives the centre."""
    bins = 256
    return threshold_otsu(values, bins) + np.ptp(values) / (2 * bins)


def at_least(values: Maps, threshold: float | str) -> Masks:
    """Find the warm pixels of each map.

    Args:
        values: heat.
        threshold: of a number, warm pixels have at least this share of their map's maximum; of a rule, at least
            the heat that it finds.
    """
    if isinstance(threshold, str):
        return values >= level(values, threshold)
    return values >= threshold * values.amax((1, 2), keepdim=True)


def below(values: Maps, threshold: float | str) -> Masks:
    """Find the cold pixels of each map.

    Args:
        values: heat.
        threshold: of a number and of Otsu's method, cold pixels have less heat; of a quantile no more, since a
            good part of a heatmap may have no heat at all.
    """
    found = level(values, threshold)
    return values < found if quantile_of(threshold) is None else values <= found
