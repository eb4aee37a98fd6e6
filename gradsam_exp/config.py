"""This module defines the configuration's top-level keys and checks their values, without files or models.

Group nodes (``data``, ``pipeline``, …) are open here: their parameters are checked against the
constructor that they configure, by `gradsam_exp.registry.Registry.build`. The knobs that strategies share are
checked by `gradsam_exp.prompts.base.check_knobs`, which knows their ranges.
"""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from gradsam_exp.errors import InputError, did_you_mean

Node = dict[str, Any]
MAX_BATCH = 2**16
MAX_SEED = 2**32
SPLITS = ("train", "val", "test")


@dataclass
class Config:
    """Config holds the configuration of a run; ``conf/config.yaml`` says what each key means.

    The first four are knobs of prompt strategies, whose fields say default and range.
    """

    fg_threshold: Any = MISSING  # heat, or a rule such as otsu
    bg_threshold: Any = MISSING
    grid_size: int = MISSING
    grid_offset: Any = MISSING  # px, or a share such as 2%
    split: str = "test"
    limit: int | None = None
    seed: int = 0
    batch_size: int = 32
    device: str = "auto"
    devices: int = 1
    shard: int | None = None
    resume: bool = False
    dry_run: bool = False
    compare_within: list[str] = field(default_factory=list)
    sweep: str | None = None
    name: str = "evaluate"
    output_root: str = "outputs"
    cifar10_root: str | None = None
    runs: Any = None  # a path or glob, or several
    image: str | None = None
    download: Node = field(default_factory=dict)
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


GROUPS = tuple(f.name for f in fields(Config) if f.type == Node)
KNOBS = tuple(f.name for f in fields(Config) if f.name not in GROUPS)


def conf_folder() -> Path:
    """Find the folder of our configuration files: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


@dataclass(frozen=True)
class Option:
    """Tells what a file such as ``conf/pipeline/fgbg.yaml`` says of the option.

    Attributes:
        says: its first line, a comment.
        knobs: by name, the default as it is written and the comment beside it; those of its bases included.
    """

    says: str
    knobs: dict[str, tuple[str, str]]


def options_of(group: str, folder: Path | None = None) -> dict[str, Option]:
    """Read what the options of a group are, by name, from their files below ``folder`` (ours if None)."""
    place = (folder or conf_folder()) / group
    return {path.stem: Option(_first_comment(path), _knobs(path, place)) for path in sorted(place.glob("*.yaml"))}


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.removeprefix("# ") if first.startswith("#") else ""


def _knobs(path: Path, place: Path) -> dict[str, tuple[str, str]]:
    text = path.read_text(encoding="utf-8")
    found: dict[str, tuple[str, str]] = {}
    for base in re.findall(r"^  - (base/\w+)@_here_", text, re.MULTILINE):
        found |= _knobs(place / f"{base}.yaml", place)
    for key, value, comment in re.findall(r"^(\w+):[ \t]*([^#\n]*?)[ \t]*(?:# (.*))?$", text, re.MULTILINE):
        if key not in ("defaults", "name"):
            found[key] = (value, comment)
    return found


def who_has(group: str, knob: str) -> list[str]:
    """List a group's options that have this knob."""
    return [name for name, option in options_of(group).items() if knob in option.knobs]


def register_schema() -> None:
    """Make the schema known to Hydra as ``schema``; called before Hydra composes."""
    ConfigStore.instance().store(name="schema", node=Config)


def check(cfg: DictConfig) -> Config:
    """Return the resolved configuration as plain values, checked as far as that needs no plug-in.

    Raises:
        InputError: naming the key and the range.
    """
    refuse_missing(OmegaConf.missing_keys(cfg))
    return check_values(cfg)


def refuse_missing(keys: set[str]) -> None:
    """Raise an `InputError` if there are keys without a value."""
    if keys:
        raise InputError(f"{min(keys)} has no default: give {min(keys)}=…")


def check_values(cfg: DictConfig) -> Config:
    """Do what `check` does with a configuration in which no key is without a value."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    for key in map(str, plain):
        if key not in KNOBS and key not in GROUPS:
            raise InputError(f"{key} is not a configuration key{did_you_mean(key, [*KNOBS, *GROUPS])}")
    config = Config(**{str(key): value for key, value in plain.items()})
    for place in (vars(config), config.pipeline):  # so that 1 and 1.0 are one setting
        for knob in ("fg_threshold", "bg_threshold", "grid_offset"):
            if type(place.get(knob)) is int:
                place[knob] = float(place[knob])
    if config.batch_size <= 0:
        raise InputError(f"batch_size={config.batch_size}: must be positive")
    if config.batch_size > MAX_BATCH:
        raise InputError(f"batch_size={config.batch_size}: must be at most {MAX_BATCH}")
    if not 0 <= config.seed < MAX_SEED:
        raise InputError(f"seed={config.seed}: must be at least 0 and below 2³²")
    if config.devices < 1:
        raise InputError(f"devices={config.devices}: must be at least 1")
    if config.limit is not None and config.limit < 1:
        raise InputError(f"limit={config.limit}: must be at least 1, or null for all images")
    if config.split not in SPLITS:
        raise InputError(f"split={config.split!r} is not known{did_you_mean(config.split, SPLITS)}")
    return config


def chosen_model(config: Config) -> Node:
    """Return the ``model`` group for a task that needs a classifier.

    Raises:
        InputError: if it was left out (``~model``).
    """
    if not config.model:
        raise InputError("model is empty: choose one, such as model=resnet18")
    return config.model
