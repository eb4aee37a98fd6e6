"""Small finished runs on disk, written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from pycocotools import mask as coco

from gradsam_exp.metrics.base import ExampleMetric
from gradsam_exp.metrics.masks import MeanMaskIoU
from gradsam_exp.runs.summary import MetricFacts

IDS = ("a", "b", "c", "d")


def facts_of(metric: type[ExampleMetric]) -> dict[str, Any]:
    """What a run's ``metrics.json`` says of a metric besides its numbers."""
    return asdict(MetricFacts.of(metric()))


def write_run(
    run: Path,
    overrides: Mapping[str, str],
    ious: Sequence[float] | None,
    *,
    data: str = "x",
    identity: str | None = None,
    error: str | None = None,
    bound: bool = False,
    class_name: str = "circle",
    config: Mapping[str, Any] | None = None,
    more: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """A run of four images of 6×4 px, or a failed one if there are no ``ious``.

    Args:
        more: what ``metrics.json`` says of other metrics than the mIoU.
    """
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([f"{k}={v}" for k, v in overrides.items()]))
    (run / ".hydra" / "config.yaml").write_text(yaml.safe_dump(dict(overrides) | dict(config or {})))
    if ious is None:
        failure = {"identity": None, "status": "failed", "error": error, "metrics": {}}
        (run / "metrics.json").write_text(json.dumps(failure))
        return run
    mean = float(np.mean(ious))
    metrics = {"miou": {"mean": mean, "ci95": [min(ious), max(ious)], "n": len(ious), **facts_of(MeanMaskIoU)}}
    metrics |= {name: {"mean": 0.5, "ci95": [0.5, 0.5], "n": 4, **metric} for name, metric in (more or {}).items()}
    content = {"identity": identity or str(run), "status": "finished", "upper_bound": bound, "metrics": metrics}
    (run / "metrics.json").write_text(json.dumps(content))
    facts = {"class_name": class_name, "predicted_class": class_name, "correct": True, "predicted_iou": 0.5}
    pd.DataFrame({"example_id": IDS, "iou": ious, **facts}).to_parquet(run / "per_image.parquet")
    mask = np.zeros((4, 6), dtype=np.uint8)
    mask[1:3, 2:5] = 1
    rle = coco.encode(np.asfortranarray(mask))["counts"].decode()
    prompts = json.dumps([{"points": [[3.0, 1.0], [0.0, 0.0]], "labels": [1, 0]}])
    predictions = {"example_id": IDS, "height": 4, "width": 6, "mask_rle": rle, "prompts": prompts}
    pd.DataFrame(predictions).to_parquet(run / "predictions.parquet")
    provenance = {"git": {"commit": "abc", "dirty": False}, "digests": {"data": data, "classifier": "c"}}
    (run / "provenance.json").write_text(json.dumps(provenance))
    return run
