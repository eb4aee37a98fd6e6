"""This module averages runs that differ only in seed or trained checkpoint into one row, image by image."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from gradsam_exp.runs.comparison import CLASS_MIOU, Runs, against
from gradsam_exp.runs.paired import holm
from gradsam_exp.runs.summary import summarize_run
from gradsam_exp.runs.units import COLUMNS

SEEDS = ("model.checkpoint", "model.seed", "seed")
"""What is varied to see how much chance matters: the training of one classifier's network, random strategies."""


def pool_runs(runs: Runs, table: pd.DataFrame, varied: Sequence[str]) -> pd.DataFrame:
    """Average the finished runs of a sweep that differ in `SEEDS` only, image by image.

    Args:
        varied: columns of ``table`` that hold what was varied.

    Returns:
        One row per pool, in the order of its first run: what else was varied (if checkpoints are of different
        networks, ``backbone``), ``runs``, every metric of the image-wise means with its interval over units,
        ``class_miou:<class>``, ``miou_sd`` (between the runs' means), and the paired comparison with the first
        pool on the same images. No rows if no pool has more than one run.
    """
    if not set(varied) & set(SEEDS):
        return pd.DataFrame()
    finished = runs.evaluated(table)
    others = [column for column in varied if column not in SEEDS]
    backbones = [runs[job].backbone for job in finished["job"]]
    if len(set(backbones)) > 1:  # of `model.checkpoint`
        finished, others = finished.assign(backbone=backbones), ["backbone", *others]
    pools: dict[tuple[str, ...], list[pd.DataFrame]] = {}
    for row in finished.to_dict("records"):
        values = ("" if pd.isna(row[column]) else str(row[column]) for column in others)
        run = runs[row["job"]]
        pools.setdefault((run.data_digest, *values), []).append(run.images)
    if all(len(tables) == 1 for tables in pools.values()):
        return pd.DataFrame()
    metrics = runs.metric_facts(finished)
    baselines: dict[str, tuple[str, pd.Series]] = {}
    rows: list[dict[str, Any]] = []
    for (data, *same), tables in pools.items():
        numbers = [images.select_dtypes(["number", "bool"]).astype("float64") for images in tables]
        mean = pd.concat(numbers).groupby(level=0).mean()
        mean = mean.join(tables[0][[column for column in COLUMNS if column in tables[0]]])
        pool: dict[str, Any] = {**dict(zip(others, same, strict=True)), "runs": len(tables)}
        for name, found in summarize_run(mean, metrics).items():
            pool |= {name: found.mean, f"{name}_low": found.ci95[0], f"{name}_high": found.ci95[1]}
        by_class = mean["iou"].groupby(tables[0]["class_name"]).mean()
        pool |= {f"{CLASS_MIOU}{name}": value for name, value in by_class.items()}
        pool["miou_sd"] = pd.Series([images["iou"].mean() for images in numbers]).std()
        if data in baselines:
            pool |= against(mean, *baselines[data])
        else:
            baselines[data] = (", ".join(same) or "pool", mean["iou"])
        rows.append(pool)
    pooled = pd.DataFrame(rows)
    if "p" in pooled:
        pooled["p"] = holm(pooled["p"].tolist())
    return pooled
