"""This module makes the name, the flat configuration and the metrics that W&B shows of a run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from gradsam_exp.config import GROUPS, KNOBS, Config, Node
from gradsam_exp.errors import InputError
from gradsam_exp.runs.finding import ELSEWHERE, WHERE_IT_RAN
from gradsam_exp.runs.folder import Run, unescaped
from gradsam_exp.runs.summary import Summary

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


def log_metrics(run: "wandb.Run", metrics: Mapping[str, Summary]) -> None:
    """Define every metric with its direction and log it; the summary has its interval and number of images."""
    known = {name: summary for name, summary in metrics.items() if summary.n}
    for name, summary in known.items():
        better = summary.facts.higher_is_better if summary.facts else None
        run.define_metric(name, summary="last" if better is None else "max" if better else "min")
    run.log({name: summary.mean for name, summary in known.items()})
    # W&B would write {"max": 0.9}; plain numbers can be sorted, filtered and drawn.
    for name, summary in known.items():
        low, high = summary.ci95
        values = {name: summary.mean, f"{name}_low": low, f"{name}_high": high, f"{name}_n": summary.n}
        values |= {f"{name}_{part}": own.mean for part, own in summary.parts.items()}
        run.summary.update(values)
