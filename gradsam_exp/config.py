"""The typed top of the configuration, and the checks that need no files and no models.

Group nodes (``data``, ``pipeline``, …) are open here: their parameters are checked against the
constructor that they configure, by `gradsam_exp.registry.Registry.build`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from gradsam_exp.errors import InputError, did_you_mean

Node = dict[str, Any]
SPLITS = ("train", "val", "test")


@dataclass
class Config:
    """What every run has; ``conf/config.yaml`` says what the knobs mean."""

    fg_threshold: float = 0.8
    bg_threshold: float = 0.1
    grid_size: int = 3
    grid_offset: float = 1.0
    split: str = "test"
    limit: int | None = None
    seed: int = 0
    batch_size: int = 32
    device: str = "auto"
    devices: int = 1
    resume: bool = False
    sweep: str | None = None
    name: str = "evaluate"
    output_root: str = "outputs"
    cifar10_root: str | None = None
    runs: Any = None  # a path or glob, or several
    image: str | None = None
    store: Node = field(default_factory=dict)
    data: Node = field(default_factory=dict)
    background: Node = field(default_factory=dict)
    model: Node = field(default_factory=dict)
    explainer: Node = field(default_factory=dict)
    refine: Node = field(default_factory=dict)
    pipeline: Node = field(default_factory=dict)
    selector: Node = field(default_factory=dict)
    sam: Node = field(default_factory=dict)
    trainer: Node = field(default_factory=dict)
    logger: Node = field(default_factory=dict)
    metrics: Node = field(default_factory=dict)
    task: Node = field(default_factory=dict)


GROUPS = tuple(f.name for f in fields(Config) if "dict" in str(f.type) or f.type == "Node")
KNOBS = tuple(f.name for f in fields(Config) if f.name not in GROUPS)


def register_schema() -> None:
    """Make the schema known to Hydra as ``schema``; called before Hydra composes."""
    ConfigStore.instance().store(name="schema", node=Config)


def check(cfg: DictConfig) -> Config:
    """The resolved configuration as plain values, with every knob in its range.

    Raises:
        InputError: naming the key and the range.
    """
    missing = OmegaConf.missing_keys(cfg)
    if missing:
        key = min(missing)
        raise InputError(f"{key} has no default: give {key}=…")
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    for key in map(str, plain):
        if key not in KNOBS and key not in GROUPS:
            raise InputError(f"{key} is not a configuration key{did_you_mean(key, [*KNOBS, *GROUPS])}")
    config = Config(**{str(key): value for key, value in plain.items()})
    for share in ("fg_threshold", "bg_threshold"):
        value = getattr(config, share)
        if not 0 <= value <= 1:
            raise InputError(f"{share}={value}: must lie between 0 and 1")
    if config.grid_size < 1 or config.grid_size % 2 == 0:
        raise InputError(f"grid_size={config.grid_size}: must be odd and positive, so that the grid has a centre")
    for positive in ("grid_offset", "batch_size"):
        if getattr(config, positive) <= 0:
            raise InputError(f"{positive}={getattr(config, positive)}: must be positive")
    if config.devices < 1:
        raise InputError(f"devices={config.devices}: must be at least 1")
    if config.limit is not None and config.limit < 1:
        raise InputError(f"limit={config.limit}: must be at least 1, or null for all images")
    if config.split not in SPLITS:
        raise InputError(f"split={config.split!r} is not known{did_you_mean(config.split, SPLITS)}")
    return config


def chosen_model(config: Config) -> Node:
    """The ``model`` group of a task that needs a classifier.

    Raises:
        InputError: if it was left out (``~model``).
    """
    if not config.model:
        raise InputError("model is empty: choose one, such as model=resnet18")
    return config.model
