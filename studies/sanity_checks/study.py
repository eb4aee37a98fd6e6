"""This module makes the study's runs, one for each step of the cascade, and writes down what they say.

The heatmaps explain the true class throughout, so that only the classifier's weights change.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from gradsam_exp.app.composing import compose
from gradsam_exp.classifiers.checkpoints import save_classifier
from gradsam_exp.console import console
from gradsam_exp.engine.plan import Plan, plan
from gradsam_exp.engine.session import RUNNING, Job, Session
from gradsam_exp.errors import InputError
from gradsam_exp.reports.tables import P_NOTE, markdown_table
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.stored import readers_store, stored_heatmaps
from gradsam_exp.runs.units import Units
from studies.finished import is_below
from studies.sanity_checks.cascade import blocks_of, randomised, untrained
from studies.sanity_checks.findings import TRAINED, compared, draw_cascade, sanity_cells
from studies.variants import common_overrides, key_of, new_folder, run_variant

CHOSEN = ("explainer.target", "task", "experiment", "hydra")


def run_study(overrides: Sequence[str]) -> Path:
    """Make a run of the trained classifier and one of each step; write tables and a figure; returns their folder.

    Args:
        overrides: as for ``run.py``; they hold for all runs, and ``model`` chooses the trained classifier.

    Raises:
        InputError: before any model is read, if something given is wrong, the images have no true masks, the store
            is switched off, or the network cannot be built anew.
    """
    common = (*common_overrides("sanity_checks", overrides, CHOSEN), "explainer.target=label")
    config = compose(common)
    store = readers_store(config.store)
    if store is None:
        raise InputError("store.enabled=false: the study reads heatmaps from the store; leave it on")
    folder, session = new_folder(config), Session()
    runs = folder / "runs"
    first = Job(runs / TRAINED, common, sweep=runs, session=session)
    planned = plan(config, first)
    if any(example.mask is None for example in planned.dataset[0].examples):
        raise InputError(f"data={config.data['name']} has no true masks, so that there is no mIoU")
    fresh = untrained(planned.classifier.outline(), config.seed).backbone.state_dict()
    console.print(f"{TRAINED}: mIoU {run_variant(config, first):.4f}")
    made = {TRAINED: Run(first.folder)}
    for step, path in _cascade(planned, fresh, folder / "weights"):
        own = (*_without_model(common), *_model_of(planned, common, path))
        job = Job(runs / step, own, sweep=runs, session=session)
        console.print(f"random down to {step}: mIoU {run_variant(compose(own), job):.4f}")
        made[step] = Run(job.folder)
        path.unlink()
    shutil.rmtree(folder / "weights")
    shutil.rmtree(runs / RUNNING, ignore_errors=True)
    names = made[TRAINED].images.index
    table = compared(made, {step: stored_heatmaps(run, store, names) for step, run in made.items()})
    table.to_csv(folder / "sanity.csv", index=False)
    draw_cascade(table, folder / "sanity.png")
    notes = ["each step makes one block more random, from the output down, and keeps those before it", P_NOTE]
    notes += filter(None, [Units.of(made[TRAINED].images).note])
    text = "\n\n".join(
        ["# Sanity checks of heatmaps", markdown_table(*sanity_cells(table)), "\n".join(f"- {n}" for n in notes)]
    )
    (folder / "sanity.md").write_text(text + "\n", encoding="utf-8")
    console.print(f"\n{text}\n{folder}", soft_wrap=True, markup=False)
    return folder


def _cascade(planned: Plan, fresh: Mapping[str, Tensor], folder: Path) -> Iterator[tuple[str, Path]]:
    """Save the classifier after each step of the cascade; gives the step's name and the file."""
    classifier = planned.classifier.load()
    blocks = blocks_of(classifier.backbone)
    trained = {name: value.clone() for name, value in classifier.backbone.state_dict().items()}
    folder.mkdir(parents=True)
    for block, state in zip(blocks, randomised(trained, fresh, blocks), strict=True):
        classifier.backbone.load_state_dict(state)
        yield block[0], save_classifier(classifier, folder / f"{block[0]}.safetensors", exact=True)


def _without_model(overrides: Sequence[str]) -> list[str]:
    return [override for override in overrides if not is_below(key_of(override), ["model"])]


def _model_of(planned: Plan, overrides: Sequence[str], path: Path) -> list[str]:
    """Overrides that choose a file for the trained classifier, with the same layers, layout and classes."""
    model, layers = planned.config.model, planned.config.explainer.get("target_layers")
    chosen = ["model=checkpoint", f"model.checkpoint='{path.resolve()}'", f"model.layout={model['layout']}"]
    if layers:
        chosen.append("model.layers=[" + ",".join(f"'{layer}'" for layer in layers) + "]")
    joined = [override for override in overrides if key_of(override) == "model.map"]
    return [*chosen, *(f"+{override.lstrip('+')}" for override in joined)]
