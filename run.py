"""The one entry point: ``python run.py pipeline=fgbg bg_threshold=0.1``. See README.md, or ``--help``."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let errors reach us: we say them in one line
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large tensors on huge pages: memory fragments less

import hydra
from omegaconf import DictConfig

from gradsam_exp.app.cli import leave, run_job, run_program
from gradsam_exp.app.launchers import compose_once, register_presets, share_store
from gradsam_exp.config import register_schema

register_schema()
register_presets(Path(__file__).parent / "conf" / "hydra" / "presets")
share_store()
compose_once()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def job(cfg: DictConfig) -> float | None:
    """One job: a single run, or one of a sweep. Returns the value an optimising sweeper maximises."""
    return run_job(cfg)


if __name__ == "__main__":
    leave(run_program(job))
