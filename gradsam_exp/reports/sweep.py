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
    """Collect the runs below ``folder``, write ``sweep.csv`` and ``sweep.md`` there, and print the tables.

    Where a seed was varied, ``pooled.csv`` holds one row for the runs that differ in nothing else.
    """
    import pandas as pd  # noqa: PLC0415

    from gradsam_exp.reports.pooled import pool_runs  # noqa: PLC0415  (a sweep's parent starts without pandas)
    from gradsam_exp.reports.tables import as_markdown, print_tables, varied_columns  # noqa: PLC0415

    table = collect_runs(folder)
    pairs = compare_runs(folder, table)
    if len(pairs):
        made_by = table["same_as"].fillna(table["job"]) if "same_as" in table else table["job"]
        found = pairs.set_index("job").reindex(made_by).reset_index(drop=True)
        table = pd.concat([table, found], axis=1)
    table.to_csv(folder / "sweep.csv", index=False)
    pooled = pool_runs(folder, table, varied_columns(table))
    if len(pooled):
        pooled.to_csv(folder / "pooled.csv", index=False)
    (folder / "sweep.md").write_text(as_markdown(table, pooled), encoding="utf-8")
    print_tables(table, pooled)
    print(folder / "sweep.csv")
    return table


def collect_runs(folder: Path) -> pd.DataFrame:
    """One row per run: what was varied, status, each metric with interval and n, the error if it failed.

    A run that is the same as an earlier one, as it does not depend on what was varied, names it in ``same_as``.

    Args:
        folder: a sweep's; its runs are the folders with a ``.hydra/overrides.yaml``.
    """
    import pandas as pd  # noqa: PLC0415

    rows = []
    first: dict[str, str] = {}
    for path in sorted(folder.glob("*/.hydra/overrides.yaml"), key=lambda p: _natural(p.parent.parent.name)):
        run = path.parent.parent
        row: dict[str, Any] = {"job": run.name, **_varied(path)}
        row |= {"status": "interrupted"} | _outcome(run / "metrics.json")
        same = first.setdefault(row.pop("identity", None) or run.name, run.name)
        rows.append(row if same == run.name else row | {"same_as": same})
    table = pd.DataFrame(rows)
    error = table.pop("error") if "error" in table else None
    if error is not None:
        table["error"] = error
    return table


def compare_runs(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Each finished run's mIoU against that of the first run on the same images, and its mIoU by class.

    Returns:
        One row per run: ``baseline`` (the job compared with), ``delta_miou`` with ``_low`` and ``_high``,
        Wilcoxon's ``p`` corrected by Holm over the sweep, ``wins``, ``ties``, ``losses``, and one
        ``miou_<class>`` per class. A baseline's own row has classes only.
    """
    import pandas as pd  # noqa: PLC0415

    from gradsam_exp.metrics.paired import holm  # noqa: PLC0415
    from gradsam_exp.reports.compare import against, data_digest  # noqa: PLC0415

    baselines: dict[str, tuple[str, pd.Series]] = {}
    rows: list[dict[str, Any]] = []
    for job in different_runs(table).query("status == 'finished'")["job"]:
        images = pd.read_parquet(folder / job / "per_image.parquet").set_index("image_id")
        data = data_digest(folder / job)
        by_class = images.groupby("class_name")["iou"].mean()
        row: dict[str, Any] = {"job": job, **{f"miou_{name}": value for name, value in by_class.items()}}
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


def different_runs(table: pd.DataFrame) -> pd.DataFrame:
    """The table without the rows that repeat another."""
    return table[table["same_as"].isna()] if "same_as" in table else table


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
    row = {"status": content["status"], "identity": content["identity"]}
    if "error" in content:
        row["error"] = content["error"]
    if content.get("upper_bound"):
        row["upper_bound"] = True
    for name, metric in content["metrics"].items():
        row |= {name: metric["mean"], f"{name}_low": metric["ci95"][0], f"{name}_high": metric["ci95"][1]}
        row[f"{name}_n"] = metric["n"]
    return row
