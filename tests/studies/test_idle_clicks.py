"""Segmenters are trained with and without idle clicks, and what background points do to each is compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gradsam_exp.errors import InputError
from gradsam_exp.runs.summary import summarize
from gradsam_exp.weights import open_weights
from studies.idle_clicks import study
from studies.idle_clicks.__main__ import main
from studies.idle_clicks.arms import ARMS, CONTROL, DOSES, NONE, Arm
from studies.idle_clicks.findings import MEASURES, compared, dose_cells, draw_doses, measured, two_level
from tests.faults.counts import SOAKING, only_soaking

TINY = ("task.steps=2", "task.steps_per_epoch=2", "task.batch_size=1", "task.targets=2", "limit=5")


def test_an_interval_over_seeds_and_images_covers_both():
    seeds, images = np.array([[-0.1], [0.0], [0.1]]), np.linspace(-0.03, 0.03, 50)
    found = two_level(seeds + images)
    assert found.mean == pytest.approx(0)
    assert found.n == 50
    assert found.ci95 == pytest.approx((-0.1, 0.1), abs=0.012), "one seed thrice has a chance of 1 in 27"
    same = two_level(np.stack([images] * 3))
    assert same.ci95 == pytest.approx(summarize(images).ci95, abs=0.001), "equal trainings add nothing"
    alone = two_level(images[None])
    assert alone.ci95 == pytest.approx(summarize(images).ci95, abs=0.001)


def test_images_of_one_unit_are_drawn_together():
    values = np.array([[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]] * 2)
    found = two_level(values, np.array(list("aaabbb")))
    assert found.ci95 == (0, 1), "a, b or both"
    assert two_level(values).ci95[0] > 0


def test_an_interval_of_constant_values_has_no_width():
    assert two_level(np.full((3, 4), 0.25)).ci95 == (0.25, 0.25)


def table(ious: list[float]) -> pd.DataFrame:
    names = pd.Index(list("abcd")[: len(ious)], name="example_id")
    return pd.DataFrame({"iou": ious, "image_id": names}, index=names)


def test_what_is_measured_is_paired_by_image():
    runs = [
        {"fg": table([0.5, 0.7]), "fgbg": table([0.4, 0.8])[::-1], "ring-4": table([0.5, 0.5])},
        {"fg": table([0.6, 0.6]), "fgbg": table([0.6, 0.7]), "ring-4": table([0.3, 0.6])},
    ]
    values, units = measured(runs)
    assert values["fg"].tolist() == [[0.5, 0.7], [0.6, 0.6]]
    np.testing.assert_allclose(values["fgbg"], [[-0.1, 0.1], [0.0, 0.1]])
    np.testing.assert_allclose(values["ring-4"], [[0.0, -0.2], [-0.3, 0.0]])
    assert units.tolist() == ["a", "b"]


@pytest.mark.parametrize("other", [[0.5], [0.5, float("nan")], [0.5, 0.5, 0.5]])
def test_runs_on_other_images_are_refused(other: list[float]):
    with pytest.raises(InputError, match="not all on the same images"):
        measured([{"fg": table([0.5, 0.7]), "fgbg": table(other), "ring-4": table([0.5, 0.7])}])


def values_of_arms() -> dict[Arm, dict[str, np.ndarray]]:
    """Each arm's change by fgbg is its share of steps with idle background clicks, less its seed's part."""
    flat = np.zeros((3, 4))
    seeds = np.array([[0.0], [0.01], [0.02]])
    change = {arm: flat + (arm.share if arm.kind == "background" else 0) - 0.1 - seeds for arm in ARMS}
    return {arm: {"fg": flat + 0.9, "fgbg": change[arm], "ring-4": flat} for arm in ARMS}


def test_arms_are_compared_seed_by_seed():
    found = compared(values_of_arms(), None).set_index(["arm", "against", "measure"])
    assert found.loc[("background 5%", "", "fgbg"), ["mean", "seed0", "seed2"]].tolist() == pytest.approx(
        [-0.06, -0.05, -0.07]
    )
    pair = found.loc[("background 40%", "none", "fgbg")]
    assert pair[["mean", "low", "high", "seed1"]].tolist() == pytest.approx([0.4] * 4), "the seed's part is gone"
    assert found.loc[("background 40%", "foreground 40%", "fgbg"), "mean"] == pytest.approx(0.4)
    assert found.loc[("foreground 40%", "none", "fgbg"), "mean"] == pytest.approx(0)
    assert len(found) == (6 + 5 + 1) * 3


def test_the_table_marks_clear_differences():
    headings, rows = dose_cells(compared(values_of_arms(), None))
    assert headings == ["idle clicks", *MEASURES.values()]
    cells = {row[0]: row[1:] for row in rows}
    assert cells["none"] == [
        "0.9000 [0.9000, 0.9000]",
        "**-0.1100 [-0.1200, -0.1000]**",
        "+0.0000 [+0.0000, +0.0000]",
    ]
    assert cells["background 40% − none"][1] == "**+0.4000 [+0.4000, +0.4000]**"
    assert cells["foreground 40% − none"][0] == "+0.0000 [+0.0000, +0.0000]"


def test_the_dose_curve_is_drawn(tmp_path: Path):
    draw_doses({"standard": compared(values_of_arms(), None)}, tmp_path / "idle.png")
    assert {path.name for path in tmp_path.iterdir()} == {"idle.png", "idle.pdf"}


def test_the_control_has_as_many_idle_clicks_as_the_largest_dose():
    assert CONTROL.share == DOSES[-1].share
    assert [arm.share for arm in DOSES] == [0, 0.05, 0.1, 0.2, 0.4]
    assert NONE.overrides == ()
    assert CONTROL.overrides == ("task.idle_foreground=0.4",)
    assert CONTROL.file(Path("x"), 2) == Path("x/foreground-40-seed2.safetensors")


@pytest.fixture
def small_cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of 32×32 px."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for k in range(40):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    return folder


@pytest.mark.slow
@only_soaking
def test_the_study_of_idle_clicks(tmp_path: Path, small_cifar10: Path, capsys: pytest.CaptureFixture[str]):
    given = [f"output_root={tmp_path}", f"cifar10_root={small_cifar10}", *TINY]
    assert main(["--seeds=1", *given]) == 0
    assert "## leaky, 5 examples" in capsys.readouterr().out
    (text,) = (tmp_path / "idle_clicks").rglob("idle.md")
    found = pd.read_csv(text.parent / "idle.csv")
    assert len(found) == len(study.GROUNDS) * (6 + 5 + 1) * 3
    assert {path.name for path in text.parent.iterdir()} == {"runs", "idle.md", "idle.csv", "idle.png", "idle.pdf"}
    ious = [
        pd.read_parquet(text.parent / "runs" / f"leaky_background-40-seed0_{name}" / "per_image.parquet")["iou"]
        for name in ("fg", "ring-4")
    ]
    row = found.set_index(["ground", "arm", "against", "measure"]).sort_index()
    change = row.loc[("leaky", "background 40%")].query("against.isna() and measure == 'ring-4'")["mean"]
    assert change.item() == pytest.approx((ious[1] - ious[0]).mean())
    weights = sorted((tmp_path / "idle_clicks" / "arms").iterdir())
    assert [path.name for path in weights] == sorted(arm.file(Path(), 0).name for arm in ARMS)
    header = open_weights(CONTROL.file(tmp_path / "idle_clicks" / "arms", 0)).header
    assert (header["idle_foreground"], header["idle_background"], header["frozen_encoder"]) == (0.4, 0.0, True)
    if not SOAKING:  # two minutes
        return
    before = [path.stat().st_mtime_ns for path in weights]
    assert main(["--seeds=1", *given]) == 0, "nothing is trained or evaluated again"
    assert [path.stat().st_mtime_ns for path in weights] == before
    assert capsys.readouterr().out.count("is the same run as") == len(ARMS) * 9
    assert main(["--seeds=1", *given, "task.steps=3"]) == 1
    assert "was trained with task.steps=2, not 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        (["sam=compact"], "sam: the study chooses it itself"),
        (["data.difficulty=faint"], "data.difficulty: the study chooses it itself"),
        (["task=evaluate"], "task: the study chooses it itself"),
        (["task.stepps=3"], "'task.stepps' is not a configuration key"),
        (["--seeds=0"], "--seeds=0: give at least 1"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    given: list[str], answer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([f"output_root={tmp_path}", *given]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert answer in line
    assert not any(tmp_path.iterdir())
