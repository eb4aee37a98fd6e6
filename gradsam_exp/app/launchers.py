"""Hydra's launchers and sweepers as this package wants them: presets, thread counts, what is missing.

The engines are Hydra's plugins: joblib, submitit (this machine or Slurm), Ray, Optuna. This module changes
their defaults, tells their jobs how many threads each may use, and says which extra to install.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

PLUGINS = {  # choice: (the plugin's package, the extra it comes with)
    "hydra/launcher/joblib": ("hydra_joblib_launcher", "sweep"),
    "hydra/launcher/submitit_local": ("hydra_submitit_launcher", "sweep"),
    "hydra/launcher/submitit_slurm": ("hydra_submitit_launcher", "sweep"),
    "hydra/launcher/ray": ("hydra_ray_launcher", "ray"),
    "hydra/sweeper/optuna": ("hydra_optuna_sweeper", "sweep"),
}
KEPT = 500  # composed configurations, half a megabyte each
THREADS = "OMP_NUM_THREADS"  # read by PyTorch, and by everything else that computes, when a process starts


def register_presets(folder: Path) -> None:
    """Merge ``<folder>/launcher/joblib.yaml`` and the like into the defaults of the plugins that are installed.

    A file of the same name in Hydra's search path would hide the plugin's own defaults and their types.
    """
    Plugins.instance()  # they register their defaults
    store = ConfigStore.instance()
    for path in sorted(folder.rglob("*.yaml")):
        group = f"hydra/{path.parent.relative_to(folder).as_posix()}"
        with suppress(ConfigLoadError):  # the plugin is not installed
            plugin = store.load(f"{group}/{path.name}")
            node = OmegaConf.merge(plugin.node, OmegaConf.load(path))
            store.store(group=group, name=path.stem, node=node, provider=plugin.provider)


def share_store() -> None:
    """Keep Hydra from copying all that plugins and schemas have registered.

    It does so for each group that ``--help`` lists, and for each job, although nobody changes the copies.
    """
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]


def compose_once() -> None:
    """Let Hydra compose the configuration of each of a sweep's jobs once, not twice.

    It checks all of them before the first starts and forgets them; composing takes a tenth of a second. What was
    checked is what runs, even if somebody edits ``conf`` meanwhile. Jobs in processes of their own compose there.
    """
    if Sweeper.validate_batch_is_legal.__module__ == __name__:
        return
    check, compose = Sweeper.validate_batch_is_legal, ConfigLoaderImpl.load_sweep_config
    composed: dict[tuple[str, ...], DictConfig] = {}

    def validate_batch_is_legal(self: Sweeper, batch: Sequence[Sequence[str]]) -> None:
        composed.clear()
        if self.config is None or is_parallel(self.config.hydra.launcher):
            check(self, batch)
            return
        assert self.hydra_context is not None
        with known_parts():
            for overrides in batch:
                config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
                if len(composed) < KEPT:
                    composed[tuple(overrides)] = config

    def load_sweep_config(
        self: ConfigLoaderImpl, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        known = composed.pop(tuple(sweep_overrides), None)
        return compose(self, master_config, sweep_overrides) if known is None else known

    Sweeper.validate_batch_is_legal = validate_batch_is_legal  # type: ignore[method-assign]
    ConfigLoaderImpl.load_sweep_config = load_sweep_config  # type: ignore[method-assign]


@contextmanager
def known_parts() -> Iterator[None]:
    """Meanwhile Hydra copies what it has read of ``conf`` and put together for an earlier job of the same choices.

    It would parse some 25 files and merge them for each job, also if jobs differ in nothing but numbers.
    """
    read, put_together = ConfigRepository.load_config, ConfigLoaderImpl._compose_config_from_defaults_list
    files: dict[tuple[str, ...], ConfigResult | None] = {}
    configs: dict[tuple[str, ...], DictConfig] = {}

    def places(repo: IConfigRepository) -> tuple[str, ...]:
        return tuple(f"{source.scheme()}{source.path}" for source in repo.get_sources())

    def load_config(self: ConfigRepository, config_path: str) -> ConfigResult | None:
        key = (config_path, *places(self))
        if key not in files:
            files[key] = read(self, config_path=config_path)
        return deepcopy(files[key])

    def compose(self: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        key = (repr(defaults), *places(repo))
        if key not in configs:
            configs[key] = put_together(self, defaults=defaults, repo=repo)
        return deepcopy(configs[key])

    ConfigRepository.load_config = load_config  # type: ignore[method-assign]
    ConfigLoaderImpl._compose_config_from_defaults_list = compose  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigRepository.load_config = read  # type: ignore[method-assign]
        ConfigLoaderImpl._compose_config_from_defaults_list = put_together  # type: ignore[method-assign]


def missing_extra(choice: str) -> str | None:
    """``"pip install -e '.[sweep]'"`` for a plugin's choice such as ``hydra/launcher/joblib``; else None."""
    plugin = PLUGINS.get(choice)
    return None if plugin is None else f"pip install -e '.[{plugin[1]}]'"


def is_parallel(launcher: DictConfig) -> bool:
    """Whether the jobs of a sweep run in processes of their own."""
    return not str(launcher["_target_"]).endswith(".BasicLauncher")


def varied(config: DictConfig) -> list[Override]:
    """What a sweep varies, from ``hydra.sweeper.params`` and from its command line, which has the last word."""
    params = config.hydra.sweeper.get("params") or {}
    given = [f"{key}={value}" for key, value in params.items()] + list(config.hydra.overrides.task)
    overrides = {
        override.get_key_element(): override for override in OverridesParser.create().parse_overrides(given)
    }
    return [override for override in overrides.values() if override.is_sweep_override()]


def varied_keys(config: DictConfig) -> tuple[str, ...]:
    """The keys of what a sweep varies, as far as they can be known before it starts."""
    try:
        return tuple(override.get_key_element().lstrip("+~") for override in varied(config))
    except HydraException:
        return ()


def number_of_jobs(config: DictConfig) -> int | None:
    """How many jobs a sweep has; None if that cannot be known (``pipeline=glob(*)``)."""
    trials = config.hydra.sweeper.get("n_trials")
    if trials is not None:
        return int(trials)
    try:
        return math.prod(sum(1 for _ in override.sweep_iterator()) for override in varied(config))
    except (HydraException, TypeError, ValueError):
        return None


def threads_of_a_job(launcher: DictConfig, jobs: int | None, cores: int) -> int | None:
    """How many threads each of the jobs that run at once may use, so that they share the cores; None: no limit."""
    if not is_parallel(launcher):
        return None
    if launcher.get("cpus_per_task"):
        return int(launcher["cpus_per_task"])
    if str(launcher["_target_"]).endswith(".SlurmLauncher"):
        return None
    at_once = cores if jobs is None else min(jobs, cores)
    wanted = int(launcher.get("n_jobs", -1))
    if wanted > 0:
        at_once = min(at_once, wanted)
    return max(1, cores // at_once)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores(config: DictConfig) -> None:
    """Tell the processes of a sweep, before they start, how many threads to use; the user's setting wins."""
    jobs, at_once = number_of_jobs(config), config.hydra.sweeper.get("n_jobs")  # of a search
    jobs = at_once if jobs is None or at_once is None else min(jobs, at_once)
    threads = threads_of_a_job(config.hydra.launcher, jobs, available_cores())
    if threads is not None:
        os.environ.setdefault(THREADS, str(threads))
