"""This module builds a sweep's W&B workspace and report offline, and uploads them if there is an API key.

It needs the package ``wandb_workspaces``, which the extra ``wandb`` brings.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from gradsam_exp.errors import InputError
from gradsam_exp.reports.tables import markdown_effects, varied_columns
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.effects import main_effects
from gradsam_exp.runs.summary import MetricFacts
from gradsam_exp.runs.sweep import about, collect_runs
from gradsam_exp.tracking.content import flat_config, group_name, saved_config
from gradsam_exp.tracking.settings import WandbSettings, api_key, server
from gradsam_exp.tracking.upload import why_not, within

NOT_KNOWN = "ENTITY"  # stands in files for the entity that the key belongs to


@dataclass(frozen=True)
class SweepFacts:
    """Holds what a view of a sweep is made of.

    Attributes:
        name: of the sweep's folder.
        group: of its runs, see `group_name`.
        knobs: what was varied, by its name in W&B, with its values in the runs' order; None where a run has none.
        metrics: what those are that every run has, by name.
        means: each run's metrics, in the runs' order.
        bounds: whether each run looks at the truth, in the runs' order.
        about: what all runs have in common, in one line.
        tables: the sweep's tables, in Markdown.
        effects: which knobs matter, in Markdown.
    """

    name: str
    group: str
    knobs: Mapping[str, Sequence[Any]]
    metrics: Mapping[str, MetricFacts]
    means: Sequence[Mapping[str, float]]
    bounds: Sequence[bool]
    about: str
    tables: str
    effects: str

    @property
    def best(self) -> int | None:
        """Finds the run of the highest mIoU, by its place; None if there is none but upper bounds."""
        known = [k for k, means in enumerate(self.means) if "miou" in means and not self.bounds[k]]
        return max(known, key=lambda k: self.means[k]["miou"]) if known else None


def read_sweep(folder: Path) -> SweepFacts:
    """Read a finished sweep's facts from its files; a damaged run is left out, as its row in the tables says.

    Raises:
        InputError: if it is no finished sweep.
    """
    try:
        tables = (folder / "sweep.md").read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"sweep={folder} holds no sweep.md; give the folder of a finished sweep") from error
    found: dict[str | None, tuple[dict[str, Any], dict[str, float], bool]] = {}
    runs = Runs(folder)
    for run in map(runs.__getitem__, runs.jobs):
        if run.problem is None and run.outcome.status == "finished":
            means = {name: metric["mean"] for name, metric in run.outcome.metrics.items() if metric["n"]}
            found.setdefault(run.identity, (flat_config(saved_config(run)), means, run.outcome.upper_bound))
    if not found:
        raise InputError(f"sweep={folder} holds no finished runs")
    configs, means, bounds = zip(*found.values(), strict=True)
    keys = dict.fromkeys(key for config in configs for key in config)
    knobs = {key: [config.get(key) for config in configs] for key in keys}
    table = collect_runs(runs)
    facts = runs.metric_facts(table)
    return SweepFacts(
        name=folder.resolve().name,
        group=group_name(folder),
        knobs={key: values for key, values in knobs.items() if len(set(values) - {None}) > 1},
        metrics={name: metric for name, metric in facts.items() if all(name in known for known in means)},
        means=means,
        bounds=bounds,
        about=about(runs, table),
        tables=tables,
        effects=markdown_effects(main_effects(runs, table, varied_columns(table))),
    )


def build_workspace(facts: SweepFacts, *, entity: str, project: str) -> ws.Workspace:
    """Lay out a view of the sweep's runs alone."""
    best_first = ws.Ordering(ws.Summary("miou"), ascending=False)
    every_metric = [wr.BarPlot(title=name, metrics=[name]) for name in facts.metrics]
    effects = wr.MarkdownPanel(facts.effects, layout=wr.Layout(w=24, h=7))
    importance = [*([effects] if facts.effects else []), _parallel(facts)]
    sections = [
        ws.Section("Which knob matters", panels=importance, is_open=True),
        ws.Section("mIoU against each knob", panels=_against_knobs(facts), is_open=True),
        ws.Section("Images", panels=_pictures(), is_open=True),
        ws.Section("Every metric", panels=every_metric, is_open=False),
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"sweep {facts.name}",
        sections=sections,
        runset_settings=ws.RunsetSettings(filters=_of_sweep(facts), order=[best_first]),
    )


def build_report(facts: SweepFacts, *, entity: str, project: str) -> wr.Report:
    """Write a report: text, panels and the sweep's paired table."""

    def panels(*chosen: Any) -> wr.PanelGrid:
        # A run set with a project asks the server whether it exists; without one it is the report's own.
        runs = wr.Runset(entity=entity, name=facts.name, filters=_of_sweep(facts))
        return wr.PanelGrid(runsets=[runs], panels=list(chosen))

    return wr.Report(
        entity=entity,
        project=project,
        title=f"Sweep {facts.name}",
        description=f"{len(facts.means)} runs; varied: {', '.join(facts.knobs) or 'nothing'}.",
        width="fluid",
        blocks=[
            *([wr.P(facts.about)] if facts.about else []),
            wr.P(" ".join([f"{len(facts.means)} different runs.", *findings(facts)])),
            wr.H1("Which knob matters"),
            *([wr.MarkdownBlock(facts.effects)] if facts.effects else []),
            panels(_parallel(facts)),
            wr.H1("mIoU against each knob"),
            panels(*_against_knobs(facts)),
            wr.H1("The runs, and their differences image by image"),
            wr.MarkdownBlock(facts.tables),
            wr.H1("Images"),
            wr.P("Prediction and ground truth are masks of each image; switch them on and off above the panel."),
            panels(*_pictures()),
        ],
    )


def findings(facts: SweepFacts) -> list[str]:
    """Return sentences on which run has the best mIoU, and how many runs are upper bounds."""
    found = []
    if facts.best is not None:
        values = {key: given[facts.best] for key, given in facts.knobs.items()}
        knobs = ", ".join(f"{key}={value}" for key, value in values.items() if value is not None)
        found.append(f"Best mIoU {facts.means[facts.best]['miou']:.3f}: {knobs or 'nothing was varied'}.")
        found.append("Chosen and measured on the same images.")
    if any(facts.bounds):
        found.append(f"{sum(facts.bounds)} of them look at the truth: upper bounds, no choice.")
    return found


def _of_sweep(facts: SweepFacts) -> str:
    return f"Metric('Group') == '{facts.group}'"


def _parallel(facts: SweepFacts) -> wr.ParallelCoordinatesPlot:
    axes: list[Any] = [wr.ParallelCoordinatesPlotColumn(wr.Config(key), display_name=key) for key in facts.knobs]
    shown = [name for name, metric in facts.metrics.items() if not metric.about_heatmaps]
    for name in sorted(shown[::-1], key=lambda name: name == "miou"):  # what counts stands last
        look = {"display_name": name, "inverted": facts.metrics[name].higher_is_better is False}
        axes.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(name), **look))
    return wr.ParallelCoordinatesPlot(title="Knobs and metrics", columns=axes, layout=wr.Layout(w=24, h=9))


def _against_knobs(facts: SweepFacts) -> list[Any]:
    """A scatter plot for a number, bars for a choice."""
    panels: list[Any] = []
    for key, values in facts.knobs.items():
        title = f"mIoU against {key}"
        knob = wr.Config(key)
        if {type(value) for value in values} <= {int, float, type(None)}:
            panels.append(wr.ScatterPlot(title=title, x=knob, y=wr.SummaryMetric("miou"), regression=True))
        else:
            panels.append(wr.BarPlot(title=title, metrics=["miou"], groupby=knob, groupby_rangefunc="minmax"))
    return panels


def _pictures() -> list[Any]:
    worst = wr.MediaBrowser(title="Worst images of each run", media_keys=["worst"], mode="grid")
    worst.grid_x_axis, worst.grid_y_axis, worst.layout = "index", "run", wr.Layout(w=24, h=12)
    table = wr.WeavePanelSummaryTable(table_name="examples")
    table.layout = wr.Layout(w=24, h=12)
    return [worst, table]


def specification(view: ws.Workspace | wr.Report) -> dict[str, Any]:
    """Return what would be uploaded, as plain values."""
    return json.loads(view._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def upload_views(settings: WandbSettings, facts: SweepFacts, *, seconds: float = 60.0) -> list[str] | str:
    """Save workspace view and report on the server.

    Returns:
        Their addresses, or what went wrong.
    """
    problem = why_not(server(), api_key())
    if problem is not None:
        return problem
    found = within(seconds, lambda: _save(settings, facts))
    return f"{server()} took longer than {seconds:.0f} s" if found is None else found


def _save(settings: WandbSettings, facts: SweepFacts) -> list[str] | str:
    try:
        entity = settings.entity or wandb.Api().default_entity
        if not entity:
            return "the key belongs to no entity; give logger.entity=…"
        workspace = build_workspace(facts, entity=entity, project=settings.project).save_as_new_view()
        report = build_report(facts, entity=entity, project=settings.project).save()
    except Exception as error:  # many kinds, from two packages; the files are written already
        return f"{type(error).__name__}: {error}"
    return [workspace.url, report.url]
