"""This module makes the study's runs and writes down what they say.

Every run is one of ``task=evaluate``. The heatmaps, the segmenter and the images are those that the overrides
choose; the prompts and the selector are the study's own.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gradsam_exp.app.composing import compose
from gradsam_exp.config import Config
from gradsam_exp.console import console
from gradsam_exp.data.base import ExampleDataset, Limited
from gradsam_exp.data.shapes import Shapes
from gradsam_exp.engine.plan import plan
from gradsam_exp.engine.session import RUNNING, Job, Session
from gradsam_exp.errors import InputError
from gradsam_exp.reports.tables import BOUND_NOTE, P_NOTE, markdown_table
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.sweep import collect_runs, notes_on_units, with_comparison
from gradsam_exp.runs.units import Units
from studies.background_points import findings
from studies.background_points.by_hit import by_hit, hit_cells
from studies.variants import common_overrides, new_folder, run_variant

COUNTS = (1, 2, 4, 8)
CHOSEN = ("pipeline", "selector", "task", "experiment")
SELECTORS = ("single", "heatmap_agreement", "oracle")


def variants(config: Config) -> dict[str, tuple[str, ...]]:
    """Name every run and give its overrides; all are compared with ``fg``.

    Raises:
        InputError: if a threshold is a rule, which cannot be doubled.
    """
    for knob in ("fg_threshold", "bg_threshold"):
        if not isinstance(given := getattr(config, knob), float):
            raise InputError(f"{knob}={given!r}: the study doubles thresholds, give a number")
    fg, fgbg, one = "pipeline=fg", "pipeline=fgbg", "grid_size=1"
    doubled = min(2 * config.bg_threshold, config.fg_threshold - 0.01)
    ring = "pipeline.placement=ring"
    return {
        "fg": (fg,),
        "fgbg": (fgbg,),
        "fgbg-threshold-doubled": (fgbg, f"bg_threshold={doubled}"),
        "fgbg-median": (fgbg, "pipeline.tie=median"),
        "fgbg-farthest": (fgbg, "pipeline.tie=farthest"),
        **{f"extreme-{n}": (fgbg, f"pipeline.n={n}") for n in COUNTS if n != 4},
        **{f"ring-{n}": (fgbg, f"pipeline.n={n}", ring) for n in COUNTS},
        "fg-25-points": (fg, "grid_size=5"),
        "fg-one-point": (fg, one),
        "fgbg-one-point": (fgbg, one),
        "ring-4-one-point": (fgbg, one, ring),
        **{f"fg-{name}": (fg, f"selector={name}") for name in SELECTORS},
        **{f"fgbg-{name}": (fgbg, f"selector={name}") for name in SELECTORS},
        "adaptive": ("pipeline=adaptive",),
        "box": ("pipeline=box",),
    }


def run_study(overrides: Sequence[str]) -> Path:
    """Make every run, compare them with ``fg``, and write ``study.md``, tables and figures; returns their folder.

    Args:
        overrides: as for ``run.py``; they hold for all runs.

    Raises:
        InputError: before any model is read, if something given is wrong, or the images have no true masks.
    """
    common = common_overrides("background_points", overrides, CHOSEN)
    chosen = {name: (*common, *own) for name, own in variants(compose(common)).items()}
    oracle = compose(chosen["fg-oracle"])
    folder = new_folder(oracle)
    runs, session = folder / "runs", Session()
    jobs = {name: Job(runs / name, own, sweep=runs, session=session) for name, own in chosen.items()}
    dataset = plan(oracle, jobs["fg-oracle"]).dataset  # refuses what is wrong, and images without true masks
    configs = {name: compose(own) for name, own in chosen.items()}
    for name, job in jobs.items():
        miou = run_variant(configs[name], job)
        console.print(f"{name}: mIoU {miou:.4f}")
    shutil.rmtree(runs / RUNNING, ignore_errors=True)
    text = write_findings(folder, list(jobs), dataset)
    console.print(f"\n{text}\n{folder}", soft_wrap=True)
    return folder


def write_findings(folder: Path, names: Sequence[str], dataset: ExampleDataset) -> str:
    """Write tables, figures and ``study.md`` from the files of finished runs; returns the text.

    Args:
        folder: the study's; the runs are in ``runs/<name>/``.
        names: the runs'.
        dataset: the images that they were made on, with true masks.
    """
    runs = Runs(folder / "runs", [Run(folder / "runs" / name) for name in names])
    per_image = {name: runs[name].images for name in names}
    predictions = {name: runs[name].predictions.reset_index() for name in names}
    table = with_comparison(runs, collect_runs(runs), "fg")
    facts, truth = facts_and_truth(dataset)
    delta = (per_image["fgbg"]["iou"] - per_image["fg"]["iou"]).dropna()
    units = pd.Series(Units.of(per_image["fg"]).names, index=per_image["fg"].index)
    quartiles = findings.by_quartile(delta, facts.reindex(delta.index), units)
    hits = by_hit(per_image["fg"], per_image["fgbg"])
    table.to_csv(folder / "runs.csv", index=False)
    hits.to_csv(folder / "hits.csv", index=False)
    quartiles.to_csv(folder / "quartiles.csv", index=False)
    placed = ("fgbg", "fgbg-threshold-doubled", "fgbg-farthest", "ring-4")
    places = {name: findings.background_places(predictions[name]) for name in placed}
    compared = ("fg", "fgbg", "ring-4", "ring-8", "fg-one-point", "fg-25-points", "box")
    wrong = {name: findings.errors(predictions[name], truth) for name in compared}
    _draw(folder / "figures", table, delta, quartiles, places)
    tail, twentieth = delta.sort_values() / len(delta), len(delta) // 20
    unmoved = findings.unmoved(places["fgbg"], places["fgbg-threshold-doubled"])
    sections = [
        "# Background points",
        "## Every run against fg",
        markdown_table(*findings.comparison_cells(table)),
        *(f"- {note}" for note in (BOUND_NOTE, P_NOTE, *notes_on_units(runs, table))),
        "## Where the points fall",
        *(
            f"- {name}: {own['corner'].mean():.1%} in a corner (within {findings.NEAR} px; exactly in it "
            f"{own['exact'].mean():.1%}), {own['edge'].mean():.1%} at a side, "
            f"{per_image[name]['bg_hit_rate'].mean():.1%} off the object"
            for name, own in places.items()
        ),
        f"- the same points with the threshold doubled: {unmoved:.1%} of the images",
        "## Who loses (fgbg − fg)",
        f"- mean {delta.mean():+.4f}, median {delta.median():+.4f}; worse {(delta < -0.01).mean():.1%}, "
        f"better {(delta > 0.01).mean():.1%}, within ±0.01 {(delta.abs() <= 0.01).mean():.1%}",
        f"- the worst 5 % of the images make up {tail.head(twentieth).sum():+.4f} of the mean, "
        f"the best 5 % {tail.tail(twentieth).sum():+.4f}",
        "## Who loses, by where the points fall and whether fg succeeds",
        markdown_table(*hit_cells(hits)),
        "## Pixels",
        *(
            f"- {name}: {own['extra'].mean():.2f} px too many, {own['missed'].mean():.2f} px missed"
            for name, own in wrong.items()
        ),
        "## When it happens",
        markdown_table(*findings.quartile_cells(quartiles)),
    ]
    text = sections[0] + "".join(
        ("\n" if part.startswith("- ") and before.startswith("- ") else "\n\n") + part
        for before, part in pairwise(sections)
    )
    (folder / "study.md").write_text(text + "\n", encoding="utf-8")
    return text


def facts_and_truth(dataset: ExampleDataset) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Collect every image's true mask and the facts of its object (`findings.object_facts`), by ``example_id``.

    The facts of drawn shapes include their opacity, in [0.6, 1].
    """
    source = dataset.dataset if isinstance(dataset, Limited) else dataset
    facts: dict[str, dict[str, float | int]] = {}
    truth: dict[str, np.ndarray] = {}
    for index in range(len(dataset)):
        sample = dataset[index]
        mask = sample.examples[0].mask
        assert mask is not None
        truth[sample.image_id] = mask.numpy()
        facts[sample.image_id] = findings.object_facts(sample.image.numpy(), truth[sample.image_id])
        if isinstance(source, Shapes):
            facts[sample.image_id]["opacity"] = source.draw(index).opacity
    return pd.DataFrame.from_dict(facts, orient="index"), truth


def _draw(
    folder: Path,
    table: pd.DataFrame,
    delta: pd.Series,
    quartiles: pd.DataFrame,
    places: Mapping[str, pd.DataFrame],
) -> None:
    """Draw the four figures; the arguments are those of `findings`."""
    rows = table.set_index("job").to_dict("index")
    curves: dict[str, list[tuple[int, Mapping[Any, Any]]]] = {
        placement: [(n, rows["fgbg" if (placement, n) == ("extreme", 4) else f"{placement}-{n}"]) for n in COUNTS]
        for placement in ("extreme", "ring")
    }
    findings.draw_places(places, folder / "places.png")
    findings.draw_change(delta, folder / "change.png")
    findings.draw_counts(curves, folder / "counts.png")
    findings.draw_quartiles(quartiles, folder / "quartiles.png")
