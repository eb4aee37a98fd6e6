"""This module is ``hydra/sweeper=grids``: a sweep over several grids, where one of all combinations has too many.

``hydra.sweeper.grids`` has them by name, each as ``hydra.sweeper.params`` would say it. Of each grid every
combination runs, one grid after the other; what the command line gives holds in all of them, but for keys of a
grid that end in ``!``: ``sam!: none`` stays without a segmenter. Hydra looks for plugins in the package
``hydra_plugins``, which several distributions share, and nowhere else.
"""

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from gradsam_exp.runs.varied import parsed_grids


@dataclass
class GridsConfig:
    """The defaults of ``hydra.sweeper``."""

    _target_: str = "hydra_plugins.gradsam_exp_sweeper.Grids"
    params: dict[str, Any] = field(default_factory=dict)
    grids: dict[str, Any] = field(default_factory=dict)


ConfigStore.instance().store(group="hydra/sweeper", name="grids", node=GridsConfig, provider="gradsam_exp")


class Grids(Sweeper):
    """Grids launches the jobs of several grids as one sweep, numbered through.

    Args:
        grids: by name; each maps keys to the values to try, ``{"pipeline": "box,mask", "sam!": "grabcut"}``.
        params: values that all grids have in common.
    """

    def __init__(self, grids: dict[str, dict[str, Any]], params: dict[str, Any]) -> None:
        self.grids, self.params = grids, params
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See `Sweeper.setup`."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run every job; ``arguments`` are those of the command line.

        Raises:
            HydraException: a search space such as ``interval(0,1)``, which has no combinations.
        """
        assert self.config is not None
        assert self.launcher is not None
        jobs = self.jobs(arguments)
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        self.validate_batch_is_legal(jobs)
        results = list(self.launcher.launch(jobs, initial_job_idx=0))
        for result in results:
            _ = result.return_value  # raises what a job raised
        return results

    def jobs(self, arguments: list[str]) -> list[list[str]]:
        """List the overrides of each job."""
        jobs: list[list[str]] = []
        loader = None if self.hydra_context is None else self.hydra_context.config_loader
        for grid in parsed_grids(list(self.grids.values()), self.params, arguments, loader):
            axes = []
            for key, override in grid.items():
                if not override.is_sweep_override():
                    axes.append([f"{key}={override.get_value_element_as_str()}"])
                elif override.is_discrete_sweep():
                    axes.append([f"{key}={value}" for value in override.sweep_string_iterator()])
                else:
                    raise HydraException(f"{override.input_line}: hydra/sweeper=grids tries lists of values only")
            jobs += map(list, product(*axes))
        return jobs
