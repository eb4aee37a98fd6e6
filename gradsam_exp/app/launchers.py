"""This module configures Hydra's launchers and sweepers: defaults, threads per job, the pip extra of each plug-in.

The engines are Hydra's plugins: joblib, submitit (this machine or Slurm), Ray, Optuna.
"""

import functools
import math
import os
import warnings
from contextlib import suppress
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigLoadError
from omegaconf import DictConfig, OmegaConf

from gradsam_exp.app.ending import end_with_leader
from gradsam_exp.runs.varied import grids_of

PLUGINS = {  # choice: (the plugin's package, the extra it comes with)
    "hydra/launcher/joblib": ("hydra_joblib_launcher", "sweep"),
    "hydra/launcher/submitit_local": ("hydra_submitit_launcher", "sweep"),
    "hydra/launcher/submitit_slurm": ("hydra_submitit_launcher", "sweep"),
    "hydra/launcher/ray": ("hydra_ray_launcher", "ray"),
    "hydra/sweeper/optuna": ("hydra_optuna_sweeper", "sweep"),
}
THREADS = "OMP_NUM_THREADS"  # read by PyTorch, and by everything else that computes, when a process starts


@functools.cache
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


def missing_extra(choice: str) -> str | None:
    """Return what installs a plugin, such as ``hydra/launcher/joblib``; None for other choices."""
    plugin = PLUGINS.get(choice)
    return None if plugin is None else f"pip install -e '.[{plugin[1]}]'"


def is_parallel(launcher: DictConfig) -> bool:
    """Say whether the jobs of a sweep run in processes of their own."""
    return not str(launcher["_target_"]).endswith(".BasicLauncher")


def runs_on_this_machine(launcher: DictConfig) -> bool:
    """Say whether the processes of a sweep are this one's children or grandchildren, which are to end with it."""
    return str(launcher["_target_"]).endswith((".JoblibLauncher", ".LocalLauncher"))


def number_of_jobs(config: DictConfig) -> int | None:
    """Count the jobs of a sweep; None if that cannot be known (``pipeline=glob(*)``)."""
    trials = config.hydra.sweeper.get("n_trials")
    if trials is not None:
        return int(trials)
    try:
        return sum(
            math.prod(
                sum(1 for _ in override.sweep_iterator())
                for override in grid.values()
                if override.is_sweep_override()
            )
            for grid in grids_of(config)
        )
    except (HydraException, TypeError, ValueError):
        return None


def threads_of_a_job(launcher: DictConfig, jobs: int | None, cores: int) -> int | None:
    """Compute how many threads each of the jobs that run at once may use to share the cores; None: no limit."""
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
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores(config: DictConfig) -> None:
    """Tell the processes of a sweep, before they start, how many threads to use; the user's setting wins."""
    jobs, at_once = number_of_jobs(config), config.hydra.sweeper.get("n_jobs")  # of a search
    jobs = at_once if jobs is None or at_once is None else min(jobs, at_once)
    threads = threads_of_a_job(config.hydra.launcher, jobs, available_cores())
    if threads is not None:
        os.environ.setdefault(THREADS, str(threads))


def start_no_idle_worker(config: DictConfig) -> None:
    """Let joblib start no more processes than there are jobs: one without a job would wait for minutes."""
    launcher, jobs = config.hydra.launcher, number_of_jobs(config)
    if jobs is None or not _is_joblib(launcher):
        return
    wanted = int(launcher.get("n_jobs", -1))
    if max(jobs, 2) < (wanted if wanted > 0 else available_cores()):  # one alone would run in this process
        launcher.n_jobs = max(jobs, 2)


def end_idle_workers_with_leader(config: DictConfig) -> None:
    """Let joblib's processes end with this one also before their first job; they would wait 300 s for it.

    They call `gradsam_exp.app.ending.end_with_leader` when they start; the jobs themselves call it, too.
    """
    if _is_joblib(config.hydra.launcher):
        from joblib.parallel import LokyBackend, register_parallel_backend  # noqa: PLC0415  (other sweeps start without)

        register_parallel_backend("loky", functools.partial(LokyBackend, initializer=end_with_leader))


def _is_joblib(launcher: DictConfig) -> bool:
    return str(launcher["_target_"]).endswith(".JoblibLauncher")


def say_nothing_of_fresh_workers() -> None:
    """Hide joblib's warning that it replaces a process, which it does when one has grown by 300 MB."""
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given", category=UserWarning)


def join_cluster(config: DictConfig) -> None:
    """Leave a Ray cluster that runs already its object store: Ray refuses the size that the plugin would set."""
    init = OmegaConf.select(config.hydra.launcher, "ray.init")
    if init is not None and init.get("address") and "object_store_memory" not in init:
        OmegaConf.update(init, "object_store_memory", None, force_add=True)
