"""These functions replace one stage of the chain after the other by the truth, and measure what each is worth.

The order is that of the chain, and a stage's worth depends on those before it: a better prompt is worth less on a
mask decoder that chooses wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradsam_exp.errors import InputError, warn
from gradsam_exp.reports.colours import SERIES
from gradsam_exp.reports.figures import save_figure, styled
from gradsam_exp.reports.tables import P_NOTE, is_unknown, markdown_table
from gradsam_exp.runs.finding import chosen
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.paired import holm, paired_difference
from gradsam_exp.runs.summary import summarize
from gradsam_exp.runs.units import COLUMNS, Units
from studies.finished import finished_runs

COMPARED = ("pipeline", "selector", "explainer.target")
"""What the runs of ``experiment=oracles`` differ in."""
START, REST = "fg", "masks"
LOSSES = {
    START: "fg",
    "class": "the classifier is wrong",
    "heatmap": "the heatmap misses",
    "prompt": "the prompt misses",
    "selection": "the wrong mask is chosen",
    REST: "no mask is right",
}
"""What a stage's part of the loss is called; of the last one, what the segmenter's best mask leaves."""
ORDER_NOTE = (
    "each stage is replaced by the truth after those above it: the true class is explained; fg's points on the "
    "true mask; a click at the true centre of mass or the true box, whichever is better; the best of SAM's masks"
)
_ACROSS = 3  # panels


def stages_of(runs: Sequence[Run]) -> dict[str, Run]:
    """Find the runs in which one stage after the other is the truth, by the names of `LOSSES`.

    Args:
        runs: on the same images, which differ in `COMPARED` only. There is a stage ``class`` if there are runs of
            ``explainer.target=predicted`` and of ``label``.

    Raises:
        InputError: a run is missing; says which.
    """
    settings = [[chosen(run.config, key) for key in COMPARED] for run in runs]
    usual = next((selector for _, selector, _ in settings if selector != "oracle"), "predicted_iou")

    def find(pipeline: str, selector: str | None = usual, target: str | None = None) -> Run | None:
        for run, (*own, explained) in zip(runs, settings, strict=True):
            if own == [pipeline, selector] and target in (None, explained):
                return run
        return None

    def needed(pipeline: str, selector: str | None = usual) -> Run:
        run = find(pipeline, selector)
        if run is None:
            raise InputError(
                f"there is no finished run of pipeline={pipeline} selector={selector}: python run.py "
                "experiment=oracles makes it"
            )
        return run

    predicted, labelled = (find("fg", target=target) for target in ("predicted", "label"))
    found = {START: predicted or labelled or needed("fg")}
    if predicted is not None and labelled is not None:
        found["class"] = labelled
    found["heatmap"] = needed("oracle_heatmap")
    prompts = {name: run for name in ("oracle", "oracle_box") if (run := find(name)) is not None}
    best = max(prompts, key=lambda name: prompts[name].images["iou"].mean(), default="oracle")
    return found | {"prompt": needed(best), "selection": needed(best, "oracle")}


def losses(stages: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Compute what each stage loses.

    Args:
        stages: per-example tables with ``iou``, by ``example_id``, as `stages_of` orders and names them.

    Returns:
        One row per stage: ``stage``, ``miou`` where it and those before it are the truth with ``miou_low`` and
        ``miou_high``, ``delta`` to the stage before with ``delta_low``, ``delta_high`` and sign-flip ``p``
        corrected by Holm, ``n`` examples: those that have an IoU in all stages. The last row, ``masks``, is what
        is missing to 1; all deltas and the mIoU of the first row add up to 1.

    Raises:
        InputError: no example has an IoU in all stages.
    """
    ious = pd.DataFrame({name: table["iou"] for name, table in stages.items()}).dropna()
    if not len(ious):
        raise InputError("the runs have no example with an IoU in common")
    first = next(iter(stages.values()))
    units = Units.of(first.loc[ious.index, [column for column in COLUMNS if column in first]]).names
    rows: list[dict[str, Any]] = []
    before = None
    for name in ious:
        own = ious[name].to_numpy()
        mean = summarize(own, units=units)
        row: dict[str, Any] = {"stage": name, "miou": mean.mean, **_ends("miou", mean.ci95), "n": len(own)}
        if before is not None:
            found = paired_difference(own, before, units=units)
            row |= {"delta": found.difference.mean, **_ends("delta", found.difference.ci95), "p": found.p}
        rows.append(row)
        before = own
    missing = summarize(1 - ious.iloc[:, -1].to_numpy(), units=units)
    rest = {"stage": REST, "miou": 1.0, "miou_low": 1.0, "miou_high": 1.0, "n": len(ious)}
    table = pd.DataFrame([*rows, {**rest, "delta": missing.mean, **_ends("delta", missing.ci95)}])
    table["p"] = holm(table["p"].tolist()) if "p" in table else float("nan")
    return table


def _ends(name: str, interval: tuple[float, float]) -> dict[str, float]:
    return dict(zip((f"{name}_low", f"{name}_high"), interval, strict=True))


def loss_cells(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Format `losses`' rows: headings and texts."""
    rows = []
    for row in table.to_dict("records"):
        rest, start = row["stage"] == REST, is_unknown(row["delta"])
        miou = "1" if rest else f"{row['miou']:.3f} [{row['miou_low']:.3f}, {row['miou_high']:.3f}]"
        delta = "" if start else f"{row['delta']:+.3f} [{row['delta_low']:+.3f}, {row['delta_high']:+.3f}]"
        p = "" if is_unknown(row["p"]) else f"{row['p']:.2g}"
        rows.append([LOSSES[row["stage"]], miou, delta, p, str(row["n"])])
    return ["loss", "mIoU without it", "Δ mIoU", "p (Holm)", "n"], rows


def write_losses(given: Sequence[str], to: Path) -> str:
    """Write ``losses.md``, ``losses.csv`` and the waterfalls ``losses.png|pdf``; returns the text.

    Args:
        given: folders of finished runs, or globs; data, segmenters and other settings have a table and panel each.
        to: a folder, which is made.

    Raises:
        InputError: no runs, or everywhere some that are needed are missing; else that is a warning.
    """
    groups, common = finished_runs(given, COMPARED)
    tables: dict[str, pd.DataFrame] = {}
    parts = ["# Which stage loses how much", *([common] if common else [])]
    problems: list[InputError] = []
    for alike in groups:
        try:
            stages = {name: run.images for name, run in stages_of(alike.runs).items()}
        except InputError as error:
            problems.append(error)
            continue
        tables[alike.name] = losses(stages)
        note = Units.of(stages[START]).note
        title = [f"## {alike.name}"] if alike.name else []
        parts += [*title, markdown_table(*loss_cells(tables[alike.name])), *([f"- {note}"] if note else [])]
    if not tables:
        raise problems[0]
    for problem in problems:
        warn(f"some runs are left out: {problem}")
    parts.append(f"- {ORDER_NOTE}\n- {P_NOTE}")
    text = "\n\n".join(parts)
    to.mkdir(parents=True, exist_ok=True)
    (to / "losses.md").write_text(text + "\n", encoding="utf-8")
    pd.concat([table.assign(runs=name) for name, table in tables.items()]).to_csv(to / "losses.csv", index=False)
    draw_losses(tables, to / "losses.png")
    return text


def draw_losses(tables: Mapping[str, pd.DataFrame], path: Path) -> Path:
    """Draw a waterfall for each of `losses`' tables, from the mIoU of fg up to 1; as PNG and PDF."""
    lowest = min(float(table["miou"].iloc[0]) for table in tables.values())
    floor = max(0.0, np.floor(20 * (lowest - 0.05)) / 20)
    across = min(len(tables), _ACROSS)
    down = -(-len(tables) // across)
    with styled():
        figure = Figure(figsize=(0.6 + 2.6 * across, 0.3 + 2.5 * down), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
        for axes, (name, table) in zip(panels, tables.items(), strict=False):
            _draw_waterfall(axes, table, floor)
            axes.set_title(name)
        for axes in panels[len(tables) :]:
            axes.set_visible(False)
        for axes in panels[::across]:
            axes.set_ylabel("mIoU")
        return save_figure(figure, path)


def _draw_waterfall(axes: Axes, table: pd.DataFrame, floor: float) -> None:
    after = table["miou"].to_numpy()
    before = np.r_[floor, after[:-1]]
    colours = [*("#8C8C8C" if stage == START else SERIES[0] for stage in table["stage"])]
    colours = [SERIES[1] if up < 0 else colour for up, colour in zip(after - before, colours, strict=True)]
    place = np.arange(len(table))
    bars = axes.bar(place, np.abs(after - before), bottom=np.minimum(before, after), color=colours, width=0.7)
    bars[-1].set(hatch="///", fill=False, edgecolor=SERIES[0])
    axes.hlines(after[:-1], place[:-1] + 0.35, place[1:] - 0.35, color="black", lw=0.6)
    for x, top, row in zip(place, np.maximum(before, after), table.to_dict("records"), strict=True):
        text = f"{row['miou']:.3f}" if is_unknown(row["delta"]) else f"{row['delta']:+.3f}"
        axes.annotate(text, (x, top), (0, 2), textcoords="offset points", ha="center", fontsize=6)
    axes.set(ylim=(floor, 1 + 0.08 * (1 - floor)), xticks=place)
    axes.set_yticks([tick for tick in axes.get_yticks() if floor <= tick <= 1 + 1e-9])
    axes.set_xticklabels(table["stage"], rotation=35, ha="right")
