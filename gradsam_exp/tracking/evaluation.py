"""This module shows an evaluation in W&B or in another logger, from the files that the evaluation has left."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gradsam_exp.engine.plan import Plan
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.provenance import git_state
from gradsam_exp.runs.summary import Summary
from gradsam_exp.tracking.content import (
    Heading,
    as_written,
    flat_config,
    flat_numbers,
    log_metrics,
    weights_name,
)
from gradsam_exp.tracking.examples import chosen_images, common_images, examples_of
from gradsam_exp.tracking.live import Live
from gradsam_exp.tracking.session import place_of, record, record_locally
from gradsam_exp.tracking.settings import Settings, WandbSettings

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)
_WORST = 8  # images beside the table, if that has all
_COMMON = 10  # classes, of each of which every run shows one image


def live(settings: Settings, planned: Plan) -> Live:
    """Return what shows an evaluation's mIoU while it is being made: an observer of its chunks."""
    return Live(settings, planned.job, _heading(planned, git_state()))


def track_evaluation(settings: Settings, planned: Plan, begun: Live | None = None) -> str | None:
    """Log a finished evaluation, made now or taken from an earlier run; what goes wrong is a warning.

    Args:
        begun: what has shown it so far; its run is filled and ended.

    Returns:
        How to see it, where that is not said at the end of a sweep; see `record`.
    """
    own = Run(planned.job.folder)
    heading = begun.heading if begun else _heading(planned, own.provenance.get("git"))
    metrics = {name: Summary.from_json(name, value) for name, value in own.outcome.metrics.items()}
    seconds = {f"seconds_{stage}": value for stage, value in own.provenance.get("seconds", {}).items()}
    if not isinstance(settings, WandbSettings):
        files = own.results() | {path.name: path for path in own.drawings().values()}
        numbers = {**flat_numbers(metrics), **seconds}
        return record_locally(settings, planned.job, heading, numbers, files, begun.local if begun else None)

    def fill(run: "wandb.Run") -> None:
        from gradsam_exp.tracking.artifacts import results_artifact, use_weights  # noqa: PLC0415  (import wandb)

        log_metrics(run, metrics)
        run.summary.update(seconds)
        _log_tables(run, settings, planned, own)
        run.log_artifact(results_artifact(own, planned.identity))
        if planned.classifier.path is not None:
            use_weights(run, planned.classifier.path, planned.classifier.digest)

    return record(settings, planned.job, heading, fill, begun.wandb if begun else None)


def _heading(planned: Plan, git: Mapping[str, Any] | None) -> Heading:
    config = planned.config
    described = {
        **as_written(flat_config(config), Run(planned.job.folder), flat_config),
        "images": len(planned.dataset),
        "upper_bound": planned.upper_bound,
        "identity": planned.identity,
        **{f"{what}_digest": digest for what, digest in planned.digests.items()},
        "classifier_artifact": weights_name(planned.classifier.digest),
        "commit": (git or {}).get("commit"),
    }
    tags = [config.pipeline["name"], config.explainer["name"], planned.segmenter_name]
    tags += ["upper bound"] if planned.upper_bound else []
    return Heading.of(planned.job, config, tags=tags, described=described)


def _log_tables(run: "wandb.Run", settings: WandbSettings, planned: Plan, own: Run) -> None:
    """Log all numbers of all images, the few images worth looking at, those all runs show, and the figures."""
    from wandb import Image  # noqa: PLC0415  (a second)

    from gradsam_exp.tracking import pictures  # noqa: PLC0415

    per_image = own.images.reset_index()
    logged: dict[str, Any] = {"per_image": pictures.numbers_table(per_image)}
    reasons = chosen_images(per_image, settings.images)
    if reasons:
        names = planned.classifier.class_names
        common = examples_of(planned, own, common_images(per_image, _COMMON))
        logged["common"] = [pictures.masked_image(example, names) for example in common]
        examples = examples_of(planned, own, list(reasons))
        logged["examples"] = pictures.examples_table(examples, reasons, per_image, names)
        worst = examples[: _WORST if settings.images == "all" else settings.images]
        logged["worst"] = [pictures.masked_image(example, names) for example in worst]
    run.log({**logged, **{name: Image(str(path)) for name, path in own.drawings().items()}})
    size = sum(path.stat().st_size for path in (own.folder / "wandb").rglob("*") if path.is_file())
    log.info(
        "W&B: %d of %d images shown (logger.images=%s), %.1f MB in %s",
        len(reasons), len(per_image), settings.images, size / 1e6, place_of(run),
    )  # fmt: skip
