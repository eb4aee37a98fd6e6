"""This module builds the results table of a sweep or of any runs, with paired differences from a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gradsam_exp.errors import InputError
from gradsam_exp.runs.comparison import CLASS_MIOU, Runs, against
from gradsam_exp.runs.finding import ELSEWHERE, WHERE_IT_RAN, chosen, in_canon, in_common
from gradsam_exp.runs.folder import Run

if TYPE_CHECKING:
    import pandas as pd


def collect_runs(runs: Runs) -> pd.DataFrame:
    """Make one row per run: what was varied, status, each metric with interval and n, the error if it failed.

    A run that is the same as an earlier one, as it does not depend on what was varied, names it in ``same_as``.
    One whose files are damaged has the status ``damaged``, and its error says which and how.
    """
    import pandas as pd  # noqa: PLC0415  (a sweep's parent starts without pandas)

    varied = _spelled([_given(runs[job]) for job in runs.jobs] if runs.of_sweep else _varied_between(runs))
    rows = []
    first: dict[str, str] = {}
    for job, own in zip(runs.jobs, varied, strict=True):
        row = {"job": job, **own, "status": "interrupted", **_outcome(runs[job])}
        same = first.setdefault(row.pop("identity", None) or job, job)
        rows.append(row if same == job else row | {"same_as": same})
    table = pd.DataFrame(rows)
    if "error" in table:  # stands last, as it can be long
        table["error"] = table.pop("error")
    return table


def with_comparison(runs: Runs, table: pd.DataFrame, baseline: str | None = None) -> pd.DataFrame:
    """Add `compare_runs`' columns to the table; a run that repeats another has that one's.

    If the sweep was to be compared within the values of some keys (``compare_within``), these are in ``within``.
    If ``sam`` is among them, a run whose segmenter has no network has a row for each segmenter that has one: it is
    what these have to beat.
    """
    import pandas as pd  # noqa: PLC0415

    table = _within_tables(runs, table)
    pairs = compare_runs(runs, table, baseline)
    if not len(pairs):
        return table
    keys = ["job", "within"] if "within" in table else ["job"]
    places = table.assign(job=table["same_as"].fillna(table["job"])) if "same_as" in table else table
    if "within" in table:
        known = set(map(tuple, pairs[keys].to_numpy()))
        first = pairs.drop_duplicates("job").set_index("job")["within"]
        own = [w if (j, w) in known else str(first.get(j)) for j, w in places[keys].to_numpy()]
        places = places.assign(within=own)
    found = places[keys].merge(pairs, on=keys, how="left").drop(columns=keys)
    return pd.concat([table.reset_index(drop=True), found], axis=1)


def compare_runs(runs: Runs, table: pd.DataFrame, baseline: str | None = None) -> pd.DataFrame:
    """Compare each finished run's mIoU with that of the first run on the same images, and give it by class.

    Where the table has ``within``, with that of the first run on the same images that has the same there.

    Args:
        baseline: the job that comes first on its images instead.

    Returns:
        One row per run (and ``within``): ``baseline`` (the job compared with), ``delta_miou`` with ``_low`` and
        ``_high``, ``p`` of the mean difference by sign flips, corrected by Holm over the sweep (over those of one
        value of ``within``), ``wins``, ``ties``, ``losses``, and one ``class_miou:<class>`` per class. A
        baseline's own row has classes only.
    """
    import pandas as pd  # noqa: PLC0415

    from gradsam_exp.runs.paired import holm  # noqa: PLC0415

    baselines: dict[tuple[str, str], tuple[str, pd.Series]] = {}
    keys = ["job", "within"] if "within" in table else ["job"]
    rows: list[dict[str, Any]] = []
    for place in sorted(runs.evaluated(table)[keys].to_dict("records"), key=lambda row: row["job"] != baseline):
        job, within = str(place["job"]), str(place.get("within", ""))
        images, data = runs[job].images, runs[job].data_digest
        by_class = images.groupby("class_name")["iou"].mean()
        row: dict[str, Any] = {f"{CLASS_MIOU}{name}": value for name, value in by_class.items()}
        row |= {key: place[key] for key in keys}
        name, first = baselines.setdefault((within, data), (job, images["iou"]))
        if name != job:
            row |= against(images, name, first)
        rows.append(row)
    pairs = pd.DataFrame(rows)
    if "p" not in pairs:
        return pairs.iloc[:0]
    for _, together in pairs.groupby(pairs.get("within", lambda _: "")):
        pairs.loc[together.index, "p"] = holm(together["p"].tolist())
    return pairs


def about(runs: Runs, table: pd.DataFrame) -> str:
    """Say what the finished runs have in common, in one line, see `in_common`; empty if there are none."""
    finished = [runs[job] for job in runs.evaluated(table)["job"]]
    if not finished:
        return ""
    configs = [run.config for run in finished]
    for k, (run, config) in enumerate(zip(finished, configs, strict=True)):
        if run.backbone:  # of the checkpoint, which the configuration need not say
            configs[k] = {**config, "model": {**(config.get("model") or {}), "backbone": run.backbone}}
    return in_common(configs, [len(run.images) for run in finished])


def notes_on_units(runs: Runs, table: pd.DataFrame) -> list[str]:
    """Say over which units the intervals are, for each set of images on which these are not simply the images."""
    from gradsam_exp.runs.units import Units  # noqa: PLC0415  (a sweep's parent starts without)

    jobs = runs.evaluated(table)["job"].tolist()
    first = {runs[job].data_digest: job for job in reversed(jobs)}
    found = {job: Units.of(runs[job].images).note for job in jobs if job in first.values()}
    where = "on the images of job {}, " if len(first) > 1 else ""
    return [where.format(job) + note for job, note in found.items() if note]


def _within_tables(runs: Runs, table: pd.DataFrame) -> pd.DataFrame:
    """Add ``within``, such as ``compact · leaky``, if runs differ there; see `with_comparison`."""
    import pandas as pd  # noqa: PLC0415

    found = [_compared_within(runs[job]) for job in table["job"]]
    rows: list[dict[Any, Any]] = []
    beside: list[dict[Any, Any]] = []  # last, so that they are no baseline
    for row, own in zip(table.to_dict("records"), found, strict=True):
        others = []
        if "sam" in own and without_network(own["sam"]):
            alike = [other for other in found if own | {"sam": other.get("sam", "")} == other]
            others = [other for other in alike if not without_network(other["sam"])]
        texts = dict.fromkeys(" · ".join(other.values()) for other in others or [own])
        (beside if others else rows).extend(row | {"within": text} for text in texts)
    rows += beside
    if len({row["within"] for row in rows}) < 2:
        return table
    return pd.DataFrame(rows)[[*table, "within"]]


def _compared_within(run: Run) -> dict[str, str]:
    """Read what a run has where its sweep is compared within, by key."""
    if run.problem is not None:
        return {}
    return {key: chosen(run.config, key) or "" for key in run.config.get("compare_within") or []}


def without_network(sam: str) -> bool:
    """Say whether a segmenter of this name works on the picture alone."""
    from gradsam_exp.segmenters.base import SEGMENTERS  # noqa: PLC0415  (a sweep's parent starts without torch)
    from gradsam_exp.segmenters.pixelwise import PixelSegmenter  # noqa: PLC0415

    found = SEGMENTERS.get(sam) if sam in SEGMENTERS.names() else None
    return isinstance(found, type) and issubclass(found, PixelSegmenter)


def _varied_between(runs: Runs) -> list[dict[str, str]]:
    """What runs from anywhere were given, and what the others have there, as their configurations say it."""
    given = [runs[job].given for job in runs.jobs]
    every = dict.fromkeys(key for own in given for key in own)
    keys = [key for key in every if key.split(".")[0] not in (*ELSEWHERE, *WHERE_IT_RAN)]
    configs = [runs[job].config for job in runs.jobs]
    return [{key: _value(key, own, config) for key in keys} for own, config in zip(given, configs, strict=True)]


def _value(key: str, given: Mapping[str, str], config: Mapping[str, Any]) -> str:
    """Of a group the option, which may have another name than what it configures; nothing for null."""
    typed, found = given.get(key) or "", chosen(config, key) or ""
    if isinstance(config.get(key), Mapping) or in_canon(typed) == found or not found:
        found = typed or found
    return "" if found == "null" else found


def _spelled(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Spell equal numbers alike, as the first of them was typed."""
    first: dict[tuple[str, str], str] = {}
    return [{key: first.setdefault((key, in_canon(value)), value) for key, value in row.items()} for row in rows]


def _given(run: Run) -> dict[str, str]:
    """What a sweep's job was given; nothing if that cannot be read."""
    try:
        return run.given
    except InputError:
        return {}


def _outcome(run: Run) -> dict[str, Any]:
    """Status, error and metrics of one run; empty if it left nothing."""
    if not run.has_ended:
        return {}
    if run.problem is not None:
        return {"status": "damaged", "error": run.problem}
    outcome = run.outcome
    row: dict[str, Any] = {"status": outcome.status, "identity": outcome.identity}
    if outcome.error:
        row["error"] = outcome.error
    if outcome.upper_bound:
        row["upper_bound"] = True
    for name, metric in outcome.metrics.items():
        row |= {name: metric["mean"], f"{name}_low": metric["ci95"][0], f"{name}_high": metric["ci95"][1]}
        row[f"{name}_n"] = metric["n"]
    return row
