"""``task=report``: compare any finished runs: one page to look at, and the tables of a sweep."""

from __future__ import annotations

from gradsam_exp.config import Config
from gradsam_exp.console import console
from gradsam_exp.engine.session import Job
from gradsam_exp.errors import InputError, did_you_mean
from gradsam_exp.registry import build_checked
from gradsam_exp.reports.page import write_page
from gradsam_exp.reports.sweep import about, collect_runs, with_comparison, write_curves, write_tables
from gradsam_exp.reports.tables import print_tables
from gradsam_exp.runs.comparison import evaluated_runs, metric_facts
from gradsam_exp.runs.finding import common_folder, find_runs


def run(config: Config, job: Job) -> None:
    """Write ``report.html``, ``sweep.csv``, ``sweep.md``, ``sweep.tex`` and ``sweep.png`` into the job's folder.

    Raises:
        InputError: no runs are given, or there are none where they should be.
    """
    build_checked("task", compare, config.task, config=config, job=job)


def compare(config: Config, job: Job, *, baseline: str | int | None = None, explain: bool = True) -> None:
    """See ``conf/task/report.yaml``."""
    if config.runs is None:
        raise InputError(
            "runs is missing: give the folder of a run or of a sweep, or a glob, as in runs='outputs/evaluate/*'"
        )
    runs = find_runs(config.runs)
    common = common_folder(runs)
    table = collect_runs(common, runs)
    first = None if baseline is None else str(baseline)
    finished = evaluated_runs(common, table)["job"].tolist()
    if first is not None and first not in finished:
        raise InputError(f"task.baseline={first} is no finished run{did_you_mean(first, finished)}")
    table = with_comparison(common, table, first)
    page = write_page(common, table, job.folder / "report.html", baseline=first, explain=explain)
    heading = about(common, table)
    pooled = write_tables(common, table, job.folder, heading)
    write_curves(common, table, job.folder / "sweep.png")
    print_tables(table, pooled, metric_facts(common, table), heading)
    console.print(page, soft_wrap=True)
