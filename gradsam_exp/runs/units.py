"""This module says which examples of a run are independent of each other; intervals and tests are over these."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int

COLUMNS = ("image_id", "group")
"""Columns of ``per_image.parquet`` that units depend on."""
FEWEST = 10
"""Independent units, as `effective_number` counts them, that a bootstrap over groups needs at least.

Intervals from few clusters are too short: Cameron, Gelbach and Miller (2008) simulate 5 to 30. The bound is ours.
"""


@dataclass(frozen=True)
class Units:
    """Name the unit that each example belongs to; examples of one unit are drawn together.

    Attributes:
        names: one per example; None: each example is a unit of its own.
        note: what has to be known about them, on one line; empty where units are images.
    """

    names: np.ndarray | None
    note: str = ""

    @classmethod
    def of(cls, per_image: pd.DataFrame) -> "Units":
        """Find the units of a per-example table: groups of images where these are known, otherwise images.

        Images that are drawn on one photograph have the same ``group`` in ``per_image.parquet``, and their values
        are not independent. Where all groups count as fewer than `FEWEST` independent units, nothing can be said
        of other photographs: units are then images, and the note says that intervals are conditional on these.
        """
        if "image_id" not in per_image:  # an older table, in which each example has an image of its own
            return cls(None)
        images = per_image["image_id"].to_numpy()
        if "group" not in per_image:
            return cls(images)
        group = per_image["group"].fillna(per_image["image_id"])
        groups, images_in = group.to_numpy(), per_image["image_id"].groupby(group).nunique()
        shared = images_in[images_in > 1]
        if not len(shared):
            return cls(images)
        number, of_images = int(images_in.sum()), int(shared.sum())
        photographs = f"{len(shared)} photograph{'s' if len(shared) > 1 else ''}"
        independent = effective_number(groups)
        if independent < FEWEST:
            return cls(
                images,
                f"{of_images} of the {number} images are on only {photographs}: intervals and p are over images "
                f"and hold for these; on others it may come out otherwise (the images count as {independent:.1f} "
                f"independent units, fewer than {FEWEST})",
            )
        return cls(
            groups,
            f"intervals and p are over {len(images_in)} independent units: {of_images} of the {number} images are "
            f"on {photographs}, and those on one are drawn together",
        )


def effective_number(units: Sequence[str] | np.ndarray) -> float:
    """Compute how many units of equal size would say as much: (Σ n)² / Σ n², with n the examples of each unit.

    Kish's effective sample size (1965), which Carter, Schnepel and Steigerwald (2017) have for clusters.

    Args:
        units: the name of each example's unit.
    """
    sizes = np.bincount(numbered(units, len(units))).astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def numbered(units: Sequence[str] | np.ndarray | None, examples: int) -> Int[np.ndarray, " examples"]:
    """Number the unit of each of so many examples, in the order in which units come first; None: one each."""
    return np.arange(examples) if units is None else pd.factorize(np.asarray(units))[0]
