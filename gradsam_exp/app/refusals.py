"""These functions refuse, before its first job, a sweep that could have no table or no end."""

import os
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gradsam_exp.app.launchers import is_parallel
from gradsam_exp.config import Config
from gradsam_exp.errors import InputError, first_line, say


def check_sweep(config: DictConfig) -> None:
    """Check where a sweep's jobs go, and the storage of a search; say what W&B will not do.

    Raises:
        InputError: naming the key and what to do.
    """
    plain: Any = OmegaConf.to_container(config.hydra, resolve=False)
    if "/" in str(plain["sweep"]["subdir"]):
        raise InputError(
            f"hydra.sweep.subdir={plain['sweep']['subdir']}: the jobs of a sweep lie directly in its folder, where"
            " its table looks for them; give a name without a slash"
        )
    if plain["output_subdir"] is None:
        raise InputError(
            "hydra.output_subdir=null: a sweep's table reads there what its jobs were given; leave it out"
        )
    if config.dry_run and is_parallel(config.hydra.launcher):
        raise InputError("dry_run=true looks at all jobs in one process: leave hydra/launcher out")
    if config.dry_run and "direction" in config.hydra.sweeper:
        raise InputError("dry_run=true cannot say which runs a search will choose: leave hydra/sweeper out")
    _check_storage(plain["sweeper"])
    if "WANDB_RUN_ID" in os.environ and config.logger:
        say("WANDB_RUN_ID is one run's: the jobs of a sweep have ids of their own")


def check_dry_run(config: Config) -> None:
    """Refuse to look ahead of a task that cannot say what it would do.

    Raises:
        InputError: naming the task.
    """
    if config.dry_run and config.task["name"] != "evaluate":
        raise InputError(f"dry_run=true looks ahead of task=evaluate only, not of task={config.task['name']}")


def _check_storage(sweeper: Mapping[str, Any]) -> None:
    """Open the storage of an Optuna search, which is made if it is not there."""
    storage = sweeper.get("storage")
    if "direction" not in sweeper or not isinstance(storage, str):
        return
    from optuna.storages import get_storage  # noqa: PLC0415  (of an extra)

    try:
        get_storage(storage)
    except Exception as error:  # of many kinds
        newest = tuple(map(int, version("sqlalchemy").split(".")[:2]))
        hint = "pip install 'sqlalchemy<2.1'" if newest >= (2, 1) else "give another"
        raise InputError(
            f"hydra.sweeper.storage={storage} cannot be used with Optuna {version('optuna')} and SQLAlchemy "
            f"{version('sqlalchemy')} ({first_line(error)}): {hint}, or leave it out"
        ) from error
