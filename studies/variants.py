"""This module makes a study's runs: each is one of ``task=evaluate``, with overrides of the study's own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from omegaconf import OmegaConf

from gradsam_exp.config import Config
from gradsam_exp.engine.session import Job
from gradsam_exp.errors import InputError
from gradsam_exp.tasks import evaluate
from studies.finished import is_below


def key_of(override: str) -> str:
    """Return the key of an override: ``pipeline.n`` of ``+pipeline.n=8``."""
    return override.lstrip("+~").partition("=")[0]


def common_overrides(study: str, overrides: Sequence[str], chosen: Collection[str]) -> tuple[str, ...]:
    """Return the overrides that hold for all runs of a study, without tracking unless a logger is given.

    Args:
        study: its name, which is that of its folder.
        overrides: as for ``run.py``.
        chosen: keys and groups that the study chooses itself.

    Raises:
        InputError: one of these is given.
    """
    given = [key_of(override) for override in overrides]
    for key in given:
        if is_below(key, chosen):
            raise InputError(f"{key}: the study chooses it itself; leave it out")
    tracking = [] if "logger" in given else ["logger=none"]
    return (f"name={study}", *tracking, *overrides)


def new_folder(config: Config) -> Path:
    """Name a folder for a study's results after this moment; it is not made."""
    return Path(config.output_root) / config.name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")


def run_variant(config: Config, job: Job) -> float:
    """Evaluate one variant, and keep its configuration where ``run.py`` would; returns the mIoU."""
    described = job.folder / ".hydra"
    described.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(asdict(config)), described / "config.yaml")
    OmegaConf.save(OmegaConf.create(list(job.overrides)), described / "overrides.yaml")
    return evaluate.run(config, job)
