"""Weights & Biases: a view of a run that is already safe on disk. Nothing here can cost the run."""

from __future__ import annotations

import logging
import netrc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from gradsam_exp.metrics.summary import Summary

log = logging.getLogger(__name__)
Mode = Literal["auto", "online", "offline"]
_NOT_VARIED = {"task", "logger", "trainer", "name", "output_root", "device", "batch_size", "cifar10_root"}
_SHORT = {"fg_threshold": "fg", "bg_threshold": "bg", "grid_size": "grid", "grid_offset": "off"}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class WandbSettings:
    """What ``logger=wandb`` is configured with.

    Attributes:
        mode: ``auto`` is online where an API key is known, else offline.
        project, entity: where the run belongs.
    """

    name: Literal["wandb"] = "wandb"
    mode: Mode = "auto"
    project: str = "gradsam_exp"
    entity: str | None = None


def run_name(overrides: Sequence[str], task: str) -> str:
    """What was varied, short: ``fgbg·bg0.1·off1`` from ``pipeline=fgbg bg_threshold=0.1 grid_offset=1``."""
    parts = []
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key in _NOT_VARIED or key.split(".")[0] in _NOT_VARIED:
            continue
        short = _SHORT.get(key, key.rsplit(".", 1)[-1])
        is_choice = "." not in key and key not in _SHORT and not value.replace(".", "").isdigit()
        parts.append(value if is_choice else f"{short}{value}" if key in _SHORT else f"{short}={value}")
    return "·".join(parts) or task


def track(
    settings: WandbSettings,
    folder: Path,
    *,
    config: Mapping[str, Any],
    metrics: Mapping[str, Summary],
    per_image: pd.DataFrame,
    name: str,
    group: str | None,
    job_type: str,
    tags: Sequence[str],
) -> str | None:
    """Log a finished run; every different run of a sweep is a W&B run of its own.

    Returns:
        What to do to see it (a URL, or the command that uploads an offline run), or None if W&B failed.
    """
    # The files of tables are staged here; the default is below the home directory.
    os.environ["WANDB_DATA_DIR"] = str(folder.resolve() / "wandb")
    import wandb  # noqa: PLC0415  (a second)

    mode: Literal["online", "offline"] = "offline"
    if settings.mode == "online" or (settings.mode == "auto" and has_api_key()):
        mode = "online"
    run = None
    try:
        run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            dir=folder,
            mode=mode,
            name=name,
            group=group,
            job_type=job_type,
            tags=list(tags),
            config=dict(config),
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", disable_git=True),
        )
        for metric in metrics:
            run.define_metric(metric, summary="none")
        run.log(
            {
                "per_image": wandb.Table(dataframe=per_image),
                **{path.stem: wandb.Image(str(path)) for path in sorted((folder / "figures").glob("*.png"))},
            }
        )
        run.summary.update(
            {
                key: value
                for metric, summary in metrics.items()
                for key, value in (
                    (metric, summary.mean),
                    (f"{metric}_low", summary.ci95[0]),
                    (f"{metric}_high", summary.ci95[1]),
                    (f"{metric}_n", summary.n),
                )
            }
        )
        seen_at = run.url if mode == "online" else f"wandb sync {Path(run.dir).parent}"
    except (wandb.Error, OSError, ValueError) as error:
        log.warning("W&B could not be used (%s); the run's files are complete without it", error)
        return None
    finally:
        if run is not None:
            run.finish()
    return seen_at


def has_api_key() -> bool:
    """Whether W&B would find an API key: in the environment, or in the netrc file that ``wandb login`` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0].split(":")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
