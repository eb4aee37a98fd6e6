"""``task=report`` compares any finished runs: it writes one page to look at, and the tables of a sweep."""

from gradsam_exp.config import Config
from gradsam_exp.console import console
from gradsam_exp.engine.session import Job
from gradsam_exp.errors import InputError, did_you_mean
from gradsam_exp.registry import build_checked
from gradsam_exp.reports.page import write_page
from gradsam_exp.reports.sweep import write_curves, write_tables
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.finding import find_runs
from gradsam_exp.runs.stored import readers_store
from gradsam_exp.runs.sweep import collect_runs, with_comparison


def run(config: Config, job: Job) -> None:
    """Write ``report.html``, ``sweep.csv``, ``sweep.md``, ``sweep.tex`` and ``sweep.png`` into the job's folder.

    Raises:
        InputError: no runs are given, or there are none where they should be.
    """
    build_checked("task", compare, config.task, config=config, job=job)


def compare(config: Config, job: Job, *, baseline: str | int | None = None) -> None:
    """See ``conf/task/report.yaml``."""
    if config.runs is None:
        raise InputError(
            "runs is missing: give the folder of a run or of a sweep, or a glob, as in runs='outputs/evaluate/*'"
        )
    store = readers_store(config.store)
    runs = Runs.from_anywhere(find_runs(config.runs))
    table = collect_runs(runs)
    first = None if baseline is None else str(baseline)
    finished = runs.evaluated(table)["job"].tolist()
    if first is not None and first not in finished:
        raise InputError(f"task.baseline={first} is no finished run{did_you_mean(first, finished)}")
    table = with_comparison(runs, table, first)
    once = table.drop_duplicates("job")
    page = write_page(runs, once, job.folder / "report.html", store, baseline=first)
    write_tables(runs, table, job.folder)
    write_curves(runs, once, job.folder / "sweep.png")
    console.print(page, soft_wrap=True)
