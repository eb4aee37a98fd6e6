"""This module refuses a ``_target_`` in Hydra's configuration that names anything but a plugin of Hydra's.

Hydra calls whatever a callback's ``_target_`` names, also where it stands deeper in a node; nodes of our own are
never called, as `gradsam_exp.registry` builds what they name.
"""

import re
from collections.abc import Iterator
from typing import Any

from hydra._internal.hydra import Hydra
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

from gradsam_exp.errors import InputError

CALLBACKS = ("gradsam_exp.app.callbacks.SweepProgress", "gradsam_exp.app.callbacks.SweepSummary")
SAMPLERS = re.compile(r"optuna\.samplers\.[A-Z]\w*Sampler")


def check_before_calling() -> None:
    """Let Hydra check each composed configuration before it makes a launcher, a sweeper or callbacks of it."""
    compose = Hydra.compose_config
    if compose.__module__ == __name__:
        return

    def compose_config(self: Hydra, *given: Any, **more: Any) -> DictConfig:
        config = compose(self, *given, **more)
        check_targets(config)
        return config

    Hydra.compose_config = compose_config  # type: ignore[method-assign]


def check_targets(config: DictConfig) -> None:
    """Check every ``_target_`` below ``hydra``.

    Raises:
        InputError: one is no plugin that is installed, none of our callbacks and no sampler of Optuna's.
    """
    plugins = Plugins.instance().class_name_to_class
    node = OmegaConf.to_container(config.hydra, resolve=False) if "hydra" in config else {}
    for key, target in _targets(node, "hydra"):
        if target not in plugins and target not in CALLBACKS and not SAMPLERS.fullmatch(target):
            raise InputError(
                f"{key}={target} is none of the launchers, sweepers, samplers and callbacks that a configuration "
                "may name; leave it out"
            )


def _targets(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """The keys and values of all ``_target_``, and of what Hydra takes for one, in a node of plain values."""
    if isinstance(node, dict):
        for name, value in node.items():
            if str(name) == "_target_":
                if str(value) != "???":
                    yield f"{key}._target_", str(value)
            else:
                yield from _targets(value, f"{key}.{name}")
    elif isinstance(node, list):
        for k, value in enumerate(node):
            yield from _targets(value, f"{key}.{k}")
