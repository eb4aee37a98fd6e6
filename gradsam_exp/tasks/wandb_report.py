"""``task=wandb_report``: a workspace view and a report for a sweep, as JSON beside it and, with a key, on W&B."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from gradsam_exp.config import Config
from gradsam_exp.console import console
from gradsam_exp.engine.session import Job
from gradsam_exp.errors import InputError
from gradsam_exp.runs import folder as results
from gradsam_exp.tracking.report import (
    NOT_KNOWN,
    build_report,
    build_workspace,
    read_sweep,
    specification,
    upload_views,
)
from gradsam_exp.tracking.settings import wandb_settings
from gradsam_exp.tracking.upload import warn


def run(config: Config, job: Job) -> None:
    """Write ``wandb_workspace.json`` and ``wandb_report.json`` into the sweep's folder; upload them with a key.

    Raises:
        InputError: no sweep, no W&B, or the extra is not installed.
    """
    del job
    settings = wandb_settings(config.logger)
    if settings is None:
        raise InputError("task=wandb_report needs logger=wandb")
    if config.sweep is None:
        raise InputError("task=wandb_report needs a sweep's folder: sweep=outputs/evaluate/DATE_TIME")
    if find_spec("wandb_workspaces") is None:
        raise InputError("task=wandb_report needs another package: pip install 'gradsam_exp[wandb]'")
    sweep = Path(config.sweep)
    facts = read_sweep(sweep)
    entity = settings.entity or NOT_KNOWN
    views = {
        "wandb_workspace.json": build_workspace(facts, entity=entity, project=settings.project),
        "wandb_report.json": build_report(facts, entity=entity, project=settings.project),
    }
    for name, view in views.items():
        results.write_json(sweep / name, specification(view))
        console.print(str(sweep / name), soft_wrap=True)
    if not settings.uploads:
        console.print("not uploaded: there is no API key, or logger.mode=offline (wandb login)")
        return
    found = upload_views(settings, facts)
    if isinstance(found, str):
        warn(f"{found}; the files are written, the same command uploads them later")
        return
    for address in found:
        console.print(f"W&B: {address}", soft_wrap=True)
