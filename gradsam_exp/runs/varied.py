"""This module says what a sweep varies: from its configuration, or from the one that its folder keeps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

FIXED = "!"
"""After a key of a grid whose value no command line changes: ``sam!: none``."""


def parsed_grids(
    grids: Sequence[Mapping[str, Any]],
    params: Mapping[str, Any],
    arguments: Sequence[str],
    loader: ConfigLoader | None = None,
) -> list[dict[str, Override]]:
    """Parse what each grid of a sweep gives, by key: its own values, then ``params``, then the command line's.

    Args:
        grids: those of ``hydra/sweeper=grids``; of a key that ends in ``!`` the grid has the last word.
        params: of ``hydra.sweeper.params``.
        arguments: of the command line, which has the last word else.
        loader: finds what ``glob(*)`` stands for.
    """
    parser = OverridesParser.create(config_loader=loader)
    found = []
    for grid in grids:
        given = [f"{key}={value}" for key, value in [*grid.items(), *params.items()] if not key.endswith(FIXED)]
        fixed = [f"{key.removesuffix(FIXED)}={value}" for key, value in grid.items() if key.endswith(FIXED)]
        overrides = parser.parse_overrides([*given, *arguments, *fixed])
        found.append({override.get_key_element(): override for override in overrides})
    return found


def grids_of(config: DictConfig) -> list[dict[str, Override]]:
    """Parse the grids of a sweep; of every sweeper but ``grids`` there is one, ``hydra.sweeper.params``."""
    sweeper = config.hydra.sweeper
    grids = list(sweeper.get("grids", {"": {}}).values())
    return parsed_grids(grids, sweeper.get("params") or {}, config.hydra.overrides.task)


def varied_keys(config: DictConfig) -> tuple[str, ...]:
    """List the keys of what a sweep varies, as far as they can be known before it starts."""
    own = {str(k).removesuffix(FIXED) for grid in config.hydra.sweeper.get("grids", {}).values() for k in grid}
    try:
        keys = {
            key: None
            for grid in grids_of(config)
            for key, override in grid.items()
            if override.is_sweep_override() or key in own
        }
    except HydraException:
        return ()
    return tuple(key.lstrip("+~") for key in keys)


def varied_in(folder: Path) -> tuple[str, ...]:
    """List the keys of what the sweep in this folder varies; none if it keeps no readable configuration."""
    try:
        config = OmegaConf.load(folder / "multirun.yaml")
        return varied_keys(DictConfig(config))
    except (OSError, ValueError, AttributeError, YAMLError, OmegaConfBaseException):
        return ()
