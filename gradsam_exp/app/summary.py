"""The end of a sweep: its table, its page, and how to upload its W&B runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from gradsam_exp.app.progress import store_of
from gradsam_exp.errors import InputError, keep_traceback
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.folder import Run

if TYPE_CHECKING:
    import pandas as pd


class SweepSummary(Callback):
    """Hydra callback: writes tables and a page when all jobs are done, even if some failed."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Summarise the sweep; exits with 1 if a job failed, or if there can be no table."""
        del kwargs
        folder = Path(config.hydra.sweep.dir)
        if not Runs(folder).jobs:  # it ended before its first job
            return
        try:
            table = end_of_sweep(folder, store_of(config))
        except Exception as error:  # Hydra would go on with a warning, and end with 0
            print(
                f"gradsam_exp: the sweep has no table, {type(error).__name__}: {error} "
                f"({keep_traceback(folder, error)}); "
                f"its runs are kept: python run.py task=report runs={folder}",
                file=sys.stderr,
            )
            sys.exit(1)
        if (table["status"] != "finished").any():
            sys.exit(1)


def end_of_sweep(folder: Path, store: Mapping[str, Any]) -> pd.DataFrame:
    """Write and print the tables of a sweep, with the page of its pictures, and say how to upload it.

    Args:
        store: the ``store`` node of the sweep's configuration.
    """
    from gradsam_exp.reports.sweep import summarize_sweep  # noqa: PLC0415
    from gradsam_exp.runs.stored import readers_store  # noqa: PLC0415  (PyTorch takes its time)

    table = summarize_sweep(folder, readers_store(store))
    waiting = upload_command(folder)
    if waiting is not None:
        print(f"W&B: {waiting}")
    return table


def upload_command(folder: Path) -> str | None:
    """What uploads all of a sweep's offline W&B runs; None if there are none, or if they are being uploaded."""
    from gradsam_exp.tracking.settings import wandb_settings  # noqa: PLC0415

    offline = sorted(folder.glob("*/wandb/offline-run-*"))
    if not offline:
        return None
    try:
        settings = wandb_settings(Run(offline[0].parents[1]).config.get("logger") or {})
    except InputError:
        return None
    if settings is None or settings.uploads:
        return None
    return f"wandb sync {shlex.quote(str(folder))}/*/wandb/offline-run-*"
