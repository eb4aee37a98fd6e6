"""One run's images against another's, as columns of a table."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from gradsam_exp.runs.paired import paired_difference
from gradsam_exp.runs.summary import MetricFacts

CLASS_MIOU = "class_miou:"
"""Before a class's name in the columns with the mIoU of each class."""


def data_digest(run: Path) -> str:
    """Of the images a run was made on; runs are compared on the same images only."""
    return str(_provenance(run)["digests"]["data"])


def backbone_of(run: Path) -> str:
    """The classifier's network (``resnet18``); empty if an older run does not say."""
    return str(_provenance(run).get("backbone", ""))


def _provenance(run: Path) -> dict[str, Any]:
    return json.loads((run / "provenance.json").read_text(encoding="utf-8"))


def images_of(run: Path) -> pd.DataFrame:
    """The per-image table of a run, by ``image_id``; not to be changed, as others get the same."""
    path = run / "per_image.parquet"
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=128)  # a report asks for each several times
def _read(path: Path, written: int) -> pd.DataFrame:
    del written
    return pd.read_parquet(path).set_index("image_id")


def evaluated_runs(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The finished runs that have numbers of images (those of ``task=train`` have none), each only once."""
    runs = table[table["same_as"].isna()] if "same_as" in table else table
    with_images = [job for job in runs["job"] if (folder / str(job) / "per_image.parquet").is_file()]
    return runs[(runs["status"] == "finished") & runs["job"].isin(with_images)]


def metric_facts(folder: Path, table: pd.DataFrame) -> dict[str, MetricFacts]:
    """What the metrics of a table's finished runs are, by name, in the order of a run's own table.

    Newer runs say it in their ``metrics.json``; see `MetricFacts.read` for older ones.
    """
    said: dict[str, MetricFacts] = {}
    for job in table.loc[table["status"] == "finished", "job"]:
        content = json.loads((folder / str(job) / "metrics.json").read_text(encoding="utf-8"))
        for name, plain in content["metrics"].items():
            if name not in said or not said[name].group:
                said[name] = MetricFacts.read(name, plain)
    return said


def against(iou: pd.Series, name: str, baseline: pd.Series) -> dict[str, Any]:
    """``baseline`` (its name), ``delta_miou`` with ``_low`` and ``_high``, ``p``, ``wins``, ``ties``, ``losses``.

    Args:
        iou, baseline: by ``image_id``.
    """
    found = paired_difference(iou.to_numpy(), baseline.reindex(iou.index).to_numpy())
    low, high = found.difference.ci95
    return {
        "baseline": name, "delta_miou": found.difference.mean, "delta_low": low, "delta_high": high,
        "p": found.p, "wins": found.wins, "ties": found.ties, "losses": found.losses,
    }  # fmt: skip
