"""Runs that differ in a seed only, pooled into one row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gradsam_exp.runs.comparison import (
    CLASS_MIOU,
    against,
    backbone_of,
    data_digest,
    evaluated_runs,
    images_of,
    metric_facts,
)
from gradsam_exp.runs.paired import holm
from gradsam_exp.runs.summary import summarize_run

SEEDS = ("model.checkpoint", "model.seed", "seed")
"""What is varied to see how much chance matters: the training of one classifier's network, random strategies."""


def pool_runs(folder: Path, table: pd.DataFrame, varied: Sequence[str]) -> pd.DataFrame:
    """Average the finished runs of a sweep that differ in `SEEDS` only, image by image.

    Args:
        folder: the sweep's.
        table: its runs.
        varied: columns of ``table`` that hold what was varied.

    Returns:
        One row per pool, in the order of its first run: what else was varied (if checkpoints are of different
        networks, ``backbone``), ``runs``, every metric of the image-wise means with its interval over images,
        ``class_miou:<class>``, ``miou_sd`` (between the runs' means), and the paired comparison with the first
        pool on the same images. No rows if no pool has more than one run.
    """
    if not set(varied) & set(SEEDS):
        return pd.DataFrame()
    finished = evaluated_runs(folder, table)
    others = [column for column in varied if column not in SEEDS]
    backbones = [backbone_of(folder / job) for job in finished["job"]]
    if len(set(backbones)) > 1:  # of `model.checkpoint`
        finished, others = finished.assign(backbone=backbones), ["backbone", *others]
    pools: dict[tuple[str, ...], list[pd.DataFrame]] = {}
    for run in finished.to_dict("records"):
        values = ("" if pd.isna(run[column]) else str(run[column]) for column in others)
        pools.setdefault((data_digest(folder / run["job"]), *values), []).append(images_of(folder / run["job"]))
    if all(len(runs) == 1 for runs in pools.values()):
        return pd.DataFrame()
    metrics = metric_facts(folder, finished)
    baselines: dict[str, tuple[str, pd.Series]] = {}
    rows: list[dict[str, Any]] = []
    for (data, *same), runs in pools.items():
        numbers = [images.select_dtypes(["number", "bool"]).astype("float64") for images in runs]
        mean = pd.concat(numbers).groupby(level=0).mean()
        row: dict[str, Any] = {**dict(zip(others, same, strict=True)), "runs": len(runs)}
        for name, found in summarize_run(mean, metrics).items():
            row |= {name: found.mean, f"{name}_low": found.ci95[0], f"{name}_high": found.ci95[1]}
        by_class = mean["iou"].groupby(runs[0]["class_name"]).mean()
        row |= {f"{CLASS_MIOU}{name}": value for name, value in by_class.items()}
        row["miou_sd"] = pd.Series([images["iou"].mean() for images in numbers]).std()
        if data in baselines:
            row |= against(mean["iou"], *baselines[data])
        else:
            baselines[data] = (", ".join(same) or "pool", mean["iou"])
        rows.append(row)
    pooled = pd.DataFrame(rows)
    if "p" in pooled:
        pooled["p"] = holm(pooled["p"].tolist())
    return pooled
