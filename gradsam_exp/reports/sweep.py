"""The end of a sweep: one table of all its runs, printed, in files, and as a page to look at."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradsam_exp.errors import InputError
from gradsam_exp.runs.finding import (
    ELSEWHERE,
    OVERRIDES,
    chosen,
    config_of,
    in_canon,
    in_common,
    natural,
    problem_in,
    varied_in,
)

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def summarize_sweep(folder: Path) -> pd.DataFrame:
    """Collect the runs below ``folder``, write their tables and report there, and print the tables.

    ``sweep.csv``, ``sweep.md``, ``sweep.tex``, ``report.html`` and the curves ``sweep.png``; where a seed was
    varied, ``pooled.csv`` holds one row for the runs that differ in nothing else.
    """
    from gradsam_exp.reports.tables import print_tables  # noqa: PLC0415  (a sweep's parent starts without pandas)
    from gradsam_exp.runs.comparison import metric_facts  # noqa: PLC0415

    table = with_comparison(folder, collect_runs(folder))
    common = about(folder, table)
    pooled = write_tables(folder, table, folder, common)
    print_tables(table, pooled, metric_facts(folder, table), common)
    print(folder / "sweep.csv")
    _report(folder, table)
    return table


def _report(folder: Path, table: pd.DataFrame) -> None:
    """Write the page and the curves; whatever goes wrong, the sweep is whole without."""
    try:
        from gradsam_exp.reports.page import write_page  # noqa: PLC0415

        page = write_page(folder, table, folder / "report.html", explain=False)
    except Exception as error:
        log.warning(
            "report.html was not written (%s: %s); the sweep's tables are whole", type(error).__name__, error
        )
        log.debug("", exc_info=True)
    else:
        if page is not None:
            print(page)
    write_curves(folder, table, folder / "sweep.png")


def write_curves(folder: Path, table: pd.DataFrame, path: Path) -> None:
    """Draw ``path`` (PNG) and the same as PDF, if something was varied; what cannot be drawn is a warning."""
    from gradsam_exp.console import warn  # noqa: PLC0415

    try:
        from gradsam_exp.reports.curves import draw_curves  # noqa: PLC0415

        draw_curves(folder, table, path)
    except Exception as error:  # a figure costs no tables and no page
        warn(f"{path.name} was not drawn ({type(error).__name__}: {error}); all else is whole")
        log.debug("", exc_info=True)


def write_tables(folder: Path, table: pd.DataFrame, to: Path, common: str) -> pd.DataFrame:
    """Write ``sweep.csv``, ``sweep.md`` and ``sweep.tex`` into ``to``; returns the pooled rows.

    Args:
        common: see `about`; heads the tables.
    """
    from gradsam_exp.reports.tables import as_latex, as_markdown, varied_columns  # noqa: PLC0415
    from gradsam_exp.runs.comparison import metric_facts  # noqa: PLC0415
    from gradsam_exp.runs.pooling import pool_runs  # noqa: PLC0415

    table.to_csv(to / "sweep.csv", index=False)
    pooled = pool_runs(folder, table, varied_columns(table))
    if len(pooled):
        pooled.to_csv(to / "pooled.csv", index=False)
    metrics = metric_facts(folder, table)
    (to / "sweep.md").write_text(as_markdown(table, pooled, metrics, common), encoding="utf-8")
    (to / "sweep.tex").write_text(as_latex(table, pooled, metrics, common), encoding="utf-8")
    return pooled


def about(folder: Path, table: pd.DataFrame) -> str:
    """What the finished runs have in common, in one line, see `in_common`; empty if there are none."""
    from gradsam_exp.runs.comparison import backbone_of, evaluated_runs, images_of  # noqa: PLC0415

    runs = [folder / str(job) for job in evaluated_runs(folder, table)["job"]]
    if not runs:
        return ""
    configs = [config_of(run) for run in runs]
    for k, (run, config) in enumerate(zip(runs, configs, strict=True)):
        if backbone := backbone_of(run):  # of the checkpoint, which the configuration need not say
            configs[k] = {**config, "model": {**(config.get("model") or {}), "backbone": backbone}}
    return in_common(configs, [len(images_of(run)) for run in runs])


def collect_runs(folder: Path, runs: Sequence[Path] | None = None) -> pd.DataFrame:
    """One row per run: what was varied, status, each metric with interval and n, the error if it failed.

    A run that is the same as an earlier one, as it does not depend on what was varied, names it in ``same_as``.
    One whose files are damaged has the status ``damaged``, and its error says which and how.

    Args:
        folder: a sweep's, or one that holds all runs; ``job`` is a run's path below it.
        runs: the runs' folders; a sweep's are the folders with a ``.hydra/overrides.yaml``.
    """
    import pandas as pd  # noqa: PLC0415

    if runs is None:
        found = [path.parent.parent for path in folder.glob(f"*/{OVERRIDES}")]
        runs = sorted(found, key=lambda run: natural(run.name))
        varied = [_given(run) for run in runs]
    else:
        varied = _varied_between(runs)
    rows = []
    first: dict[str, str] = {}
    for run, own in zip(runs, varied, strict=True):
        job = run.resolve().relative_to(folder.resolve()).as_posix()
        row: dict[str, Any] = {"job": job, **own}
        row |= {"status": "interrupted"} | _outcome(run)
        same = first.setdefault(row.pop("identity", None) or job, job)
        rows.append(row if same == job else row | {"same_as": same})
    table = pd.DataFrame(rows)
    error = table.pop("error") if "error" in table else None
    if error is not None:
        table["error"] = error
    return table


def with_comparison(folder: Path, table: pd.DataFrame, baseline: str | None = None) -> pd.DataFrame:
    """The table with `compare_runs`' columns; a run that repeats another has that one's."""
    import pandas as pd  # noqa: PLC0415

    pairs = compare_runs(folder, table, baseline)
    if not len(pairs):
        return table
    made_by = table["same_as"].fillna(table["job"]) if "same_as" in table else table["job"]
    found = pairs.set_index("job").reindex(made_by).reset_index(drop=True)
    return pd.concat([table, found], axis=1)


def compare_runs(folder: Path, table: pd.DataFrame, baseline: str | None = None) -> pd.DataFrame:
    """Each finished run's mIoU against that of the first run on the same images, and its mIoU by class.

    Args:
        baseline: the job that comes first on its images instead.

    Returns:
        One row per run: ``baseline`` (the job compared with), ``delta_miou`` with ``_low`` and ``_high``,
        Wilcoxon's ``p`` corrected by Holm over the sweep, ``wins``, ``ties``, ``losses``, and one
        ``class_miou:<class>`` per class. A baseline's own row has classes only.
    """
    import pandas as pd  # noqa: PLC0415

    from gradsam_exp.runs.comparison import (  # noqa: PLC0415
        CLASS_MIOU,
        against,
        data_digest,
        evaluated_runs,
        images_of,
    )
    from gradsam_exp.runs.paired import holm  # noqa: PLC0415

    baselines: dict[str, tuple[str, pd.Series]] = {}
    rows: list[dict[str, Any]] = []
    jobs = evaluated_runs(folder, table)["job"].tolist()
    for job in sorted(jobs, key=lambda job: job != baseline):
        images = images_of(folder / job)
        data = data_digest(folder / job)
        by_class = images.groupby("class_name")["iou"].mean()
        row: dict[str, Any] = {"job": job, **{f"{CLASS_MIOU}{name}": value for name, value in by_class.items()}}
        if data in baselines:
            row |= against(images["iou"], *baselines[data])
        else:
            baselines[data] = (job, images["iou"])
        rows.append(row)
    pairs = pd.DataFrame(rows)
    if "p" not in pairs:
        return pairs.iloc[:0]
    pairs["p"] = holm(pairs["p"].tolist())
    return pairs


def _varied_between(runs: Sequence[Path]) -> list[dict[str, str]]:
    """What runs from anywhere were given, and what the others have there, as their configurations say it."""
    given = [varied_in(run) for run in runs]
    keys = [
        key for key in dict.fromkeys(key for own in given for key in own) if key.split(".")[0] not in ELSEWHERE
    ]
    configs = [config_of(run) for run in runs]
    return [
        {key: in_canon(_value(key, own, config)) for key in keys}
        for own, config in zip(given, configs, strict=True)
    ]


def _value(key: str, given: Mapping[str, str], config: Mapping[str, Any]) -> str:
    """Of a group the option, which may have another name than what it configures."""
    option = given.get(key) if isinstance(config.get(key), Mapping) else None
    return option or chosen(config, key) or given.get(key) or ""


def _given(run: Path) -> dict[str, str]:
    """What a sweep's job was given; nothing if that cannot be read."""
    try:
        return {key: in_canon(value) for key, value in varied_in(run).items()}
    except InputError:
        return {}


def _outcome(run: Path) -> dict[str, Any]:
    """Status, error and metrics of one run; empty if it left nothing."""
    path = run / "metrics.json"
    if not path.is_file():
        return {}
    problem = problem_in(run)
    if problem is not None:
        return {"status": "damaged", "error": problem}
    content = json.loads(path.read_text(encoding="utf-8"))
    row = {"status": content["status"], "identity": content["identity"]}
    if "error" in content:
        row["error"] = content["error"]
    if content.get("upper_bound"):
        row["upper_bound"] = True
    for name, metric in content["metrics"].items():
        row |= {name: metric["mean"], f"{name}_low": metric["ci95"][0], f"{name}_high": metric["ci95"][1]}
        row[f"{name}_n"] = metric["n"]
    return row
