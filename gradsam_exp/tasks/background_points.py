"""``task=background_points``: why do background points hurt? All runs that answer it, compared, with figures.

The heatmaps, the segmenter and the images are those that the configuration chooses; prompts and selectors
are this study's own. ``docs/background-points.md`` discusses what it finds.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic.dataclasses import dataclass as checked

from gradsam_exp.config import Config
from gradsam_exp.data.base import FirstImages
from gradsam_exp.data.shapes import Shapes
from gradsam_exp.engine.devices import prepare_on_devices
from gradsam_exp.engine.experiment import Evaluation
from gradsam_exp.engine.pipeline import PipelineResult
from gradsam_exp.engine.plan import plan
from gradsam_exp.engine.preparation import Prepared
from gradsam_exp.engine.session import Job
from gradsam_exp.registry import build_checked
from gradsam_exp.reports import background_points as report
from gradsam_exp.reports.tables import BOUND_NOTE, markdown_table
from gradsam_exp.reports.terminal import console, progress_bar
from gradsam_exp.runs.folder import write_finished
from gradsam_exp.tasks.evaluate import write

COUNTS = (1, 2, 4, 8)
SELECTORS = ("single", "heatmap_agreement", "oracle")


@checked(frozen=True)
class StudySettings:
    """``conf/task/background_points.yaml`` has no parameters."""


@dataclass(frozen=True)
class Variant:
    """One run of the study, by what it changes."""

    pipeline: dict[str, Any]
    selector: str = "predicted_iou"


def variants(config: Config) -> dict[str, Variant]:
    """The study's runs by name; ``fg`` is what all are compared with."""
    knobs = {name: getattr(config, name) for name in ("fg_threshold", "grid_size", "grid_offset")}
    fg = {"name": "fg", **knobs}
    fgbg = {"name": "fgbg", **knobs, "bg_threshold": config.bg_threshold}
    one, doubled = {"grid_size": 1}, 2 * config.bg_threshold
    return {
        "fg": Variant(fg),
        "fgbg": Variant(fgbg),
        "fgbg-threshold-doubled": Variant(fgbg | {"bg_threshold": min(doubled, config.fg_threshold - 0.01)}),
        "fgbg-median": Variant(fgbg | {"tie": "median"}),
        "fgbg-farthest": Variant(fgbg | {"tie": "farthest"}),
        **{f"extreme-{n}": Variant(fgbg | {"n": n}) for n in COUNTS if n != 4},
        **{f"ring-{n}": Variant(fgbg | {"n": n, "placement": "ring"}) for n in COUNTS},
        "fg-25-points": Variant(fg | {"grid_size": 5}),
        "fg-one-point": Variant(fg | one),
        "fgbg-one-point": Variant(fgbg | one),
        "ring-4-one-point": Variant(fgbg | one | {"placement": "ring"}),
        **{f"fg-{name}": Variant(fg, name) for name in SELECTORS},
        **{f"fgbg-{name}": Variant(fgbg, name) for name in SELECTORS},
        "adaptive": Variant({**fgbg, "name": "adaptive"}),
        "box": Variant({"name": "box"}),
    }


def run(config: Config, job: Job) -> None:
    """Run every variant, compare them with ``fg``, write ``study.md``, tables and figures.

    Raises:
        InputError: before any model is read, if something given is wrong, or the images have no true masks.
    """
    build_checked("task", StudySettings, config.task)
    planned, folder = plan(config, job), job.folder
    plans = {
        name: planned.with_prompts(variant.pipeline, {"name": variant.selector})
        for name, variant in variants(config).items()
    }
    prepare_on_devices(planned, planned.experiment().prepare)
    dataset = planned.dataset
    facts: list[pd.DataFrame] = []
    truth: dict[str, np.ndarray] = {}

    def on_batch(item: Prepared, result: PipelineResult) -> None:
        del result
        assert item.batch.masks is not None
        facts.append(report.image_facts(item.batch))
        truth.update(zip(item.batch.image_ids, item.batch.masks.numpy(), strict=True))

    found: dict[str, Evaluation] = {}
    bar, stage = progress_bar("background points", len(plans))
    with bar:
        for name, variant in plans.items():
            observer = on_batch if name == "fg" else None
            experiment = variant.experiment(among_others=True)
            found[name] = experiment.run(dataset, batch_size=config.batch_size, on_batch=observer)
            (folder / "runs" / name).mkdir(parents=True)
            write(variant, found[name], folder / "runs" / name)
            bar.advance(stage)
    drawn = dataset.dataset if isinstance(dataset, FirstImages) else dataset
    if isinstance(drawn, Shapes):
        known = {drawn[index].image_id: {"opacity": drawn.draw(index).opacity} for index in range(len(dataset))}
    else:
        known = {}
    all_facts = pd.concat(facts).join(pd.DataFrame.from_dict(known, orient="index"))
    bounds = {name for name, variant in plans.items() if variant.upper_bound}
    text = _write(folder, found, bounds, all_facts, truth)
    write_finished(folder)
    console.print(text, soft_wrap=True, markup=False)
    console.print(folder, soft_wrap=True)


def _write(
    folder: Path,
    found: Mapping[str, Evaluation],
    bounds: Set[str],
    facts: pd.DataFrame,
    truth: Mapping[str, np.ndarray],
) -> str:
    """Tables, figures and ``study.md``; returns its text."""
    ious = {name: evaluation.per_image.set_index("image_id")["iou"] for name, evaluation in found.items()}
    table = report.compare(ious, bounds=bounds)
    table.to_csv(folder / "runs.csv", index=False)
    delta = (ious["fgbg"] - ious["fg"]).dropna()
    quartiles = report.by_quartile(delta, facts.reindex(delta.index))
    quartiles.to_csv(folder / "quartiles.csv", index=False)
    names = ("fgbg", "fgbg-threshold-doubled", "fgbg-farthest", "ring-4")
    places = {name: report.background_places(found[name].predictions) for name in names}
    compared = ("fg", "fgbg", "ring-4", "ring-8", "fg-one-point", "fg-25-points", "box")
    wrong = {name: report.errors(found[name].predictions, truth) for name in compared}
    rows = table.set_index("run").to_dict("index")
    figures = folder / "figures"
    report.draw_places(places, figures / "places.png")
    report.draw_change(delta, figures / "change.png")
    curves: dict[str, list[tuple[int, Mapping[Any, Any]]]] = {
        placement: [(n, rows["fgbg" if (placement, n) == ("extreme", 4) else f"{placement}-{n}"]) for n in COUNTS]
        for placement in ("extreme", "ring")
    }
    report.draw_counts(curves, figures / "counts.png")
    report.draw_quartiles(quartiles, figures / "quartiles.png")
    unmoved = report.unmoved(places["fgbg"], places["fgbg-threshold-doubled"])
    tail = delta.sort_values()
    sections = [
        "# Background points",
        "## Every run against fg",
        markdown_table(*report.comparison_cells(table)),
        f"- {BOUND_NOTE}",
        "## Where the points fall",
        *(
            f"- {name}: {table['corner'].mean():.1%} in a corner, {table['edge'].mean():.1%} at a side, "
            f"{found[name].per_image['bg_hit_rate'].mean():.1%} off the object"
            for name, table in places.items()
        ),
        f"- the same points with the threshold doubled: {unmoved:.1%} of the images",
        "## Who loses (fgbg − fg)",
        f"- mean {delta.mean():+.4f}, median {delta.median():+.4f}; worse {(delta < -0.01).mean():.1%}, "
        f"better {(delta > 0.01).mean():.1%}, within ±0.01 {(delta.abs() <= 0.01).mean():.1%}",
        f"- the worst 5 % of the images make up {tail.head(len(tail) // 20).sum() / len(tail):+.4f} of the mean, "
        f"the best 5 % {tail.tail(len(tail) // 20).sum() / len(tail):+.4f}",
        "## Pixels",
        *(
            f"- {name}: {table['extra'].mean():.2f} px too many, {table['missed'].mean():.2f} px missed"
            for name, table in wrong.items()
        ),
        "## When it happens",
        markdown_table(*report.quartile_cells(quartiles)),
    ]
    text = "\n\n".join(sections[:1]) + "".join(
        ("\n" if part.startswith("- ") and before.startswith("- ") else "\n\n") + part
        for before, part in pairwise(sections)
    )
    (folder / "study.md").write_text(text + "\n", encoding="utf-8")
    return text
