"""What background points change is split by whether they hit, and by whether foreground points succeed alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from gradsam_exp.errors import InputError
from studies.background_points.by_hit import SUCCESS, by_hit, hit_cells, hits_of_runs, main
from tests.reports.finished_runs import write_run

BACKGROUND, OBJECT, NONE = "all on the background", "some on the object", "none placed"
SUCCEEDS = f"succeeds (IoU ≥ {SUCCESS})"


def tables(
    rows: dict[str, tuple[float, float, float | None]], groups: list[str] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of runs without and with background points from IoU, IoU with them, and their hit rate."""
    fg, fgbg, hit = zip(*rows.values(), strict=True)
    index = pd.Index(rows, name="example_id")
    facts = {"image_id": list(rows), "group": groups or list(rows)}
    first = pd.DataFrame({"iou": fg, "bg_hit_rate": None, **facts}, index=index)
    return first, pd.DataFrame({"iou": fgbg, "bg_hit_rate": hit, **facts}, index=index)


WORKED = {
    "a": (0.9, 0.8, 1.0),
    "b": (0.5, 0.5, 1.0),  # 0.5 is a success
    "c": (0.9, 0.1, 0.75),
    "d": (0.2, 0.6, 1.0),
    "e": (0.4, 0.5, 1.0),
    "f": (0.3, 0.3, None),
    "g": (float("nan"), 0.9, 1.0),
}


def test_the_change_is_split_by_hits_and_success():
    table = by_hit(*tables(WORKED)).set_index(["points", "fg"])
    assert table["n"].to_dict() == {
        ("all", "all"): 6,
        (BACKGROUND, SUCCEEDS): 2,
        (BACKGROUND, "fails"): 2,
        (OBJECT, SUCCEEDS): 1,
        (NONE, "fails"): 1,
    }
    assert table["delta"].tolist() == pytest.approx([-0.4 / 6, -0.05, 0.25, -0.8, 0.0])
    assert table["part"].tolist() == pytest.approx([-0.4 / 6, -0.1 / 6, 0.5 / 6, -0.8 / 6, 0.0])
    assert table["part"][1:].sum() == pytest.approx(table["delta"].iloc[0]), "the cells make up the mean"
    assert table.loc[(BACKGROUND, "fails"), ["delta_low", "delta_high"]].tolist() == pytest.approx([0.1, 0.4])
    assert table.loc[("all", "all"), ["wins", "ties", "losses"]].tolist() == [2, 2, 2]


def test_p_is_of_sign_flips_and_corrected_over_the_cells():
    """−0.1 and 0: of one that differs, 1. 0.4 and 0.1: of four ways two are as far from 0, 0.5; one alone: 1."""
    table = by_hit(*tables(WORKED)).set_index(["points", "fg"])["p"]
    assert table[BACKGROUND, "fails"] == pytest.approx(1.0), "0.5 × 3 comparisons"
    assert table[BACKGROUND, SUCCEEDS] == 1
    assert pd.isna(table[NONE, "fails"])
    many = {f"{k:02d}": (0.6, 0.5, 1.0) for k in range(10)} | {f"x{k}": (0.2, 0.3, 1.0) for k in range(3)}
    p = by_hit(*tables(many)).set_index(["points", "fg"])["p"]
    assert p[BACKGROUND, SUCCEEDS] == pytest.approx(2 * 2 / 2**10)
    assert p[BACKGROUND, "fails"] == pytest.approx(2 / 2**3)


def test_images_on_one_photograph_are_one_unit_in_every_cell():
    rows = {f"{k:02d}": (0.6, 0.5 + k // 2 / 100, 1.0) for k in range(24)}
    groups = [f"photograph {k // 2:02d}" for k in range(24)]
    alone = by_hit(*tables({name: row for k, (name, row) in enumerate(rows.items()) if k % 2 == 0}))
    together = by_hit(*tables(rows, groups))
    for column in ("delta", "delta_low", "delta_high", "p"):
        assert together[column].tolist() == pytest.approx(alone[column].tolist()), column


def test_cells_are_shown_to_four_digits():
    headings, rows = hit_cells(by_hit(*tables(WORKED)))
    assert headings[:3] == ["background points", "fg", "n"]
    assert rows[2] == [BACKGROUND, "fails", "2", "+0.2500 [+0.1000, +0.4000]", "+0.0833", "1", "2/0/0"]


def test_runs_without_hit_rates_or_examples_in_common_are_refused():
    fg, fgbg = tables(WORKED)
    with pytest.raises(InputError, match="no bg_hit_rate"):
        by_hit(fg, fgbg.drop(columns="bg_hit_rate"))
    with pytest.raises(InputError, match="no example with an IoU in common"):
        by_hit(fg, fgbg.rename(index=str.upper))


def sweep(folder: Path) -> Path:
    """Two segmenters with and without background points; a third without."""
    for k, (sam, pipeline) in enumerate(
        [("compact", "fg"), ("compact", "fgbg"), ("vit_b", "fg"), ("vit_b", "fgbg")]
    ):
        config = {"sam": {"name": sam}, "pipeline": {"name": pipeline}}
        run = write_run(
            folder / str(k), {"pipeline": pipeline, "sam": sam}, [0.9, 0.8, 0.2, 0.6 + k / 10], config=config
        )
        images = pd.read_parquet(run / "per_image.parquet").assign(bg_hit_rate=[1.0, 1.0, 0.5, 1.0])
        images.to_parquet(run / "per_image.parquet")
    write_run(folder / "4", {"pipeline": "fg", "sam": "vit_h"}, [0.5] * 4, config={"pipeline": {"name": "fg"}})
    return folder


def test_every_segmenter_of_finished_runs_has_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(sweep(tmp_path))]) == 0
    printed = capsys.readouterr().out
    first, second = printed.index("## compact"), printed.index("## vit_b")
    assert "vit_h" not in printed, "it has no run with background points"
    for part in (printed[first:second], printed[second:]):
        assert "| all | all | 4 | +0.0250 [" in part
        assert "| some on the object | fails | 1 | +0.0000 [" in part
    assert "sign-flip permutation test" in printed


def test_where_no_two_runs_belong_together_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_run(tmp_path / "0", {"pipeline": "fg"}, [0.5] * 4, config={"pipeline": {"name": "fg"}})
    with pytest.raises(InputError, match="no runs of pipeline=fg and pipeline=fgbg"):
        hits_of_runs([str(tmp_path)])
    assert main([str(tmp_path / "nothing")]) == 1
    assert "no finished runs there" in capsys.readouterr().err
