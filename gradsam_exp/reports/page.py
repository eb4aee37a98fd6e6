"""This module writes ``report.html``: a comparison of finished runs in one file that needs no network.

What is shown is gathered here as plain values; the files in ``templates`` make a page of it.
"""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from gradsam_exp.engine.store import Store
from gradsam_exp.errors import InputError
from gradsam_exp.reports import colours
from gradsam_exp.reports.charts import charts
from gradsam_exp.reports.knobs import in_words, knob_rows, notes_on_knobs
from gradsam_exp.reports.pictures import heat_source, read_pictures, small_predictions
from gradsam_exp.reports.tables import (
    BOUND,
    BOUND_NOTE,
    SAME_NOTE,
    is_unknown,
    known_metrics,
    merged_rows,
    shown,
    varied_columns,
)
from gradsam_exp.reports.templating import filled
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.effects import main_effects
from gradsam_exp.runs.finding import differences, in_brief, in_short
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.overrides import written
from gradsam_exp.runs.paired import TIE, all_pairs
from gradsam_exp.runs.sweep import notes_on_units
from gradsam_exp.runs.units import Units
from gradsam_exp.runs.writing import replaced

IOU_DIGITS = 12  # so that the same images are ties in the charts as in the table
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d)_(\d\d-\d\d-\d\d)(?:-\d{6})?")  # of a run's or a sweep's folder
_STYLES = ("reports/templates/report.css",)
# Between the two stands the library for charts.
_BEFORE = tuple(f"reports/templates/{name}.js" for name in ("shared", "page", "table"))
_AFTER = tuple(f"reports/templates/{name}.js" for name in ("charts", "drawing", "images"))


def write_page(
    runs: Runs, table: pd.DataFrame, path: Path, store: Store | None = None, *, baseline: str | None = None
) -> Path | None:
    """Write the report of the runs in ``table``; None if it holds no evaluation.

    Args:
        table: see `gradsam_exp.runs.sweep.collect_runs`.
        store: where images and heatmaps are read from; None leaves them out.
        baseline: the job that others are first compared with; the reader can choose another.
    """
    content = gather(runs, table, store, baseline=baseline)
    if not content["runs"]:
        return None
    with replaced(path) as partial:
        partial.write_text(render(content), encoding="utf-8")
    return path


def render(content: Mapping[str, Any]) -> str:
    """Make the page that shows what `gather` found."""
    return filled(
        "reports/templates/report.html",
        {key: value for key, value in content.items() if key not in ("title", "folder")},
        styles=_STYLES,
        scripts=[*_BEFORE, Markup(get_plotlyjs()), *_AFTER],
        **content,
    )


def gather(
    comparison: Runs, table: pd.DataFrame, store: Store | None = None, *, baseline: str | None = None
) -> dict[str, Any]:
    """Gather everything the page shows, as plain values.

    Returns:
        ``runs``: one for each row of the comparison; ``sets``: the images that runs have in common, with
        pictures; ``pairs``: ``[i, j, difference, low, high, p, wins, ties, losses]`` of every two runs on the
        same images; ``charts``; and what stands around them.
    """
    known = {name: facts.heading for name, facts in known_metrics(table, comparison.metric_facts(table)).items()}
    titles = {name: known[name] for name in ("miou", *known) if name in known}  # looked for first, it comes first
    varied = varied_columns(table)
    effects = main_effects(comparison, table, varied)
    rows = [row for row in merged_rows(table) if row["status"] != "finished" or comparison[row["job"]].has_images]
    names = short_names([str(row["job"]) for row in rows])
    runs = [
        _run(comparison[row["job"]], row, name, varied, list(titles))
        for row, name in zip(rows, names, strict=True)
    ]
    finished = [run for run in runs if run["status"] == "finished"]
    same = _same_in_all(finished, titles)
    changed = differences({run["job"]: comparison[run["job"]].config for run in finished})
    data_of = {run["job"]: comparison[run["job"]].data_digest for run in finished}
    sets: list[dict[str, Any]] = []
    for data in dict.fromkeys(data_of.values()):
        own = [run for run in finished if data_of[run["job"]] == data]
        sets.append(_image_set(comparison, own, data, len(sets), store))
    pairs = [pair for images in sets for pair in images.pop("pairs")]
    for run in finished:
        run["changed"] = changed[run["job"]]
    number = {job: k for k, run in enumerate(runs) for job in run["jobs"]}
    cautions = notes_on_units(comparison, table)
    folder, here = comparison.folder.resolve(), Path.cwd().resolve()
    chosen = None if baseline is None else number.get(baseline)
    return {
        "title": f"{folder.parent.name} / {comparison.folder.name}",
        "folder": str(folder.relative_to(here) if folder.is_relative_to(here) else folder),
        "created": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        "titles": {name: title for name, title in titles.items() if name not in same},
        "varied": varied,
        "runs": [{**run, "number": k} for k, run in enumerate(runs)],
        "baseline": chosen if chosen is not None else next((runs.index(run) for run in finished), None),
        "sets": sets,
        "pairs": [[number[one], number[other], *rest] for one, other, *rest in pairs],
        "effects": [
            {"said": said, "rows": knob_rows(found) if found.knobs else []}
            for said, found in zip(in_words(effects), effects, strict=True)
        ],
        "cautions": cautions if effects else [],
        "failures": _failures(runs),
        "charts": [_by_number(chart, number) for chart in charts(comparison, table)],
        "notes": [
            *_notes(runs, sets),
            *notes_on_knobs(effects),
            *([] if effects else cautions),
            *same.values(),
        ],
        "tie": TIE,
        "heat": colours.heat_table(),
        "series": colours.SERIES,
    }


def _failures(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The runs that did not finish, by what went wrong; the most frequent first."""
    found: dict[tuple[str, str], list[int]] = {}
    for number, run in enumerate(runs):
        if run["status"] != "finished":
            found.setdefault((run["status"], run["error"]), []).append(number)
    groups = [{"status": status, "error": error, "runs": own} for (status, error), own in found.items()]
    return sorted(groups, key=lambda group: len(group["runs"]), reverse=True)


def _by_number(chart: dict[str, Any], number: Mapping[str, int]) -> dict[str, Any]:
    """A chart whose points say by number, and not by job, which runs are behind them."""

    def numbers(node: Any) -> Any:
        return [numbers(one) for one in node] if isinstance(node, list) else number.get(node, -1)

    data = [
        {**trace, "meta": numbers(trace["meta"])} if "meta" in trace else trace
        for trace in chart["figure"]["data"]
    ]
    return {**chart, "figure": {**chart["figure"], "data": data}}


def short_names(jobs: Sequence[str]) -> list[str]:
    """Shorten runs' paths by the folders that do not tell them apart, and times to what they need be.

    Args:
        jobs: paths, all different: ``evaluate/2026-01-31_09-30-00-123456/0``; a sweep's are numbers, and stay so.
    """
    parts = [job.split("/") for job in jobs]
    length = 1
    while len({tuple(own[-length:]) for own in parts}) < len(jobs):
        length += 1
    names = ["/".join(own[-length:]) for own in parts]
    days = {day for job in jobs for day, _ in _STAMP.findall(job)}
    for kept in (r"\1_\2", r"\2")[: 2 if len(days) == 1 else 1]:  # no microseconds; of one day, the time alone
        shorter = [_STAMP.sub(kept, name) for name in names]
        if len(set(shorter)) == len(jobs):
            names = shorter
    return names


def _same_in_all(runs: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> dict[str, str]:
    """Metrics that need no column, as all runs have the same: a note on each. mIoU always has one."""
    if len(runs) < 2 or "miou" not in titles:
        return {}
    notes = {}
    for name, title in titles.items():
        values = {run["metrics"][name][0] for run in runs}
        if len(values) == 1 and name != "miou":
            notes[name] = f"{title} is {shown(values.pop())} in all runs"
    return notes


def _run(
    source: Run, row: Mapping[Any, Any], name: str, varied: Sequence[str], metrics: Sequence[str]
) -> dict[str, Any]:
    """What is known of one row without its images."""
    job = str(row["job"])
    values = ["" if is_unknown(row[column]) else in_brief(str(row[column])) for column in varied]
    bound = row.get("upper_bound") is True
    star = BOUND if bound else ""
    said = (in_short(key, value) for key, value in zip(varied, values, strict=True) if value)
    run: dict[str, Any] = {
        "job": job,
        "name": name + star,
        "jobs": row.get("all_jobs", [job]),
        "label": " ".join([name, *said]) + star,
        "varied": values,
        "status": row["status"],
        "bound": bound,
        "error": row["error"] if isinstance(row.get("error"), str) else "",
        "metrics": {name: [_number(row.get(name + end)) for end in ("", "_low", "_high")] for name in metrics},
        "command": source.command,
    }
    with suppress(InputError):  # of a run that failed
        run["explore"] = source.exploring
        run["provenance"] = _facts(source.provenance)
        run["seconds"] = _seconds(source.provenance)
    return run


def _seconds(provenance: Mapping[str, Any]) -> float | None:
    """What prompts and masks took, which a run does not take from the store; None if it does not say."""
    match provenance.get("seconds"):
        case {"segment": int(value) | float(value)}:
            return round(value, 3)
    return None


def _facts(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Provenance as rows of a table."""
    rows = []
    for key, value in provenance.items():
        if key == "git":
            dirty = " with uncommitted changes" if value and value["dirty"] else ""
            rows.append(("git commit", f"{value['commit']}{dirty}" if value else "unknown"))
        elif key == "seconds":
            rows.append((key, ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in value.items())))
        elif isinstance(value, Mapping):
            rows.append((key, ", ".join(f"{name} {text}" for name, text in value.items())))
        else:
            rows.append((key, str(value)))
    return rows


def _image_set(
    comparison: Runs, runs: Sequence[dict[str, Any]], data: str, number: int, store: Store | None
) -> dict[str, Any]:
    """The images that the runs have in common; the runs get their values on them."""
    tables = {run["job"]: comparison[run["job"]].images for run in runs}
    first = tables[runs[0]["job"]]
    ids = [str(name) for name in first.index]
    ious = pd.DataFrame({job: own["iou"].reindex(first.index) for job, own in tables.items()})
    sources: dict[str, Run] = {}
    for run in runs:
        run["source"] = heat_source(comparison[run["job"]])
        sources.setdefault(run["source"], comparison[run["job"]])
    pictures = read_pictures(sources, ious, store)
    known = first["class_name"].fillna("unknown").astype(str)
    names = sorted(set(known))
    predictable = list(dict.fromkeys(str(name) for own in tables.values() for name in own["predicted_class"]))
    for run in runs:
        own = tables[run["job"]].reindex(first.index)
        run |= {
            "set": number,
            "iou": [_number(value, IOU_DIGITS) for value in own["iou"]],
            "predicted_iou": [_number(value, 3) for value in own["predicted_iou"]],
            "predicted": [predictable.index(str(name)) for name in own["predicted_class"]],
        }
        run["masks"], run["prompts"] = small_predictions(comparison[run["job"]], pictures)
    place = {name: k for k, name in enumerate(ids)}
    return {
        "data": data,
        "ids": ids,
        "classes": names,
        "of_class": [names.index(name) for name in known],
        "predictable": predictable,
        "given": [shlex.quote(f"task.image={written(name)}") for name in ids],
        "pictures": {
            "of": [place[name] for name in pictures.ids],
            "sizes": pictures.sizes,
            "images": pictures.images,
            "truths": pictures.truths,
            "heats": pictures.heats,
            "smaller": any(scale < 1 for scale in pictures.scales),
        },
        "notes": pictures.notes,
        "pairs": _pairs(ious, Units.of(first).names),
    }


def _pairs(ious: pd.DataFrame, units: np.ndarray | None) -> list[list[Any]]:
    """Every two runs, by job, with what is known of their difference."""
    rows = []
    for (i, j), found in all_pairs(ious.to_numpy(dtype="float64").T, units=units).items():
        numbers = (found.difference.mean, *found.difference.ci95)
        p = None if math.isnan(found.p) else float(f"{found.p:.4g}")
        counts = (found.wins, found.ties, found.losses)
        rows.append([ious.columns[i], ious.columns[j], *(_number(value, 6) for value in numbers), p, *counts])
    return rows


def _notes(runs: Sequence[Mapping[str, Any]], sets: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = [BOUND_NOTE] if any(run["bound"] for run in runs) else []
    if any(len(run["jobs"]) > 1 for run in runs):
        notes.append(SAME_NOTE)
    if len(sets) > 1:
        notes.append(f"the runs are on {len(sets)} different sets of images; only runs on the same are compared")
    return notes


def _number(value: Any, digits: int = 4) -> float | None:
    """JSON has no NaN."""
    return None if value is None or math.isnan(value) else round(float(value), digits)
