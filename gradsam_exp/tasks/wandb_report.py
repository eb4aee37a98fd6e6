"""``task=wandb_report`` makes a sweep's workspace view and report: JSON files and, with a key, pages on W&B."""

from importlib.util import find_spec
from pathlib import Path

from gradsam_exp.config import Config
from gradsam_exp.console import console
from gradsam_exp.engine.session import Job
from gradsam_exp.errors import InputError
from gradsam_exp.runs.writing import write_json
from gradsam_exp.tracking.settings import WandbSettings, logger_settings
from gradsam_exp.tracking.upload import warn


def run(config: Config, job: Job) -> None:
    """Write ``wandb_workspace.json`` and ``wandb_report.json`` into the sweep's folder; upload them with a key.

    Raises:
        InputError: no sweep, no W&B, or the extra is not installed.
    """
    settings = logger_settings(config.logger)
    if not isinstance(settings, WandbSettings):
        raise InputError("task=wandb_report needs logger=wandb")
    if config.sweep is None:
        raise InputError("task=wandb_report needs a sweep's folder: sweep=outputs/evaluate/DATE_TIME")
    if find_spec("wandb_workspaces") is None:
        raise InputError("task=wandb_report needs another package: pip install 'gradsam_exp[wandb]'")
    from gradsam_exp.tracking import report  # noqa: PLC0415  (needs that package)

    sweep = Path(config.sweep)
    facts = report.read_sweep(sweep)
    entity = settings.entity or report.NOT_KNOWN
    views = {
        "wandb_workspace.json": report.build_workspace(facts, entity=entity, project=settings.project),
        "wandb_report.json": report.build_report(facts, entity=entity, project=settings.project),
    }
    for name, view in views.items():
        write_json(sweep / name, report.specification(view))
        console.print(str(sweep / name), soft_wrap=True)
    if not settings.uploads:
        console.print("not uploaded: there is no API key, or logger.mode=offline (wandb login)")
        return
    found = report.upload_views(settings, facts)
    if isinstance(found, str):
        warn(f"{found}; the files are written, the same command uploads them later")
        return
    for address in found:
        console.print(f"W&B: {address}", soft_wrap=True)
