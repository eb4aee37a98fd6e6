"""This module says which varied knobs matter: their main effects image by image, and shares of the variance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.summary import Summary, summarize
from gradsam_exp.runs.units import Units

NAMED = 0.05
"""Share of the variance between runs from which on an interaction is named."""
NOTHING = 0.0005  # of mIoU: what tables with three digits show as 0.000
LEAST_OF_GRID = 0.5  # share of a grid's cells that shares of variance need
FEWEST_TRIALS = 10  # of a search, for an importance
_EQUAL = 1e-20  # variance of means that differ by rounding alone


@dataclass(frozen=True)
class Effect:
    """Tells what one knob does to the mIoU, all other knobs held.

    Attributes:
        knob: its key.
        best: the level with the largest mean difference to the others.
        over_rest: ``best`` minus the mean of its other levels, image by image, with interval.
        over: ``best`` minus each other level, the nearest first.
        share: of the variance between the runs' means; None if the grid has too many gaps for it.
    """

    knob: str
    best: str
    over_rest: Summary
    over: Mapping[str, Summary]
    share: float | None

    @property
    def next(self) -> str:
        """Names the best of the other levels."""
        return next(iter(self.over))

    @property
    def is_nothing(self) -> bool:
        """Says whether the levels are the same to three digits, as far as the interval reaches."""
        return all(abs(end) < NOTHING for one in self.over.values() for end in one.ci95)

    @property
    def is_clear(self) -> bool:
        """Says whether the best level is better than the mean of the others, 0 outside the interval."""
        return not self.is_nothing and is_clear(self.over_rest)

    @property
    def alike(self) -> list[str]:
        """Lists the levels that cannot be told from the best: 0 is in the interval of their difference."""
        return [level for level, one in self.over.items() if not is_clear(one)]


@dataclass(frozen=True)
class Effects:
    """Holds what runs on the same images tell about the knobs that differ between them.

    Attributes:
        within: what these runs share and others do not; empty if all runs are of the same images.
        jobs, examples: how many.
        whole: every combination of the levels is there.
        knobs: largest share first.
        interactions: pairs of knobs that depend on each other, with their share of the variance, from `NAMED` on.
        untold: knobs of which no two runs differ in nothing else.
        importance: of a search, each knob's share by `importance_of`, largest first.
    """

    within: str
    jobs: int
    examples: int
    whole: bool
    knobs: tuple[Effect, ...]
    interactions: Mapping[tuple[str, str], float] = field(default_factory=dict)
    untold: tuple[str, ...] = ()
    importance: Mapping[str, float] = field(default_factory=dict)


def is_clear(difference: Summary) -> bool:
    """Say whether 0 lies outside the interval."""
    low, high = difference.ci95
    return low > 0 or high < 0


def main_effects(runs: Runs, table: pd.DataFrame, varied: Sequence[str]) -> list[Effects]:
    """Find what each varied knob does, for each set of images on which runs differ.

    In a full grid, a level's values are averaged over all combinations of the other knobs, image by image, and
    the best level is compared with the mean of the others, and with each. The share is the knob's sum of squares
    in an analysis of variance of the runs' means; shares and interactions add up to 1. In a grid with gaps (a job
    that failed) levels are compared where at least two of them have runs that differ in nothing else; shares are
    what the knob adds to a least-squares fit of all others (type II), and need at least half of the grid. Upper
    bounds are left out: nobody can choose them.

    Args:
        table: see `gradsam_exp.runs.sweep.collect_runs`; with ``within``, each of its values by itself.
        varied: columns of ``table`` that hold what was varied.
    """
    if "miou" not in table or not varied:
        return []
    made_by = table["same_as"].fillna(table["job"]) if "same_as" in table else table["job"]
    bounds = table["upper_bound"].eq(True) if "upper_bound" in table else pd.Series(False, index=table.index)
    done = table.assign(made_by=made_by)[(table["status"] == "finished") & table["miou"].notna() & ~bounds]
    done = done.assign(**{knob: done[knob].fillna("").astype(str) for knob in varied})
    done = done.assign(images=[runs[job].data_digest for job in done["made_by"]])
    done = done.assign(within=done.get("within", ""))
    groups = [own for _, own in done.groupby(["within", "images"], sort=False)]
    found = []
    for own in groups:
        knobs = [knob for knob in varied if own[knob].nunique() > 1]
        if knobs:
            name = own["within"].iloc[0] or _shared(own, done, varied) if len(groups) > 1 else ""
            found.append(_effects(name, runs, own, knobs))
    return found


def _shared(own: pd.DataFrame, every: pd.DataFrame, varied: Sequence[str]) -> str:
    """What the runs on one set of images share and others do not."""
    shared = [knob for knob in varied if own[knob].nunique() == 1 < every[knob].nunique()]
    return " ".join(f"{knob}={own[knob].iloc[0]}" for knob in shared)


def _effects(within: str, runs: Runs, own: pd.DataFrame, knobs: Sequence[str]) -> Effects:
    first = runs[own["made_by"].iloc[0]].images
    ious = {job: runs[job].images["iou"].reindex(first.index).to_numpy("float64") for job in set(own["made_by"])}
    known = ~np.isnan(np.stack(list(ious.values()))).any(0)
    units = Units.of(first).names
    units = None if units is None else units[known]
    together: dict[tuple[str, ...], list[np.ndarray]] = {}
    for levels, job in zip(own[list(knobs)].to_numpy().tolist(), own["made_by"], strict=True):
        together.setdefault(tuple(levels), []).append(ious[job][known])
    cells = {levels: np.mean(values, axis=0) for levels, values in together.items()}
    size = math.prod(len({levels[k] for levels in cells}) for k in range(len(knobs)))
    means = np.array([values.mean() for values in cells.values()])
    shares: dict[tuple[int, ...], float] = {}
    if len(cells) >= LEAST_OF_GRID * size:
        shares = shares_of_variance(list(cells), means)
    found, untold = [], []
    for k, knob in enumerate(knobs):
        effect = _effect(knob, k, cells, units, shares.get((k,)))
        if effect is None:
            untold.append(knob)
        else:
            found.append(effect)
    found.sort(key=lambda one: (one.share or 0.0, one.over_rest.mean), reverse=True)
    pairs = {(knobs[key[0]], knobs[key[1]]): share for key, share in shares.items() if len(key) == 2}
    return Effects(
        within, len(own), int(known.sum()), len(cells) == size, tuple(found),
        {pair: share for pair, share in pairs.items() if share >= NAMED}, tuple(untold),
        importance_of(list(cells), means, knobs) if untold else {},
    )  # fmt: skip


def _effect(
    knob: str,
    place: int,
    cells: Mapping[tuple[str, ...], Float[np.ndarray, " examples"]],
    units: np.ndarray | None,
    share: float | None,
) -> Effect | None:
    """One knob's effect; None if no two cells differ in it alone.

    Args:
        place: the knob's in the keys of ``cells``.
        units: of the examples.
    """
    together: dict[tuple[str, ...], dict[str, np.ndarray]] = {}
    for levels, values in cells.items():
        together.setdefault(levels[:place] + levels[place + 1 :], {})[levels[place]] = values
    paired = [own for own in together.values() if len(own) > 1]
    if not paired:
        return None
    known = list(dict.fromkeys(level for own in paired for level in own))
    over_rest = {
        level: np.mean(
            [
                own[level] - np.mean([values for other, values in own.items() if other != level], axis=0)
                for own in paired
                if level in own
            ],
            axis=0,
        )
        for level in known
    }
    best = max(known, key=lambda level: over_rest[level].mean())
    over = {
        level: summarize(np.mean(differences, axis=0), units=units)
        for level in known
        if level != best
        and (differences := [own[best] - own[level] for own in paired if best in own and level in own])
    }
    nearest = sorted(over, key=lambda level: over[level].mean)
    return Effect(
        knob, best, summarize(over_rest[best], units=units), {level: over[level] for level in nearest}, share
    )


def shares_of_variance(
    cells: Sequence[tuple[str, ...]], means: Float[np.ndarray, " cells"]
) -> dict[tuple[int, ...], float]:
    """Share out the variance of runs' means among knobs, and pairs of knobs, by their places in the cells' levels.

    The sum of squares that a knob takes from a least-squares fit of the other knobs, and a pair from one of all
    knobs, over the total. In a full grid these are the sums of squares of the analysis of variance (Fisher, 1925).

    Returns:
        Nothing if the means are equal.
    """
    total = float(((means - means.mean()) ** 2).sum())
    if total <= _EQUAL * max(1, len(means)):
        return {}
    knobs = range(len(cells[0]))
    columns = {key: _dummies([tuple(levels[k] for k in key) for levels in cells]) for key in _keys(knobs)}
    every = [columns[(k,)] for k in knobs]
    fitted = _left(every, means)
    shares: dict[tuple[int, ...], float]
    shares = {(k,): (_left([*every[:k], *every[k + 1 :]], means) - fitted) / total for k in knobs}
    if fitted > NAMED * total:  # else there is nothing that a pair could take
        for key in combinations(knobs, 2):
            shares[key] = (fitted - _left([*every, columns[key]], means)) / total
    return shares


def _keys(knobs: Sequence[int]) -> Iterator[tuple[int, ...]]:
    yield from combinations(knobs, 1)
    yield from combinations(knobs, 2)


def _dummies(levels: Sequence[tuple[str, ...]]) -> Float[np.ndarray, "cells levels"]:
    """One column for each level: 1 where a cell has it."""
    place = pd.factorize(np.array([str(level) for level in levels]))[0]
    return np.asarray(np.eye(place.max() + 1)[place])


def _left(columns: Sequence[np.ndarray], means: Float[np.ndarray, " cells"]) -> float:
    """The sum of squares that a least-squares fit leaves."""
    design = np.column_stack([np.ones(len(means)), *columns])
    coefficients = np.linalg.lstsq(design, means, rcond=None)[0]
    return float(((means - design @ coefficients) ** 2).sum())


def importance_of(
    cells: Sequence[tuple[str, ...]], means: Float[np.ndarray, " cells"], knobs: Sequence[str]
) -> dict[str, float]:
    """Estimate how much each knob matters in a search, whose runs differ in several knobs at once.

    scikit-learn's permutation importance (Breiman, 2001): a random forest is fitted to the runs' means, and each
    knob's values are shuffled among the runs; what the fit loses, as a share of what it loses for all knobs.
    Nothing for fewer than `FEWEST_TRIALS` runs, or if all are equal.
    """
    if len(cells) < FEWEST_TRIALS or np.ptp(means) == 0:
        return {}
    from sklearn.ensemble import RandomForestRegressor  # noqa: PLC0415  (a second)
    from sklearn.inspection import permutation_importance  # noqa: PLC0415

    known = np.column_stack([_numbers(values) for values in zip(*cells, strict=True)])
    forest = RandomForestRegressor(random_state=0).fit(known, means)
    lost = permutation_importance(forest, known, means, n_repeats=20, random_state=0).importances_mean.clip(0)
    shares = zip(knobs, (lost / (lost.sum() or 1.0)).tolist(), strict=True)
    return dict(sorted(shares, key=lambda one: one[1], reverse=True))


def _numbers(values: Sequence[str]) -> Float[np.ndarray, " cells"]:
    """Numbers as such, words by their order."""
    try:
        return np.array([float(value) for value in values])
    except ValueError:
        return pd.factorize(pd.Series(values))[0].astype(np.float64)
