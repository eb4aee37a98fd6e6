"""``task=evaluate`` explains, prompts, segments and scores one split, and leaves a whole run's folder."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from gradsam_exp.config import Config
from gradsam_exp.console import console
from gradsam_exp.engine.data_check import report_data_check
from gradsam_exp.engine.experiment import Evaluation, Experiment
from gradsam_exp.engine.forecast import forecast_of
from gradsam_exp.engine.pipeline import PipelineResult
from gradsam_exp.engine.plan import Plan, plan
from gradsam_exp.engine.preparation import Prepared, Stopwatch
from gradsam_exp.engine.progress import StageBars
from gradsam_exp.engine.session import RUNNING, Job
from gradsam_exp.errors import InputError
from gradsam_exp.registry import build_checked
from gradsam_exp.reports.figures import figure1, score_histograms
from gradsam_exp.reports.gallery import Gallery
from gradsam_exp.reports.sweep import warned
from gradsam_exp.reports.tables import results_table
from gradsam_exp.runs.folder import METRICS, Run
from gradsam_exp.runs.provenance import provenance
from gradsam_exp.runs.summary import Summary, summarize_metrics
from gradsam_exp.runs.units import Units
from gradsam_exp.runs.writing import one_at_a_time
from gradsam_exp.segmenters.cached import CachedSegmenter
from gradsam_exp.tracking.evaluation import live, track_evaluation
from gradsam_exp.tracking.live import Live
from gradsam_exp.tracking.settings import logger_settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class EvaluateSettings:
    """Holds the settings of ``conf/task/evaluate.yaml``.

    Attributes:
        examples, worst: images shown in ``figure1`` and ``worst``.
        figures: draw them, and the histograms; ``auto`` does for a single run, not for the jobs of a sweep,
            where drawing would take longer than everything else.
        faithfulness: deletion and insertion AUC and ROAD of the heatmaps are added to ``metrics``; takes longer
            than all the rest.
    """

    examples: Annotated[int, Field(ge=0)] = 5
    worst: Annotated[int, Field(ge=0)] = 5
    figures: Literal["auto"] | bool = "auto"
    faithfulness: bool = False

    def draws(self, job: Job) -> bool:
        """Say whether this run draws figures."""
        return job.sweep is None if self.figures == "auto" else self.figures


def run(config: Config, job: Job) -> float:
    """Evaluate, write everything into the job's folder, print the table; returns the mIoU.

    Raises:
        InputError: before any model is read, if something given is wrong.
    """
    if config.data.get("check"):
        report_data_check(config, [config.split])
        return float("nan")
    tracker = logger_settings(config.logger)
    started = perf_counter()
    planned, own = plan(config, job), Run(job.folder)
    checked = perf_counter() - started
    settings = build_checked("task", EvaluateSettings, config.task)
    if "miou" not in {metric.name for metric in planned.metrics}:
        raise InputError("metrics.miou is off, but runs are compared by it: leave it on")
    if job.searched and any(example.mask is None for example in planned.dataset[0].examples):
        raise InputError(
            f"hydra/sweeper looks for the highest mIoU, but the images of data={config.data['name']} have no masks"
        )
    if config.dry_run:
        found = forecast_of(job.session, job.sweep or job.folder)
        found.add(planned)
        if job.sweep is None:
            console.print("\n".join(found.lines()), soft_wrap=True)
        return float("nan")
    _say_once(job, [*planned.notes, *planned.dataset.notes])
    shown: Live | None = None
    alone = one_at_a_time(job.folder.parent / RUNNING, planned.identity) if job.sweep else nullcontext()
    with alone:
        same = (run for run in _earlier_runs(planned, settings, job) if run.identity == planned.identity)
        earlier = next((run for run in same if run.is_whole), None)
        if earlier is None:
            shown = live(tracker, planned) if tracker else None
            with shown or nullcontext():
                metrics = _evaluate(planned, settings, job, checked, shown)
        else:
            own.reuse(earlier)
            metrics = {name: Summary.from_json(name, value) for name, value in own.outcome.metrics.items()}
            console.print(f"{own.folder} is the same run as {earlier.folder}: taken from there", soft_wrap=True)
    of_this_sweep = job.sweep is not None and earlier is not None and earlier.folder.parent == own.folder.parent
    if tracker is not None and not of_this_sweep:
        seen_at = track_evaluation(tracker, planned, shown)
        if seen_at:
            console.print(f"{tracker.title}: {seen_at}", soft_wrap=True)
    return metrics["miou"].mean


def _earlier_runs(planned: Plan, settings: EvaluateSettings, job: Job) -> Iterator[Run]:
    """Where this run may have been made before: by another job of the sweep; with ``resume``, at any time."""
    config = planned.config
    places = _jobs_of_the_sweep(job, planned.identity) if job.sweep else []
    if config.resume:
        root, asking = Path(config.output_root) / config.name, job.sweep or job.folder
        before = job.session.keep("runs before", (root, asking), lambda: _finished_runs(root))
        places += before.get(planned.identity, [])
    for run in places:
        if run.folder != job.folder and (not settings.draws(job) or _drawn_alike(run, settings)):
            yield run


def _jobs_of_the_sweep(job: Job, identity: str) -> list[Run]:
    """The sweep's jobs of this identity that have ended; what has ended is read once, however many jobs ask."""
    known: dict[Path, str | None] = job.session.keep("jobs that have ended", job.folder.parent, dict)
    known.pop(job.folder, None)  # of an earlier sweep in the same folder: it is made again
    for folder in set(job.folder.parent.iterdir()) - known.keys():
        if (run := Run(folder)).has_ended:
            known[folder] = run.identity
    return [Run(folder) for folder in sorted(known) if known[folder] == identity]


def _finished_runs(root: Path) -> Mapping[str | None, list[Run]]:
    """The finished runs below a folder by their identity."""
    runs: dict[str | None, list[Run]] = defaultdict(list)
    for run in (Run(path.parent) for path in root.rglob(METRICS)):
        runs[run.identity].append(run)
    return runs


def _drawn_alike(run: Run, settings: EvaluateSettings) -> bool:
    """Whether an earlier run has the figures that these settings ask for."""
    try:
        task = run.config["task"]
        shown = (task.get("examples"), task.get("worst"))
    except (InputError, KeyError, AttributeError):
        return False
    return run.figures.is_dir() and shown == (settings.examples, settings.worst)


def _evaluate(
    planned: Plan, settings: EvaluateSettings, job: Job, checked: float, shown: Live | None
) -> dict[str, Summary]:
    """Make the run, whose checks took ``checked`` seconds; returns the metrics."""
    config, run, draws = planned.config, Run(job.folder), settings.draws(job)
    gallery = Gallery(planned.classifier.class_names, first=settings.examples, worst=settings.worst)
    experiment = planned.experiment(among_others=job.sweep is not None)
    if config.devices > 1:
        _prepare_on_devices(planned, experiment)
    observers = [observer for observer in (gallery if draws else None, shown) if observer is not None]

    def seen(part: Prepared, result: PipelineResult) -> None:
        for observer in observers:
            observer(part, result)

    with StageBars(f"{config.pipeline['name']} on {config.split}", len(planned.dataset), experiment.stopwatch):
        evaluation = experiment.run(planned.dataset, batch_size=config.batch_size, on_batch=seen)
    if isinstance(segmenter := experiment.pipeline.segmenter, CachedSegmenter):
        log.info("%d of %d queries so far were decoded, the others known", segmenter.decoded, segmenter.asked)
    seconds = {"check": checked, **evaluation.seconds}
    if draws:
        started = perf_counter()
        _draw(gallery, evaluation, run.figures)
        seconds["draw"] = perf_counter() - started
    evaluation = replace(evaluation, seconds=seconds)
    metrics = write(planned, evaluation, run)
    if problems := planned.dataset.problems:
        run.keep_problems([(problem.path, problem.what, problem.hint) for problem in problems])
    if job.sweep is None:  # a sweep has one table for all
        _say(planned, metrics, Units.of(evaluation.per_image).note)
    _say_once(job, _counted(evaluation))
    if job.sweep is None:
        stages = " · ".join(f"{stage} {value:.1f} s" for stage, value in evaluation.seconds.items())
        console.print(f"{stages}\n{run.folder}", soft_wrap=True)
    return metrics


def _prepare_on_devices(planned: Plan, experiment: Experiment) -> None:
    """Fill the store on several devices, if it lacks enough for two."""
    from gradsam_exp.engine.sharding import STAGE, share_out  # noqa: PLC0415  (only who has several devices)

    config, preparation = planned.config, experiment.prepare
    with experiment.stopwatch.time("devices"):
        chunks = preparation.missing(planned.dataset)
        if len(chunks) < 2:
            return
        title, watch = f"{config.devices} devices on {config.split}", Stopwatch()
        with StageBars(title, sum(map(len, chunks)), watch, last=STAGE):
            share_out(planned, preparation, chunks, watch)


def _draw(gallery: Gallery, evaluation: Evaluation, folder: Path) -> None:
    """The run's figures; one that cannot be drawn is a warning, as the numbers are whole without."""
    shown = {"figure1.png": gallery.first_examples(), "worst.png": gallery.worst_examples()}
    for name, draw in (
        *((name, partial(figure1, examples)) for name, examples in shown.items() if examples),
        ("scores.png", partial(score_histograms, evaluation.per_image)),
    ):
        with warned(f"{name} was not drawn"):
            draw(folder / name)


def write(planned: Plan, evaluation: Evaluation, run: Run) -> dict[str, Summary]:
    """Leave the tables, provenance and metrics of a run in its folder; returns the metrics."""
    config, device = planned.config, planned.device
    metrics = summarize_metrics(evaluation.metrics, evaluation.per_image, seed=config.seed)
    origin = provenance(
        config=asdict(config),
        digests=planned.digests,
        seeds={
            "seed": config.seed,
            "data.seed": config.data.get("seed", 0),
            "model.seed": config.model.get("seed", 0),
        },
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    )
    run.finish(
        identity=planned.identity,
        metrics={name: summary.as_json() for name, summary in metrics.items()},
        per_image=evaluation.per_image,
        predictions=evaluation.predictions,
        counts=evaluation.counts,
        prepared=evaluation.prepared,
        provenance={
            **origin,
            "backbone": planned.classifier.backbone,
            "target_layers": planned.config.explainer.get("target_layers"),
            "seconds": evaluation.seconds,
        },
        upper_bound=planned.upper_bound,
        note=Units.of(evaluation.per_image).note,
    )
    return metrics


def _say_once(job: Job, notes: Iterable[str]) -> None:
    """Print what was not printed before by this process: the jobs of a sweep have most notes in common."""
    said: set[str] = job.session.keep("said", str(job.sweep or job.folder), set)
    for note in dict.fromkeys(notes):
        if note not in said:
            said.add(note)
            console.print(note, soft_wrap=True)


def _counted(evaluation: Evaluation) -> list[str]:
    """Say how many heatmaps and true masks are empty, if any."""
    counted = {"empty heatmaps": "empty_heatmap", "empty true masks": "empty_truth"}
    numbers = {what: int(evaluation.per_image[column].fillna(False).sum()) for what, column in counted.items()}
    found = ", ".join(f"{number} {what}" for what, number in numbers.items() if number)
    return [f"note: {found}"] if found else []


def _say(planned: Plan, metrics: dict[str, Summary], note: str) -> None:
    config = planned.config
    parts = [config.pipeline["name"], config.explainer["name"], planned.segmenter_name]
    parts.append(f"{config.data['name']}/{config.split}")
    if planned.upper_bound:
        parts.append("upper bound: looks at the truth")
    console.print(" · ".join(parts), style="bold", soft_wrap=True)
    console.print(results_table(metrics))
    for said in (note, *(summary.note for summary in metrics.values())):
        if said:
            console.print(f"note: {said}", soft_wrap=True, markup=False)
