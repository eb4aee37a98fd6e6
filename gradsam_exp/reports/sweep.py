"""The end of a sweep: one table of all its runs, printed, as CSV and as Markdown."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    import pandas as pd


class SweepSummary(Callback):
    """Hydra callback: writes ``sweep.csv`` and ``sweep.md`` when all jobs are done, even if some failed."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Summarise the sweep; exits with 1 if a job failed."""
        del kwargs
        table = summarize_sweep(Path(config.hydra.sweep.dir))
        if (table["status"] != "finished").any():
            sys.exit(1)


def summarize_sweep(folder: Path) -> pd.DataFrame:
    """Collect the runs below ``folder``, write ``sweep.csv`` and ``sweep.md`` there, and print the table."""
    table = collect_runs(folder)
    table.to_csv(folder / "sweep.csv", index=False)
    (folder / "sweep.md").write_text(as_markdown(table), encoding="utf-8")
    _print(table)
    print(folder / "sweep.csv")
    return table


def collect_runs(folder: Path) -> pd.DataFrame:
    """One row per run: what was varied, status, each metric with interval and n, the error if it failed.

    Args:
        folder: a sweep's; its runs are the folders with a ``.hydra/overrides.yaml``.
    """
    import pandas as pd  # noqa: PLC0415  (a sweep's parent starts without it)

    rows = []
    for path in sorted(folder.glob("*/.hydra/overrides.yaml"), key=lambda p: _natural(p.parent.parent.name)):
        run = path.parent.parent
        row: dict[str, Any] = {"job": run.name, **_varied(path)}
        row |= {"status": "interrupted"} | _outcome(run / "metrics.json")
        rows.append(row)
    table = pd.DataFrame(rows)
    error = table.pop("error") if "error" in table else None
    if error is not None:
        table["error"] = error
    return table


def _natural(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdigit() else (sys.maxsize, name)


def _varied(path: Path) -> dict[str, str]:
    overrides = OmegaConf.load(path)
    pairs = [str(override).lstrip("+~").partition("=") for override in overrides]
    return {key: value for key, _, value in pairs}


def _outcome(path: Path) -> dict[str, Any]:
    """Status, error and metrics of one run; empty if it left nothing."""
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    row = {"status": content["status"]}
    if "error" in content:
        row["error"] = content["error"]
    if content.get("upper_bound"):
        row["upper_bound"] = True
    for name, metric in content["metrics"].items():
        row |= {name: metric["mean"], f"{name}_low": metric["ci95"][0], f"{name}_high": metric["ci95"][1]}
        row[f"{name}_n"] = metric["n"]
    return row


def _cells(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Headings and texts for people: one column for each thing varied, ``mean [low, high]`` for each metric."""
    from gradsam_exp.reports.terminal import TITLES  # noqa: PLC0415  (see above)

    metrics = [name for name in TITLES if name in table and table[name].notna().any()]
    own = {f"{name}{end}" for name in TITLES for end in ("", "_low", "_high", "_n")}
    varied = [str(c) for c in table if c not in own | {"job", "status", "error", "upper_bound"}]
    incomplete = bool((table["status"] != "finished").any())
    headings = ["job", *varied, *(TITLES[name] for name in metrics), *(["status"] if incomplete else [])]
    rows = []
    for run in table.to_dict("records"):
        job = f"{run['job']} (upper bound)" if run.get("upper_bound") is True else str(run["job"])
        row = [job, *("" if _unknown(run[c]) else str(run[c]) for c in varied)]
        for name in metrics:
            interval = f"{run[name]:.3f} [{run[f'{name}_low']:.3f}, {run[f'{name}_high']:.3f}]"
            row.append("" if _unknown(run[name]) else interval)
        rows.append([*row, str(run["status"])] if incomplete else row)
    return headings, rows


def _errors(table: pd.DataFrame) -> list[str]:
    """``job 3: what went wrong`` for every job that failed."""
    failed = table[table["status"] == "failed"].to_dict("records")
    return [f"job {run['job']}: {run['error']}" for run in failed]


def as_markdown(table: pd.DataFrame) -> str:
    """The sweep's table in Markdown, and what went wrong below it."""
    headings, rows = _cells(table)
    lines = [headings, ["---"] * len(headings), *rows]
    text = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
    return text + "".join(f"\n- {line}\n" for line in _errors(table))


def _print(table: pd.DataFrame) -> None:
    from rich.table import Table  # noqa: PLC0415

    from gradsam_exp.reports.terminal import console  # noqa: PLC0415

    headings, rows = _cells(table)
    rich = Table(title="sweep", title_justify="left", title_style="bold")
    for heading in headings:
        rich.add_column(heading, no_wrap=heading == "status")
    for row in rows:
        rich.add_row(*row)
    console.print(rich)
    for line in _errors(table):
        console.print(line, soft_wrap=True)


def _unknown(value: Any) -> bool:
    return value is None or value != value  # noqa: PLR0124  (NaN is not itself)
