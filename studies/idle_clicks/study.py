"""This module trains the arms, makes the study's runs with each, and writes down what they say."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import pandas as pd

from gradsam_exp.app.composing import compose
from gradsam_exp.console import console
from gradsam_exp.engine.session import RUNNING, Job, Session
from gradsam_exp.errors import InputError
from gradsam_exp.reports.tables import markdown_table
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.units import Units
from studies.finished import is_below
from studies.idle_clicks.arms import ARMS, Arm, recipe, train_arm
from studies.idle_clicks.findings import compared, dose_cells, draw_doses, measured
from studies.variants import common_overrides, key_of, new_folder, run_variant

NAME = "idle_clicks"
CHOSEN = ("pipeline", "task", "experiment", "data", "background", "sam", "resume", "hydra")
GROUNDS = {
    "standard, mixed": ("background=mixed",),
    "standard, cifar10": ("background=cifar10",),
    "leaky": ("data.difficulty=leaky", "background=mixed_more"),
}
PROMPTS = {
    "fg": ("pipeline=fg",),
    "fgbg": ("pipeline=fgbg",),
    "ring-4": ("pipeline=fgbg", "pipeline.n=4", "pipeline.placement=ring"),
}
PICTURES = "task.pictures={name: cifar10, root: '${cifar10_root}'}"


def run_study(overrides: Sequence[str], *, seeds: int = 3) -> Path:
    """Train every arm, evaluate it, and write ``idle.md``, ``idle.csv`` and a figure; returns their folder.

    Arms whose weights are there are not trained again, and finished runs are taken from there.

    Args:
        overrides: as for ``run.py``; those of ``task`` and ``trainer`` hold for the trainings, all others for the
            evaluations, and ``cifar10_root`` for both.
        seeds: how often each arm is trained.

    Raises:
        InputError: before anything is trained, if something given is wrong.
    """
    if seeds < 1:
        raise InputError(f"--seeds={seeds}: give at least 1")
    of_training = [one for one in overrides if "." in key_of(one) and is_below(key_of(one), ("task", "trainer"))]
    rest = [one for one in overrides if one not in of_training]
    common = (*common_overrides(NAME, rest, CHOSEN), "resume=true")
    config = compose(common)
    if config.cifar10_root is not None:
        of_training = [*(one for one in rest if key_of(one) == "cifar10_root"), PICTURES, *of_training]
    trainings = [(arm, seed) for seed in range(seeds) for arm in ARMS]
    recipes = {(arm, seed): recipe(of_training, arm, seed) for arm, seed in trainings}
    for ground, prompts in product(GROUNDS.values(), PROMPTS.values()):
        compose((*common, *ground, *prompts))
    weights = Path(config.output_root) / NAME / "arms"
    for (arm, seed), own in recipes.items():
        train_arm(own, arm.file(weights, seed))
    folder, session = new_folder(config), Session()
    tables = {
        ground: _evaluated((*common, *own), folder / "runs", ground, weights, seeds, session)
        for ground, own in GROUNDS.items()
    }
    shutil.rmtree(folder / "runs" / RUNNING, ignore_errors=True)
    text = write_findings(folder, tables, seeds)
    console.print(f"\n{text}\n{folder}", soft_wrap=True, markup=False)
    return folder


def _evaluated(
    common: Sequence[str], runs: Path, ground: str, weights: Path, seeds: int, session: Session
) -> Mapping[Arm, Sequence[Mapping[str, pd.DataFrame]]]:
    """Make all runs on one data set; gives each arm's per-example tables by training and prompts."""
    made: dict[Arm, list[dict[str, pd.DataFrame]]] = {arm: [] for arm in ARMS}
    for seed, arm in product(range(seeds), ARMS):
        path = arm.file(weights, seed)
        found = {}
        for name, prompts in PROMPTS.items():
            own = (*common, *prompts, "sam=compact_drawn", f"sam.checkpoint='{path.resolve()}'")
            job = Job(runs / f"{ground.replace(', ', '-')}_{path.stem}_{name}", own, sweep=runs, session=session)
            miou = run_variant(compose(own), job)
            console.print(f"{ground}, {path.stem}, {name}: mIoU {miou:.4f}")
            found[name] = Run(job.folder).images
        made[arm].append(found)
    return made


def write_findings(
    folder: Path, made: Mapping[str, Mapping[Arm, Sequence[Mapping[str, pd.DataFrame]]]], seeds: int
) -> str:
    """Write ``idle.md``, ``idle.csv``, ``idle.png`` and ``idle.pdf``; returns the text.

    Args:
        folder: for the files.
        made: by data set and arm, for each training the per-example tables by prompts.
        seeds: trainings of each arm.
    """
    tables, parts, notes = {}, ["# Idle clicks in a segmenter's training"], []
    for ground, arms in made.items():
        found = {arm: measured(runs) for arm, runs in arms.items()}
        units = next(iter(found.values()))[1]
        tables[ground] = compared({arm: values for arm, (values, _) in found.items()}, units)
        first: pd.DataFrame = next(iter(arms.values()))[0]["fg"]
        note = Units.of(first).note
        parts += [f"## {ground}, {len(first)} examples", markdown_table(*dose_cells(tables[ground]))]
        notes += [f"{ground}: {note}"] if note else []
    notes.insert(0, f"intervals are over {seeds} trainings of an arm and the images; from few they are too short")
    table = pd.concat([own.assign(ground=ground) for ground, own in tables.items()])
    table[["ground", *(name for name in table if name != "ground")]].to_csv(folder / "idle.csv", index=False)
    draw_doses(tables, folder / "idle.png")
    text = "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)])
    (folder / "idle.md").write_text(text + "\n", encoding="utf-8")
    return text
