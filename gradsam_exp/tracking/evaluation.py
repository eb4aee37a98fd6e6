"""The W&B run of an evaluation, from the files that the evaluation has left."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradsam_exp.engine.plan import Plan
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.summary import Summary
from gradsam_exp.tracking.artifacts import described, results_artifact, use_weights
from gradsam_exp.tracking.content import as_written, flat_config, log_metrics, run_name
from gradsam_exp.tracking.examples import chosen_images, examples_of
from gradsam_exp.tracking.pictures import examples_table, masked_image, numbers_table
from gradsam_exp.tracking.session import Heading, place_of, record
from gradsam_exp.tracking.settings import WandbSettings

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)
_WORST = 8  # images beside the table, if that has all


def track_evaluation(
    settings: WandbSettings, planned: Plan, folder: Path, *, overrides: Sequence[str], sweep: Path | None
) -> str | None:
    """Log a finished evaluation, made now or taken from an earlier run.

    Args:
        folder: the run's.
        overrides: what the job was given.
        sweep: the sweep's folder, if it is part of one.

    Returns:
        See `gradsam_exp.tracking.session.record`.
    """
    config, own = planned.config, Run(folder)
    tags = [config.pipeline["name"], config.explainer["name"], config.sam["name"]]
    heading = Heading(
        name=run_name(overrides, config.name),
        job_type=config.task["name"],
        sweep=sweep,
        tags=tags + (["upper bound"] if planned.upper_bound else []),
        config={
            **as_written(flat_config(config), own, flat_config),
            "images": len(planned.dataset),
            "upper_bound": planned.upper_bound,
            "identity": planned.identity,
            **described(planned.digests),
        },
    )

    def fill(run: wandb.Run) -> None:
        metrics = own.outcome.metrics
        log_metrics(run, {name: Summary.from_json(name, value) for name, value in metrics.items()})
        _log_tables(run, settings, planned, own)
        run.log_artifact(results_artifact(own, planned.identity))
        if planned.classifier.path is not None:
            use_weights(run, planned.classifier.path, planned.classifier.digest)

    return record(settings, folder, heading, fill)


def _log_tables(run: wandb.Run, settings: WandbSettings, planned: Plan, own: Run) -> None:
    """All numbers of all images, the few images worth looking at, and the run's figures."""
    import wandb  # noqa: PLC0415

    per_image = own.images.reset_index()
    logged: dict[str, Any] = {"per_image": numbers_table(per_image)}
    reasons = chosen_images(per_image, settings.images)
    if reasons:
        examples = examples_of(planned, own, list(reasons))
        names = planned.classifier.class_names
        logged["examples"] = examples_table(examples, reasons, per_image, names)
        worst = examples[: _WORST if settings.images == "all" else settings.images]
        predicted = dict(zip(per_image["image_id"], per_image["predicted_class"], strict=True))
        logged["worst"] = [masked_image(example, predicted[example.image_id], names) for example in worst]
    figures = {name: wandb.Image(str(path)) for name, path in own.drawings().items()}
    run.log({**logged, **figures})
    size = sum(path.stat().st_size for path in (own.folder / "wandb").rglob("*") if path.is_file())
    log.info(
        "W&B: %d of %d images shown (logger.images=%s), %.1f MB in %s",
        len(reasons), len(per_image), settings.images, size / 1e6, place_of(run),
    )  # fmt: skip
