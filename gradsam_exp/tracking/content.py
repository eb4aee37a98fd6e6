"""This module makes what W&B and other loggers show of a run: name, group, flat configuration, numbers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from gradsam_exp.config import GROUPS, KNOBS, Config, Node
from gradsam_exp.engine.session import Job
from gradsam_exp.errors import InputError, harmless
from gradsam_exp.runs.finding import ELSEWHERE, WHERE_IT_RAN
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.overrides import unescaped
from gradsam_exp.runs.saved_config import with_strings
from gradsam_exp.runs.summary import Summary
from gradsam_exp.runs.varied import varied_in

if TYPE_CHECKING:
    import wandb

_NOT_VARIED = {*ELSEWHERE, *WHERE_IT_RAN, "cifar10_root", "limit", "split"}
_SHORT = {"fg_threshold": "fg", "bg_threshold": "bg", "grid_size": "grid", "grid_offset": "off"}
_SHARES = {"fg_threshold", "bg_threshold"}
# Where something lies, and what results do not depend on.
_NO_KNOBS = {
    "name",
    "root",
    "url",
    "sha256",
    "max_queries",
    "pretrained",
    "background",
    "lengths",
    "layers",
    "download",
}

LONGEST_TAG, LONGEST_GROUP = 64, 128  # letters that W&B takes


@dataclass(frozen=True)
class Heading:
    """Holds what every logger says of a run before its numbers; no text in it shows a secret.

    Attributes:
        name: what was varied, see `run_name`.
        group: of a sweep's runs, see `group_name`; None for a single run.
        task: such as ``evaluate``.
        described: the configuration, flat, by the names that people sweep.
    """

    name: str
    group: str | None
    task: str
    tags: tuple[str, ...]
    described: Mapping[str, Any]

    @classmethod
    def of(cls, job: Job, config: Config, *, tags: Sequence[str], described: Mapping[str, Any]) -> "Heading":
        """Make a job's heading."""
        sweep = job.sweep
        return cls(
            name=harmless(run_name(job.overrides, config.name)),
            group=None if sweep is None else job.session.keep("group", str(sweep), lambda: group_name(sweep)),
            task=config.task["name"],
            tags=tuple(harmless(tag)[:LONGEST_TAG] for tag in tags),
            described=with_strings(described, harmless),
        )


def group_name(sweep: Path) -> str:
    """Name the group of a sweep's runs by its folder and what it varies: ``2026-11-28_12-00-00 pipeline,sam``."""
    return harmless(f"{sweep.resolve().name} {','.join(varied_in(sweep))}".strip())[:LONGEST_GROUP]


def run_name(overrides: Sequence[str], task: str) -> str:
    """Name a run by what was varied: ``fgbg·bg0.10·off1`` for ``pipeline=fgbg bg_threshold=0.1 grid_offset=1``."""
    parts = []
    for override in overrides:
        key, _, value = unescaped(override).lstrip("+~").partition("=")
        if key in _NOT_VARIED or key.split(".")[0] in _NOT_VARIED:
            continue
        if "/" in value:
            value = PurePath(value).parent.name or PurePath(value).name
        short = _SHORT.get(key, key.rsplit(".", 1)[-1])
        is_choice = "." not in key and key not in _SHORT and not value.replace(".", "").isdigit()
        if key in _SHARES:
            value = _two_digits(value)
        parts.append(value if is_choice else f"{short}{value}" if key in _SHORT else f"{short}={value}")
    return "·".join(parts) or task


def _two_digits(value: str) -> str:
    """Thresholds of one sweep have one length, unless that would lose something."""
    try:
        number = float(value)
    except ValueError:
        return value
    return f"{number:.2f}" if round(number, 2) == number else value


def weights_name(digest: str) -> str:
    """Name the artifact that holds the classifier with this SHA-256."""
    return f"classifier-{digest[:12]}"


def flat_config(config: Config) -> dict[str, Any]:
    """List what a run's results depend on, one flat name each, as people sweep it.

    Choices have their group's name (``pipeline``, ``explainer``), the root's knobs their own
    (``bg_threshold``, only if the run uses it), other parameters their group's before theirs
    (``pipeline_tie``, ``model_checkpoint``).
    """
    groups = {key: getattr(config, key) for key in ("explainer", "refine", "pipeline", "selector", "sam")}
    chosen = {"split": config.split, "limit": config.limit, "seed": config.seed}
    return {**chosen, **_flat({**_sources(config), **groups})}


def flat_training_config(config: Config) -> dict[str, Any]:
    """List what a training depends on; its own parameters have no prefix (``epochs``, ``learning_rate``)."""
    own = {key: value for key, value in _parameters(config.task) if value is not None}
    return {"limit": config.limit, **_flat(_sources(config)), **own}


def saved_config(run: Run) -> Config:
    """Read the configuration that a run has saved; strings that call a resolver stay as they are written.

    Raises:
        InputError: it is missing or damaged.
    """
    found = Config()
    for key, value in run.config.items():
        if key in KNOBS or (key in GROUPS and isinstance(value, dict)):
            setattr(found, key, value)
    return found


def as_written(
    flat: Mapping[str, Any], run: Run, flatten: Callable[[Config], Mapping[str, Any]]
) -> dict[str, Any]:
    """Say what called a resolver as it is written in the saved configuration: ``${oc.env:KEY}`` may be a secret.

    Args:
        flat: what ``flatten`` makes of the resolved configuration.
    """
    try:
        saved = flatten(saved_config(run))
    except InputError:  # of a run that Hydra did not start
        return dict(flat)
    unresolved = {key: text for key, text in saved.items() if isinstance(text, str) and "${" in text}
    return {key: unresolved.get(key, value) for key, value in flat.items()}


def _sources(config: Config) -> dict[str, Node]:
    """The groups that every task depends on."""
    return {"data": config.data, "background": config.data.get("background") or {}, "model": config.model}


def _flat(groups: Mapping[str, Node]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for group, node in groups.items():
        name = node.get("backbone") if group == "model" else node.get("name")
        if name is not None:
            flat[group] = name
        for key, value in _parameters(node):
            if (group, key) != ("model", "backbone") and value is not None:
                flat[key if key in KNOBS and group == "pipeline" else f"{group}_{key}"] = value
    return flat


def _parameters(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if key in _NO_KNOBS:
            continue
        if isinstance(value, Mapping):
            yield from _parameters(value, f"{prefix}{key}_")
        else:
            yield f"{prefix}{key}", " ".join(map(str, value)) if isinstance(value, list) else value


def flat_numbers(metrics: Mapping[str, Summary]) -> dict[str, float]:
    """List the metrics that have values, each with its interval, its number of images and its parts."""
    found: dict[str, float] = {}
    for name, summary in metrics.items():
        if summary.n:
            low, high = summary.ci95
            found |= {name: summary.mean, f"{name}_low": low, f"{name}_high": high, f"{name}_n": summary.n}
            found |= {f"{name}_{part}": own.mean for part, own in summary.parts.items()}
    return found


def log_metrics(run: "wandb.Run", metrics: Mapping[str, Summary]) -> None:
    """Define every metric with its direction and log it; the summary has its interval and number of images."""
    known = {name: summary for name, summary in metrics.items() if summary.n}
    for name, summary in known.items():
        better = summary.facts.higher_is_better if summary.facts else None
        run.define_metric(name, summary="last" if better is None else "max" if better else "min")
    run.log({name: summary.mean for name, summary in known.items()})
    # W&B would write {"max": 0.9}; plain numbers can be sorted, filtered and drawn.
    run.summary.update(flat_numbers(known))
