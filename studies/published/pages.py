"""This module says which runs the pages' tables are made of, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gradsam_exp.reports.tables import is_unknown, markdown_table
from gradsam_exp.runs.finding import as_override
from studies.published.figures import draw_differences
from studies.published.tables import difference, number, runs_of, side_by_side

Made = dict[str, Path]
"""The folder of each sweep."""
Runs = list[dict[Any, Any]]
SAMS = ("compact", "compact_drawn")
BACKGROUNDS = ("mixed", "cifar10")
TIERS = ("standard", "faint", "leaky", "crowded")
_EACH = ("sam=compact,compact_drawn", "compare_within=[sam]")


@dataclass(frozen=True)
class Sweep:
    """A sweep is one command.

    Attributes:
        overrides: of ``run.py``.
        study: makes the runs of `studies.background_points` instead.
        on_photographs: needs BSDS500 as ``data.root``.
        chosen_from: the sweep on val, whose best runs these are on test; its overrides are made of them.
    """

    overrides: tuple[str, ...]
    study: bool = False
    on_photographs: bool = False
    chosen_from: str = ""

    @property
    def table(self) -> str:
        """Return the name of the file that it ends in."""
        return "runs.csv" if self.study else "sweep.csv"

    def command(self, to: Path, photographs: str, more: Sequence[str]) -> list[str]:
        """Return the command line, without ``python``."""
        start = ["-m", "studies.background_points"] if self.study else ["run.py", "-m", "resume=true"]
        own = [f"data.root={photographs}"] if self.on_photographs else []
        return [*start, "logger=none", f"output_root={to}", *self.overrides, *own, *more]


SWEEPS: Mapping[str, Sweep] = {
    **{
        f"strategies-{b}": Sweep(("experiment=strategies", "split=test", f"background={b}", *_EACH))
        for b in BACKGROUNDS
    },
    **{
        f"one-point-{b}": Sweep(
            ("pipeline=fg,fgbg,box_points", "grid_size=3,1", "split=test", f"background={b}", *_EACH)
        )
        for b in BACKGROUNDS
    },
    **{
        f"oracles-{b}": Sweep(
            ("experiment=oracles", "explainer.target=predicted,label", f"background={b}", *_EACH)
        )
        for b in BACKGROUNDS
    },
    **{
        f"study-{sam}-{b}": Sweep((f"sam={sam}", f"background={b}"), study=True)
        for sam in SAMS
        for b in BACKGROUNDS
    },
    "explainers": Sweep(("experiment=explainers", *_EACH)),
    **{f"layers-{b}": Sweep(("experiment=layers", f"background={b}", *_EACH)) for b in BACKGROUNDS},
    "tiers": Sweep(("experiment=published",)),
    "tiers-val": Sweep(("experiment=choice",)),
    "tiers-chosen": Sweep((), chosen_from="tiers-val"),
    "photographs": Sweep(("experiment=photographs",), on_photographs=True),
}


@dataclass(frozen=True)
class Table:
    """A table needs sweeps, and is made of their folders."""

    needs: tuple[str, ...]
    make: Callable[[Made], str]


def by_condition(made: Made, sweep: str) -> dict[str, Runs]:
    """Give the runs of each segmenter and background of the sweeps ``NAME-BACKGROUND``."""
    return {f"`{sam}`, {b}": runs_of(made[f"{sweep}-{b}"], sam) for sam in SAMS for b in BACKGROUNDS}


STRATEGIES = (
    "fg", "fgbg", "argmax", "argmax_corner", "topk_smoothed", "topk_far", "multi_peak", "box", "box_points",
    "mask", "cascade", "adaptive", "grid_match", "center", "oracle_heatmap", "oracle", "oracle_box",
)  # fmt: skip


def strategies(made: Made) -> str:
    """Show every strategy, in the order of its mean mIoU."""
    columns = by_condition(made, "strategies")
    mean = {
        name: sum(run["miou"] for runs in columns.values() for run in runs if run["pipeline"] == name)
        for name in STRATEGIES
    }
    rows = {f"`{name}`": {"pipeline": name} for name in sorted(STRATEGIES, key=lambda name: -mean[name])}
    return side_by_side(columns, rows, title="`pipeline=`")


def one_point(made: Made) -> str:
    """Show nine points and one, alone, with background points, and with the box."""
    rows = {
        f"`{pipeline}`, {'one point' if size == '1' else 'nine points'}": {"pipeline": pipeline, "grid_size": size}
        for pipeline in ("fg", "fgbg", "box_points")
        for size in ("3", "1")
    }
    return side_by_side(by_condition(made, "one-point"), rows, title="prompts")


def bounds(made: Made) -> str:
    """Show hit rate and distance of the points with the mIoU of what bounds them."""
    body = []
    for name in ("fg", "fgbg", "center", "oracle"):
        for condition, runs in by_condition(made, "strategies").items():
            run = next(run for run in runs if run["pipeline"] == name)
            bound = " (upper bound)" if name == "oracle" else ""
            body.append(
                [f"`{name}`{bound}", condition, *(number(run, m) for m in ("fg_hit_rate", "distance_px", "miou"))]
            )
    return markdown_table(["pipeline", "segmenter, background", "fg hit rate", "distance px", "mIoU"], body)


STUDY = (
    "fg", "fgbg", "fgbg-threshold-doubled", "extreme-1", "extreme-2", "extreme-8", "ring-1", "ring-2", "ring-4",
    "ring-8", "fg-25-points", "fg-one-point", "fgbg-one-point", "ring-4-one-point", "fg-single", "fg-oracle",
    "fgbg-oracle", "adaptive", "box",
)  # fmt: skip


def study(made: Made) -> str:
    """Show the study's runs against ``fg``."""
    columns = {
        f"`{sam}`, {b}": pd.read_csv(made[f"study-{sam}-{b}"] / "runs.csv").to_dict("records")
        for sam in SAMS
        for b in BACKGROUNDS
    }
    return side_by_side(columns, {f"`{name}`": {"job": name} for name in STUDY}, title="run")


STAGES = {
    "fg": ("fg", "predicted_iou", "predicted"),
    "+ class: explain the true one instead of the predicted": ("fg", "predicted_iou", "label"),
    "+ heatmap: the same nine points on the true mask": ("oracle_heatmap", "predicted_iou", "label"),
    "+ prompt: one click at the true centre of mass": ("oracle", "predicted_iou", "label"),
    "+ selection: the best of three masks": ("oracle", "oracle", "label"),
    "instead of the click: the true box, best of three": ("oracle_box", "oracle", "label"),
}


def stages(made: Made) -> str:
    """Show where the rest is lost: one stage after the other replaced by the truth."""
    columns = {condition: _at_stages(runs) for condition, runs in by_condition(made, "oracles").items()}
    body = []
    for name in STAGES:
        cells = []
        for at in columns.values():
            names = list(STAGES)
            before = names[names.index(name) - 1] if name != "fg" else name
            step = at[name] - at[before]
            cells.append(f"{at[name]:.3f}" + (f" ({step:+.3f})".replace("-", "−") if name != "fg" else ""))
        body.append([name, *cells])
    own = [f"{1 - at['+ selection: the best of three masks']:.3f}" for at in columns.values()]
    return markdown_table(["stage", *columns], [*body, ["the segmenter's own: what is missing to 1", *own]])


def _at_stages(runs: Runs) -> dict[str, float]:
    """Find the mIoU of each stage; runs that do not look at the class are made once for both targets."""
    found = {(run["pipeline"], run["selector"], run["explainer.target"]): float(run["miou"]) for run in runs}
    return {
        name: found[stage] if stage in found else found[(*stage[:2], "predicted")]
        for name, stage in STAGES.items()
    }


def explainers(made: Made) -> str:
    """Show every explainer with ``fg``, in the order of the first segmenter's mIoU."""
    columns = {f"`{sam}`": runs_of(made["explainers"], sam) for sam in SAMS}
    first = sorted(columns[f"`{SAMS[0]}`"], key=lambda run: -run["miou"])
    rows = {f"`{run['explainer']}`": {"explainer": run["explainer"]} for run in first}
    return side_by_side(columns, rows, title="`explainer=`")


def layers(made: Made) -> str:
    """Show the layers of ResNet-18."""
    columns = by_condition(made, "layers")
    key = "explainer.target_layers"
    names = dict.fromkeys(str(run[key]) for runs in columns.values() for run in runs)
    return side_by_side(columns, {f"`{name}`": {key: name} for name in names}, title="`explainer.target_layers=`")


KNOBS = (
    "grid_size",
    "grid_offset",
    "pipeline.box_threshold",
    "pipeline.threshold",
    "fg_threshold",
    "explainer",
    "refine",
)


def photographs(made: Made) -> str:
    """Show everything that was tried on photographs, in the order of its mIoU; beside it the other segmenter."""
    runs = runs_of(made["photographs"])
    others = {_setting(run): run for run in runs if run["sam"] == "compact_drawn"}
    body = []
    for run in sorted((run for run in runs if run["sam"] != "compact_drawn"), key=lambda run: -run["miou"]):
        bound = " (upper bound)" if run.get("upper_bound") is True else ""
        own = others.get(_setting(run)) if run["sam"] == "compact" else None
        shown = [
            number(run, name, interval=False, digits=2) for name in ("mask_recall", "mask_precision", "leak_rate")
        ]
        drawn = "" if own is None else number(own, "miou", interval=False)
        body.append(
            [f"`{_setting(run)}`{bound}", f"`{run['sam']}`", number(run, "miou"), difference(run), *shown, drawn]
        )
    headings = [
        "prompts",
        "`sam=`",
        "mIoU",
        "Δ to the first",
        "mask recall",
        "mask precision",
        "leaks",
        "`compact_drawn`",
    ]
    return markdown_table(headings, body)


def _setting(run: Mapping[Any, Any]) -> str:
    """Write a run's pipeline and the knobs that it was given."""
    given = [f"{key}={as_override(run[key])}" for key in KNOBS if key in run and not is_unknown(run[key])]
    return " ".join([str(run["pipeline"]), *given])


SOURCE = ("pipeline", "sam", "fg_threshold", "refine")
"""What tells the runs of one tier and segmenter from one another."""


def tier(sam: str) -> Callable[[Made], str]:
    """Show every strategy, and what needs no SAM, on every tier with one segmenter, in the order of the means."""

    def make(made: Made) -> str:
        columns = {name: runs_of(made["tiers"], f"{sam} · {name}") for name in TIERS}
        rows = {
            f"`{_with_sam(run, sam)}`": {key: str(run.get(key)) for key in SOURCE} for run in columns["standard"]
        }
        mean = {
            name: sum(
                run["miou"] for runs in columns.values() for run in runs if f"`{_with_sam(run, sam)}`" == name
            )
            for name in rows
        }
        ordered = {name: rows[name] for name in sorted(rows, key=lambda name: -mean[name])}
        return side_by_side(columns, ordered, title="`pipeline=`")

    return make


def _with_sam(run: Mapping[Any, Any], sam: str) -> str:
    """Write a run's pipeline and, of one without the table's segmenter, what it was given."""
    return str(run["pipeline"]) if run["sam"] == sam else f"{_setting(run)} sam={run['sam']}"


YARDSTICKS = ("center", "oracle", "oracle_box")
SURE = 0.01


def best(made: Made) -> str:
    """Name the best automatic strategy of each tier and segmenter, and count those that differ from ``fg``."""
    body = []
    for name in TIERS:
        for sam in SAMS:
            own = runs_of(made["tiers"], f"{sam} · {name}")
            automatic = [run for run in own if run["sam"] == sam and run["pipeline"] not in YARDSTICKS]
            sure = [run for run in automatic if run["p"] < SURE]
            better = sum(run["delta_miou"] > 0 for run in sure)
            first = max(automatic, key=lambda run: run["miou"])
            bare = max((run for run in own if run["sam"] != sam), key=lambda run: run["miou"])
            body.append(
                [name, f"`{sam}`", *_shown(first, sam), f"{better} + {len(sure) - better}", *_shown(bare, sam)[:2]]
            )
    headings = [
        "tier",
        "`sam=`",
        "best",
        "mIoU, Δ to `fg`",
        "p (Holm)",
        "better + worse, p < 0.01",
        "best without SAM",
        "mIoU, Δ",
    ]
    return markdown_table(headings, body)


def chosen(made: Made) -> str:
    """Show what was chosen on val, and what it is worth on test."""
    body = []
    for name in TIERS:
        for sam in SAMS:
            own = runs_of(made["tiers-chosen"], f"{sam} · {name}")
            asked = [run for run in own if run["sam"] == sam]
            kept = asked[-1]  # the first is the baseline, and the choice if nothing is better
            bare = next(run for run in own if run["sam"] != sam)
            body.append([name, f"`{sam}`", *_shown(kept, sam), *_shown(bare, sam)])
    headings = [
        "tier",
        "`sam=`",
        "chosen on val",
        "test: mIoU, Δ to `fg`",
        "p (Holm)",
        "chosen without SAM",
        "mIoU, Δ",
        "p",
    ]
    return markdown_table(headings, body)


def _shown(run: Mapping[Any, Any], sam: str) -> list[str]:
    """Write a run's setting, its mIoU with the difference, and p."""
    written = _setting(run) + ("" if run["sam"] == sam else f" sam={run['sam']}")
    p = "" if is_unknown(run.get("p")) else f"{run['p']:.2g}"
    return [f"`{written}`", " ".join(filter(None, (f"{run['miou']:.3f}", difference(run)))), p]


def _of_both(sweep: str) -> tuple[str, ...]:
    return tuple(f"{sweep}-{b}" for b in BACKGROUNDS)


SHOWN = ("fg", "fgbg", "box", "box_points", "center", "oracle")


def readme(made: Made) -> str:
    """Show a few strategies on shapes with both segmenters, and on photographs."""
    columns = {f"shapes, `{sam}`": runs_of(made["strategies-mixed"], sam) for sam in SAMS}
    photographed = [run for run in runs_of(made["photographs"]) if run["sam"] == "compact"]
    columns["photographs, `compact`"] = [
        run
        for run in photographed
        if _setting(run) in {*SHOWN, "box pipeline.box_threshold=0.3", "box_points pipeline.box_threshold=0.3"}
    ]
    shown = {"oracle": "`oracle` (a true click)"}
    rows = {shown.get(name, f"`{name}`"): {"pipeline": name} for name in SHOWN}
    return side_by_side(columns, rows, title="`pipeline=`")


PAGES: Mapping[str, Mapping[str, Table]] = {
    "README.md": {"main": Table(("strategies-mixed", "photographs"), readme)},
    "docs/results.md": {
        "bounds": Table(_of_both("strategies"), bounds),
        "strategies": Table(_of_both("strategies"), strategies),
        "explainers": Table(("explainers",), explainers),
        "layers": Table(_of_both("layers"), layers),
    },
    "docs/background-points.md": {
        "study": Table(tuple(f"study-{sam}-{b}" for sam in SAMS for b in BACKGROUNDS), study),
        "one-point": Table(_of_both("one-point"), one_point),
        "stages": Table(_of_both("oracles"), stages),
    },
    "docs/photographs.md": {
        "photographs": Table(("photographs",), photographs),
    },
    "docs/strategies.md": {
        "tiers-best": Table(("tiers",), best),
        "tiers-chosen": Table(("tiers-val", "tiers-chosen"), chosen),
        **{f"tiers-{sam}": Table(("tiers",), tier(sam)) for sam in SAMS},
    },
}


DRAWN = (
    "fgbg",
    "argmax",
    "mask",
    "cascade",
    "box",
    "box_points",
    "center",
    "oracle",
    "oracle_heatmap",
    "oracle_box",
)


def photographs_and_shapes(made: Made, path: Path) -> Path:
    """Draw what strategies change on photographs and on shapes."""
    photographed = {_setting(run): run for run in runs_of(made["photographs"]) if run["sam"] == "compact"}
    boxes = {name: f"{name} pipeline.box_threshold=0.3" for name in ("box", "box_points")}
    conditions = {"photographs, compact": {name: photographed[boxes.get(name, name)] for name in DRAWN}}
    for sam in SAMS:  # the centre is so far behind on shapes that nothing else would be seen
        runs = runs_of(made["strategies-mixed"], sam)
        names = [name for name in DRAWN if name != "center"]
        conditions[f"shapes, {sam}"] = {name: next(r for r in runs if r["pipeline"] == name) for name in names}
    return draw_differences(conditions, path)


def named() -> list[str]:
    """Name all tables."""
    return [name for tables in PAGES.values() for name in tables]
