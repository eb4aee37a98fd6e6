"""This module summarises per-image values as a table shows them: mean, 95 % interval, number of images, title."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.sparse import csr_matrix
from scipy.stats import bootstrap

from gradsam_exp.runs.units import Units, numbered

if TYPE_CHECKING:
    from gradsam_exp.metrics.base import DatasetMetric, ExampleMetric

RESAMPLES = 2000
_AT_ONCE = 100  # resamples, for the memory
_DENSE = 0.1  # share of numbers that are there from which on a full matrix is faster
_COLUMNS = {"miou": "iou", "accuracy": "correct"}  # of runs that do not say it


@dataclass(frozen=True)
class MetricFacts:
    """Holds what tables, figures and trackers know about a metric; see `gradsam_exp.metrics.base.ExampleMetric`.

    Attributes:
        column: of ``per_image.parquet``.
        title: in tables and figures.
        unit: such as ``px``; empty for pure numbers.
        higher_is_better: None if neither direction is better, or if an older run does not say.
        group: ``prompts``, ``masks``, ``classification``, ``heatmaps`` or ``faithfulness``; empty if an older run
            does not say.
    """

    column: str
    title: str
    unit: str = ""
    higher_is_better: bool | None = None
    group: str = ""

    @property
    def heading(self) -> str:
        """Gives title and unit, as a table shows them."""
        return f"{self.title} {self.unit}".rstrip()

    @property
    def about_heatmaps(self) -> bool:
        """Says whether the metric depends on the heatmaps alone, and so not on prompts and masks."""
        return self.group in ("heatmaps", "faithfulness")

    @classmethod
    def of(cls, metric: "ExampleMetric") -> "MetricFacts":
        """Return a metric's facts."""
        return cls(**{field.name: getattr(metric, field.name) for field in fields(cls)})

    @classmethod
    def read(cls, name: str, plain: Mapping[str, Any]) -> "MetricFacts":
        """Read the facts in a metric's entry of ``metrics.json``; of an older run, the name is the title."""
        usual = {"column": _COLUMNS.get(name, name), "title": name}
        return cls(**usual | {field.name: plain[field.name] for field in fields(cls) if field.name in plain})


@dataclass(frozen=True)
class Summary:
    """Holds a mean over examples with its 95 % bootstrap interval; NaN where no example has a value.

    Attributes:
        n: how many examples have a value.
        facts: what the metric is; None where the mean is of no metric.
        parts: of a figure of the whole data set, those of its parts, such as classes; ``n`` counts images.
        note: what has to be known about it, on one line.
    """

    mean: float
    ci95: tuple[float, float]
    n: int
    facts: MetricFacts | None = None
    parts: Mapping[str, "Summary"] = field(default_factory=dict)
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return plain values; NaN becomes None, which JSON can say."""
        mean, *ends = (None if np.isnan(value) else value for value in (self.mean, *self.ci95))
        plain = {"mean": mean, "ci95": ends, "n": self.n, **(asdict(self.facts) if self.facts else {})}
        plain |= {"note": self.note} if self.note else {}
        parts = {name: part.as_json() for name, part in self.parts.items()}
        return {**plain, "parts": parts} if parts else plain

    @classmethod
    def from_json(cls, name: str, plain: Mapping[str, Any]) -> "Summary":
        """Read what `as_json` gave, of the metric of this name."""
        numbers = [plain["mean"], *plain["ci95"]]
        mean, low, high = (float("nan") if value is None else float(value) for value in numbers)
        parts = {part: cls.from_json(part, own) for part, own in plain.get("parts", {}).items()}
        parts = {part: replace(own, facts=None) for part, own in parts.items()}
        return cls(mean, (low, high), int(plain["n"]), MetricFacts.read(name, plain), parts, plain.get("note", ""))


def summarize(
    values: Float[np.ndarray, " examples"], *, units: Sequence[str] | np.ndarray | None = None, seed: int = 0
) -> Summary:
    """Compute the mean, and the 2.5th and 97.5th percentile of the means of 2000 resamples of the units.

    The percentile bootstrap of Efron and Tibshirani (1993, ch. 13). Examples of one unit are not independent:
    they are drawn together (the cluster bootstrap of Davison and Hinkley, 1997, section 3.8).

    Args:
        values: one per example; NaN is left out and not counted in ``n``.
        units: the name of each example's unit, see `gradsam_exp.runs.units.Units`; None: each is one of its own.
        seed: of the resampling; equal seeds and values give equal intervals.
    """
    values = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(values)
    values = values[known]
    if len(values) == 0:
        return Summary(float("nan"), (float("nan"), float("nan")), 0)
    mean = float(values.mean())
    if len(values) == 1:
        return Summary(mean, (mean, mean), 1)
    rng = np.random.default_rng(seed)
    place = numbered(None if units is None else np.asarray(units)[known], len(values))
    counts = np.bincount(place)
    if len(counts) == 1:
        return Summary(mean, (mean, mean), len(values))
    if len(counts) == len(values):
        found = bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=rng)
    else:
        sums = np.bincount(place, weights=values)
        found = bootstrap((sums, counts), _ratio, paired=True, n_resamples=RESAMPLES, method="percentile", rng=rng)
    interval = found.confidence_interval
    return Summary(mean, (float(interval.low), float(interval.high)), len(values))


def _ratio(sums: np.ndarray, counts: np.ndarray, axis: int = -1) -> Any:
    return sums.sum(axis) / counts.sum(axis)


def summarize_run(
    per_image: pd.DataFrame, metrics: Mapping[str, MetricFacts], *, seed: int = 0
) -> dict[str, Summary]:
    """Summarise a run's metrics from its per-image table; a metric whose column is missing is left out."""
    units = Units.of(per_image).names
    columns = {name: facts.column for name, facts in metrics.items() if facts.column in per_image}
    values = {name: per_image[column].astype("float64").to_numpy() for name, column in columns.items()}
    return {
        name: replace(summarize(own, units=units, seed=seed), facts=metrics[name]) for name, own in values.items()
    }


def summarize_metrics(
    metrics: Iterable["ExampleMetric"], per_image: pd.DataFrame, *, seed: int = 0
) -> dict[str, Summary]:
    """Summarise a run's metrics: each one's own mean, and the interval of its values in the per-image table."""
    from gradsam_exp.metrics.base import DatasetMetric  # noqa: PLC0415  (a sweep's parent starts without torch)

    known = {metric.name: metric for metric in metrics}
    found = summarize_run(per_image, {name: MetricFacts.of(metric) for name, metric in known.items()}, seed=seed)
    found = {name: replace(summary, mean=float(known[name].compute())) for name, summary in found.items()}
    names = Units.of(per_image).names
    units = None if names is None else dict(zip(per_image["image_id"], names, strict=True))
    for name, metric in known.items():
        if isinstance(metric, DatasetMetric):
            found[name] = summarize_counts(metric, pd.DataFrame(metric.rows), units=units, seed=seed)
    return {name: found[name] for name in known if name in found}


def summarize_counts(
    metric: "DatasetMetric", counts: pd.DataFrame, *, units: Mapping[str, str] | None = None, seed: int = 0
) -> Summary:
    """Compute a data-set metric, and its interval over 2000 resamples of the units, from counts of each image.

    Args:
        counts: rows of ``image_id``, ``part`` and the metric's `COUNTS`.
        units: each image's unit; None: each image is one of its own.
        seed: of the resampling.
    """
    facts, nothing = MetricFacts.of(metric), float("nan")
    if not len(counts):
        return Summary(nothing, (nothing, nothing), 0, facts)
    counts = counts.sort_values(["image_id", "part"], kind="stable")
    image = counts["image_id"]
    unit, names = pd.factorize(image if units is None else image.map(lambda name: units.get(name, name)))
    part, parts = pd.factorize(counts["part"], sort=True)
    numbers = np.concatenate(
        [np.array(counts[name].tolist()).reshape(len(counts), -1) for name in metric.COUNTS], 1
    )
    width = numbers.shape[1]
    place = (np.repeat(unit, width), (part[:, None] * width + np.arange(width)).ravel())
    cells: Any = csr_matrix((numbers.ravel().astype(np.float64), place), shape=(len(names), len(parts) * width))
    if cells.nnz > _DENSE * cells.shape[0] * cells.shape[1]:
        cells = cells.toarray()

    def figures(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return metric.figures((drawn @ cells).reshape(len(drawn), len(parts), width))

    (mean,), (means,) = figures(np.ones((1, len(names))))
    if np.isnan(mean):
        return Summary(nothing, (nothing, nothing), 0, facts)
    rng = np.random.default_rng(seed)
    found = []
    for resamples in (RESAMPLES // _AT_ONCE) * [_AT_ONCE]:
        chosen = rng.integers(0, len(names), (resamples, len(names)))
        found.append(figures(np.stack([np.bincount(row, minlength=len(names)) for row in chosen])))
    low, high = np.nanpercentile(np.concatenate([one for one, _ in found]), [2.5, 97.5])
    lows, highs = np.nanpercentile(np.concatenate([own for _, own in found]), [2.5, 97.5], axis=0)
    present = counts.groupby("part")["image_id"].nunique()
    of_parts = {
        str(name): Summary(float(means[k]), (float(lows[k]), float(highs[k])), int(present[name]))
        for k, name in enumerate(parts)
        if name and metric.shows_parts
    }
    note = metric.note(cells.sum(0).reshape(len(parts), width))
    return Summary(float(mean), (float(low), float(high)), image.nunique(), facts, of_parts, note)
