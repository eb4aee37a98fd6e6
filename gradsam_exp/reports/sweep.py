"""This module writes the tables, the page and the curves of a comparison, and prints the tables."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gradsam_exp.errors import tell, warn
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.sweep import about, collect_runs, notes_on_units, with_comparison

if TYPE_CHECKING:
    import pandas as pd

    from gradsam_exp.engine.store import Store

log = logging.getLogger(__name__)


def summarize_sweep(folder: Path, store: Store | None = None) -> pd.DataFrame:
    """Collect the runs below ``folder``, write their tables and report there, and print the tables.

    ``sweep.csv``, ``sweep.md``, ``sweep.tex``, ``report.html`` and the curves ``sweep.png``; where a seed was
    varied, ``pooled.csv`` holds one row for the runs that differ in nothing else. The page finds pictures in the
    store; None leaves them out.
    """
    runs = Runs(folder)
    table = with_comparison(runs, collect_runs(runs))
    write_tables(runs, table, folder)
    tell(folder / "sweep.csv")
    with warned("report.html was not written"):
        from gradsam_exp.reports.page import write_page  # noqa: PLC0415

        page = write_page(runs, table.drop_duplicates("job"), folder / "report.html", store)
        if page is not None:
            tell(page)
    write_curves(runs, table.drop_duplicates("job"), folder / "sweep.png")
    return table


def write_curves(runs: Runs, table: pd.DataFrame, path: Path) -> None:
    """Draw ``path`` (PNG) and the same as PDF, if something was varied; what cannot be drawn is a warning."""
    with warned(f"{path.name} was not drawn"):
        from gradsam_exp.reports.plots import draw_curves  # noqa: PLC0415

        draw_curves(runs, table, path)


@contextmanager
def warned(problem: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into a warning: no page and no figure may cost a run its numbers."""
    try:
        yield
    except Exception as error:  # of many kinds, from matplotlib
        warn(f"{problem} ({type(error).__name__}: {error}); all else is whole")
        log.debug("", exc_info=True)


def write_tables(runs: Runs, table: pd.DataFrame, to: Path) -> None:
    """Write ``sweep.csv``, ``sweep.md`` and ``sweep.tex`` into ``to``, and print the tables."""
    # Here, as a sweep's parent starts without pandas.
    from gradsam_exp.reports.tables import as_latex, as_markdown, print_tables, varied_columns  # noqa: PLC0415
    from gradsam_exp.runs.effects import main_effects  # noqa: PLC0415
    from gradsam_exp.runs.pooling import pool_runs  # noqa: PLC0415

    table.to_csv(to / "sweep.csv", index=False)
    once, varied = table.drop_duplicates("job"), varied_columns(table)
    pooled = pool_runs(runs, once, varied)
    if len(pooled):
        pooled.to_csv(to / "pooled.csv", index=False)
    effects = main_effects(runs, once, varied)
    shown = table, pooled, runs.metric_facts(table), about(runs, table), notes_on_units(runs, table), effects
    (to / "sweep.md").write_text(as_markdown(*shown), encoding="utf-8")
    (to / "sweep.tex").write_text(as_latex(*shown), encoding="utf-8")
    print_tables(*shown)
