"""Tables of the pages: made of sweeps, put where a page marks them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from gradsam_exp.errors import InputError
from gradsam_exp.reports.colours import BACKGROUND_POINT, FOREGROUND_POINT
from gradsam_exp.runs.finding import find_runs
from gradsam_exp.runs.folder import Run
from hydra_plugins.gradsam_exp_sweeper import Grids
from studies.published.__main__ import ROOT, main
from studies.published.choice import choices, command
from studies.published.choice import main as choice_main
from studies.published.pages import (
    DRAWN,
    PAGES,
    SAMS,
    SWEEPS,
    TIERS,
    best,
    chosen,
    named,
    photographs,
    photographs_and_shapes,
    stages,
    tier,
)
from studies.published.tables import difference, marked, number, put, runs_of, side_by_side
from tests.app.test_launchers import composed
from tests.reports.finished_runs import write_run

PAGE = (
    "# Title\n\n<!-- table: one -->\n| old |\n<!-- /table -->\n\nText\n\n<!-- table: two -->\n\n<!-- /table -->\n"
)


def run(**more):
    known = {
        "status": "finished",
        "miou": 0.5,
        "miou_low": 0.4,
        "miou_high": 0.6,
        "pipeline": "fg",
        "within": "compact",
    }
    return known | {"delta_miou": float("nan"), "delta_low": float("nan"), "delta_high": float("nan")} | more


def sweep(folder: Path, *runs: dict) -> Path:
    folder.mkdir()
    pd.DataFrame([{"job": str(k), **one} for k, one in enumerate(runs)]).to_csv(folder / "sweep.csv", index=False)
    return folder


def test_tables_are_put_where_they_are_marked_and_nothing_else_changes(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert marked(page) == ["one", "two"]
    assert put(page, {"two": "| new |", "three": "nowhere"}) == ["two"]
    assert page.read_text() == PAGE.replace("two -->\n\n", "two -->\n| new |\n")
    assert put(page, {"two": "| new |"}) == [], "the same again changes nothing"
    page.write_text(PAGE + PAGE)
    with pytest.raises(InputError, match="marks the table one twice"):
        put(page, {})


def test_only_finished_runs_of_one_segmenter_are_shown(tmp_path: Path):
    other = run(within="vit_b", miou=0.7)
    folder = sweep(tmp_path / "a", run(), run(pipeline="box", same_as="0"), other)
    assert [one["miou"] for one in runs_of(folder, "vit_b")] == [0.7]
    assert [one["pipeline"] for one in runs_of(folder, "compact")] == ["fg"], "what is the same run is there once"
    with pytest.raises(InputError, match="no run within 'sam2_t'"):
        runs_of(folder, "sam2_t")
    with pytest.raises(InputError, match="a job did not finish"):
        runs_of(sweep(tmp_path / "b", run(), run(status="failed")))
    with pytest.raises(InputError, match="does not exist"):
        runs_of(tmp_path / "c")


def test_a_difference_is_bold_where_its_interval_is_beside_zero():
    assert difference(run()) == ""
    assert difference(run(delta_miou=-0.01, delta_low=-0.02, delta_high=0.001)) == "−0.010 [−0.020, +0.001]"
    assert difference(run(delta_miou=0.01, delta_low=0.002, delta_high=0.02)) == "**+0.010 [+0.002, +0.020]**"
    assert number(run(), "miou") == "0.500 [0.400, 0.600]"
    assert number(run(), "dice") == ""


def test_conditions_stand_side_by_side():
    columns = {
        "a": [run(), run(pipeline="box", miou=0.6, delta_miou=0.1, delta_low=0.05, delta_high=0.2)],
        "b": [run(miou=0.3)],
    }
    assert (
        side_by_side(columns, {"`fg`": {"pipeline": "fg"}}, title="prompts").splitlines()[2]
        == "| `fg` | 0.500 | 0.300 |"
    )
    with pytest.raises(InputError, match="0 runs of b are"):
        side_by_side(columns, {"box": {"pipeline": "box"}})


def test_stages_add_up(tmp_path: Path):
    settings = {
        ("fg", "predicted_iou", "predicted"): 0.5, ("fg", "predicted_iou", "label"): 0.6,
        ("oracle_heatmap", "predicted_iou", "label"): 0.7, ("oracle", "predicted_iou", "predicted"): 0.65,
        ("oracle", "oracle", "predicted"): 0.8, ("oracle_box", "oracle", "predicted"): 0.9,
    }  # fmt: skip
    runs = [
        run(pipeline=p, selector=s, **{"explainer.target": t}, miou=miou, within=sam)
        for (p, s, t), miou in settings.items()
        for sam in SAMS
    ]
    made = {f"oracles-{b}": sweep(tmp_path / b, *runs) for b in ("mixed", "cifar10")}
    rows = [line.split(" | ")[1] for line in stages(made).splitlines()[2:]]
    assert rows == [
        "0.500",
        "0.600 (+0.100)",
        "0.700 (+0.100)",
        "0.650 (−0.050)",
        "0.800 (+0.150)",
        "0.900 (+0.100)",
        "0.200",
    ]


def test_photographs_are_shown_with_their_leaks(tmp_path: Path):
    shown = {"mask_recall": 0.75, "mask_precision": 0.5, "leak_rate": 0.25, "pipeline.threshold": float("nan")}
    both = [run(sam=sam, miou=miou, **shown) for sam, miou in zip(SAMS, (0.5, 0.2), strict=True)]
    alone = run(sam="none", pipeline="threshold", miou=0.6, **shown | {"pipeline.threshold": 0.3})
    text = photographs({"photographs": sweep(tmp_path / "x", *both, alone)})
    assert text.splitlines()[2:] == [
        "| `threshold pipeline.threshold=0.3` | `none` | 0.600 [0.400, 0.600] |  | 0.75 | 0.50 | 0.25 |  |",
        "| `fg` | `compact` | 0.500 [0.400, 0.600] |  | 0.75 | 0.50 | 0.25 | 0.200 |",
    ]


def test_what_strategies_change_is_drawn(tmp_path: Path):
    change = {"delta_miou": 0.1, "delta_low": 0.05, "delta_high": 0.2}
    boxes = {"box", "box_points"}
    settings = [{"pipeline": n} | ({"pipeline.box_threshold": 0.3} if n in boxes else {}) for n in DRAWN]
    photographed = [run(sam="compact", **own, **change) for own in settings]
    drawn = [run(pipeline=name, within=sam, **change) for name in DRAWN for sam in SAMS]
    made = {
        "photographs": sweep(tmp_path / "a", *photographed),
        "strategies-mixed": sweep(tmp_path / "b", *drawn),
    }
    path = photographs_and_shapes(made, tmp_path / "figure.png")
    with Image.open(path) as picture:
        assert picture.width > 800
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**20)}
    assert {
        tuple(int(c[k : k + 2], 16) for k in (1, 3, 5)) for c in (BACKGROUND_POINT, FOREGROUND_POINT)
    } <= colours


def test_every_page_marks_its_tables_and_every_sweep_is_used():
    for page, tables in PAGES.items():
        assert set(tables) == set(marked(ROOT / page)), page
    used = {name for tables in PAGES.values() for table in tables.values() for name in table.needs}
    assert used == set(SWEEPS)
    assert len(set(named())) == len(named())


def tiers(folder: Path, *more: dict) -> Path:
    """`fg`, a better and a worse strategy, a yardstick and a threshold, in each tier with each segmenter."""
    known = [
        run(miou=0.5),
        run(pipeline="box", miou=0.7, delta_miou=0.2, delta_low=0.1, delta_high=0.3, p=0.001),
        run(pipeline="multi_peak", miou=0.4, delta_miou=-0.1, delta_low=-0.2, delta_high=-0.05, p=0.009),
        run(pipeline="mask", miou=0.6, delta_miou=0.1, delta_low=-0.1, delta_high=0.3, p=0.02),
        run(pipeline="oracle", miou=0.9, delta_miou=0.4, delta_low=0.3, delta_high=0.5, p=0.001),
        run(pipeline="threshold", sam="none", fg_threshold="0.6", miou=0.45, p=0.5),
        *more,
    ]
    rows = [
        {"p": float("nan"), "sam": sam} | one | {"within": f"{sam} · {tier}"}
        for sam in SAMS
        for tier in TIERS
        for one in known
    ]
    return sweep(folder, *rows)


def test_the_best_strategy_of_a_tier_and_how_many_differ_from_the_baseline(tmp_path: Path):
    made = {"tiers": tiers(tmp_path / "tiers"), "tiers-chosen": tmp_path / "tiers"}
    rows = best(made).splitlines()[2:]
    assert len(rows) == len(SAMS) * len(TIERS)
    assert rows[0] == (
        "| standard | `compact` | `box` | 0.700 **+0.200 [+0.100, +0.300]** | 0.001 | 1 + 1 "
        "| `threshold fg_threshold=0.6 sam=none` | 0.450 |"
    )
    names = [line.split(" | ")[0] for line in tier("compact")(made).splitlines()[2:]]
    assert names == [
        "| `oracle`", "| `box`", "| `mask`", "| `fg`", "| `threshold fg_threshold=0.6 sam=none`", "| `multi_peak`",
    ]  # fmt: skip


def test_what_was_chosen_on_val_is_shown_on_test(tmp_path: Path):
    both = [
        run(), run(pipeline="box", miou=0.7, delta_miou=0.2, delta_low=0.1, delta_high=0.3, p=0.004),
        run(pipeline="threshold", sam="none", miou=0.4, delta_miou=-0.1, delta_low=-0.2, delta_high=0.0, p=0.03),
    ]  # fmt: skip
    rows = [
        {"sam": s, "p": float("nan")} | one | {"within": f"{s} · {t}"} for s in SAMS for t in TIERS for one in both
    ]
    text = chosen({"tiers-chosen": sweep(tmp_path / "x", *rows)})
    assert text.splitlines()[2] == (
        "| standard | `compact` | `box` | 0.700 **+0.200 [+0.100, +0.300]** | 0.004 "
        "| `threshold sam=none` | 0.400 −0.100 [−0.200, +0.000] | 0.03 |"
    )


def on_val(folder: Path, split: str = "val", **means: float) -> list[Run]:
    """Runs of compact, of a segmenter that is not there any more, and without one, on four images."""
    for job, (name, mean) in enumerate(means.items()):
        sam, pipeline = name.split("_", 1)
        config = {
            "task": {"name": "evaluate"}, "split": split, "compare_within": ["sam"], "limit": 100,
            "sam": {"name": sam}, "pipeline": {"name": pipeline}, "data": {"background": {"name": "mixed"}},
        }  # fmt: skip
        given = {"sam": sam, "pipeline": pipeline}
        write_run(folder / str(job), given, [mean] * 4, config=config, bound=pipeline == "oracle")
    return find_runs(str(folder))


def test_the_choice_is_the_best_automatic_run_on_val(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    means = {"compact_fg": 0.5, "compact_box": 0.7, "compact_mask": 0.7, "compact_oracle": 0.9, "vit_fg": 0.6}
    runs = on_val(tmp_path / "val", **means, none_box=0.3, none_threshold=0.4)
    found = choices(runs)
    assert {place: [own["pipeline"] for own in settings] for place, settings in found.items()} == {
        "compact": ["fg", "box", "threshold"],
        "vit": ["fg", "fg", "threshold"],
    }, "the first of equals; bounds are no choice; what needs no SAM is chosen beside it"
    made = command(found, runs[0].config)
    assert {"split=test", "compare_within=[sam]", "background=mixed", "limit=100"} <= set(made)
    assert made[-4:] == [
        "+hydra.sweeper.grids.g0={sam:compact,pipeline:fg}", "+hydra.sweeper.grids.g1={sam:compact,pipeline:box}",
        "+hydra.sweeper.grids.g2={sam:none,pipeline:threshold}", "+hydra.sweeper.grids.g3={sam:vit,pipeline:fg}",
    ]  # fmt: skip
    sweeper = composed("hydra/sweeper=grids", *made[-4:]).hydra.sweeper
    assert len(Grids(dict(sweeper.grids), {}).jobs([])) == 4, "what it prints is a sweep"
    assert choice_main([str(tmp_path / "val")]) == 0
    assert "compact: sam=compact pipeline=box" in capsys.readouterr().out
    on_val(tmp_path / "test", "test", compact_fg=0.5, compact_box=0.6)
    assert choice_main([str(tmp_path / "test")]) == 1
    assert "choose on split=val, report on split=test" in capsys.readouterr().err


def test_a_dry_run_prints_the_commands(capsys: pytest.CaptureFixture[str]):
    paths = ["--cifar10-root", "C", "--photographs", "P"]
    assert main([*paths, "--dry-run", "--only", "photographs"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith("python run.py -m resume=true logger=none output_root=outputs/published/photographs")
    assert "experiment=photographs" in printed
    assert "data.root=P" in printed
    assert main([*paths, "--only", "photograph"]) == 1
    assert "--only: photograph is no table" in capsys.readouterr().err
