"""The end of a sweep: one table of all its runs, printed, as CSV and as Markdown."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
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
    pairs = compare_runs(folder, table)
    if len(pairs):
        table = table.merge(pairs, on="job", how="left")
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


def compare_runs(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Each finished run's mIoU against that of the first run on the same images, and its mIoU by class.

    Returns:
        One row per run: ``baseline`` (the job compared with), ``delta_miou`` with ``_low`` and ``_high``,
        Wilcoxon's ``p`` corrected by Holm over the sweep, ``wins``, ``ties``, ``losses``, and one
        ``miou_<class>`` per class. A baseline's own row has classes only.
    """
    import pandas as pd  # noqa: PLC0415

    from gradsam_exp.metrics.paired import holm, paired_difference  # noqa: PLC0415

    baselines: dict[str, tuple[str, pd.Series]] = {}
    rows: list[dict[str, Any]] = []
    for job in table.loc[table["status"] == "finished", "job"]:
        images = pd.read_parquet(folder / job / "per_image.parquet").set_index("image_id")
        provenance = json.loads((folder / job / "provenance.json").read_text(encoding="utf-8"))
        data = provenance["digests"]["data"]
        by_class = images.groupby("class_name")["iou"].mean()
        row: dict[str, Any] = {"job": job, **{f"miou_{name}": value for name, value in by_class.items()}}
        if data in baselines:
            name, values = baselines[data]
            found = paired_difference(images["iou"].to_numpy(), values.reindex(images.index).to_numpy())
            low, high = found.difference.ci95
            row |= {"baseline": name, "delta_miou": found.difference.mean, "delta_low": low, "delta_high": high}
            row |= {"p": found.p, "wins": found.wins, "ties": found.ties, "losses": found.losses}
        else:
            baselines[data] = (job, images["iou"])
        rows.append(row)
    pairs = pd.DataFrame(rows)
    if "p" not in pairs:
        return pairs.iloc[:0]
    pairs["p"] = holm(pairs["p"].tolist())
    return pairs


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


BOUND = "*"
BOUND_NOTE = f"{BOUND} upper bound: looks at the truth"
PAIRS = ["baseline", "delta_miou", "delta_low", "delta_high", "p", "wins", "ties", "losses"]


def _varied_columns(table: pd.DataFrame) -> list[str]:
    from gradsam_exp.reports.terminal import HEATMAP_TITLES, TITLES  # noqa: PLC0415  (see above)

    own = {f"{name}{end}" for name in TITLES | HEATMAP_TITLES for end in ("", "_low", "_high", "_n")}
    own |= {"job", "status", "error", "upper_bound", *PAIRS}
    given = [str(c) for c in table if c not in own and not str(c).startswith("miou_")]
    return [c for c in given if table[c].nunique(dropna=False) > 1]


def _lead(run: Mapping[Any, Any], varied: list[str]) -> list[str]:
    """The first cells of a run's row: its number, starred if it is a bound, and what was varied."""
    job = f"{run['job']}{BOUND}" if run.get("upper_bound") is True else str(run["job"])
    return [job, *("" if _unknown(run[c]) else str(run[c]) for c in varied)]


def _cells(table: pd.DataFrame, *, brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """Headings and texts for people: one column for each thing varied, ``mean [low, high]`` for each metric.

    Args:
        brief: for a terminal's width, only mIoU with its interval.
    """
    from gradsam_exp.reports.terminal import TITLES  # noqa: PLC0415  (see above)

    metrics = [name for name in TITLES if name in table and table[name].notna().any()]
    varied = _varied_columns(table)
    incomplete = bool((table["status"] != "finished").any())
    headings = ["job", *varied, *(TITLES[name] for name in metrics), *(["status"] if incomplete else [])]
    rows = []
    for run in table.to_dict("records"):
        row = _lead(run, varied)
        for name in metrics:
            mean, interval = f"{run[name]:.3f}", f" [{run[f'{name}_low']:.3f}, {run[f'{name}_high']:.3f}]"
            row.append("" if _unknown(run[name]) else mean if brief and name != "miou" else mean + interval)
        rows.append([*row, str(run["status"])] if incomplete else row)
    return headings, rows


def _pair_cells(table: pd.DataFrame, *, brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """The same for the comparison with the baseline and, unless brief, the classes; no rows without comparison."""
    if "delta_miou" not in table:
        return [], []
    varied = _varied_columns(table)
    no_class = {"miou_low", "miou_high", "miou_n"}
    classes = [] if brief else [str(c) for c in table if str(c).startswith("miou_") and str(c) not in no_class]
    headings = ["job", *varied, "against", "Δ mIoU", "p (Holm)", "wins / ties / losses"]
    rows = []
    for run in table[table["status"] == "finished"].to_dict("records"):
        row = _lead(run, varied)
        if _unknown(run["delta_miou"]):
            row += ["", "baseline", "", ""]
        else:
            interval = f"{run['delta_miou']:+.3f} [{run['delta_low']:+.3f}, {run['delta_high']:+.3f}]"
            p = "" if _unknown(run["p"]) else f"{run['p']:.2g}"
            counts = "/".join(str(int(run[name])) for name in ("wins", "ties", "losses"))
            row += [str(run["baseline"]), interval, p, counts]
        rows.append(row + ["" if _unknown(run[c]) else f"{run[c]:.3f}" for c in classes])
    return headings + [c.removeprefix("miou_") for c in classes], rows


def _notes(table: pd.DataFrame) -> list[str]:
    """What the star means, if there is one, and ``job 3: what went wrong`` for every job that failed."""
    failed = table[table["status"] == "failed"].to_dict("records")
    bounds = "upper_bound" in table and table["upper_bound"].eq(True).any()
    return ([BOUND_NOTE] if bounds else []) + [f"job {run['job']}: {run['error']}" for run in failed]


def as_markdown(table: pd.DataFrame) -> str:
    """The sweep's tables in Markdown, and what went wrong below them."""
    text = ""
    for headings, rows in (_cells(table), _pair_cells(table)):
        if rows:
            lines = [headings, ["---"] * len(headings), *rows]
            text += "".join(
                "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
            )
            text += "\n"
    return text.rstrip("\n") + "\n" + "".join(f"\n- {line}\n" for line in _notes(table))


def _print(table: pd.DataFrame) -> None:
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from gradsam_exp.reports.terminal import console  # noqa: PLC0415

    for title, (headings, rows) in (
        ("sweep", _cells(table, brief=True)),
        ("mIoU image by image, against the first run on the same images", _pair_cells(table, brief=True)),
    ):
        if not rows:
            continue
        rich = Table(
            title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        for column, heading in enumerate(headings):
            words = heading.split()
            rich.add_column(heading, min_width=max(map(len, [*words, *(row[column] for row in rows)])))
        for row in rows:
            rich.add_row(*row)
        needed = console.measure(rich, options=console.options.update(max_width=1000)).minimum
        console.print(rich, width=max(needed, console.width), crop=False)
    for line in _notes(table):
        console.print(line, soft_wrap=True)


def _unknown(value: Any) -> bool:
    return value is None or value != value  # noqa: PLR0124  (NaN is not itself)
