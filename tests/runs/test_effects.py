"""Which knob matters: worked by hand on four images, and by SciPy's analysis of variance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from gradsam_exp.reports.knobs import in_words, knob_rows
from gradsam_exp.reports.tables import varied_columns
from gradsam_exp.runs.comparison import Runs
from gradsam_exp.runs.effects import Effects, importance_of, main_effects, shares_of_variance
from gradsam_exp.runs.paired import paired_difference
from gradsam_exp.runs.sweep import collect_runs
from tests.reports.finished_runs import write_run

BASE = np.array([0.2, 0.4, 0.6, 0.8])


def grid(
    folder: Path, knobs: Mapping[str, Sequence[str]], value: Callable[..., object], without: Sequence[int] = ()
) -> list[Effects]:
    """Run every combination but those ``without``; ``value`` adds to `BASE`, or is None for a run that failed."""
    for k, levels in enumerate(product(*knobs.values())):
        if k in without:
            continue
        added = value(*levels)
        ious = None if added is None else (BASE + added).tolist()
        write_run(folder / str(k), dict(zip(knobs, levels, strict=True)), ious, error="wrong")
    runs = Runs(folder)
    table = collect_runs(runs)
    return main_effects(runs, table, varied_columns(table))


PIPELINES = {"pipeline": ["fg", "fgbg"], "bg": ["0.1", "0.2", "0.3"]}


def test_a_full_grid(tmp_path: Path):
    """fgbg loses 0.04 on the first image and gains 0.08 on the last; bg adds 0.00, 0.01, 0.02 with fgbg only."""

    def value(pipeline: str, bg: str) -> np.ndarray:
        lost = np.array([-0.04, 0, 0, 0.08]) + 10 * (float(bg) - 0.1) / 100
        return lost if pipeline == "fgbg" else np.zeros(4)

    (found,) = grid(tmp_path, PIPELINES, value)
    assert (found.jobs, found.examples, found.whole, found.untold, found.within) == (6, 4, True, (), "")
    pipeline, bg = found.knobs
    assert (pipeline.knob, pipeline.best, pipeline.next) == ("pipeline", "fgbg", "fg")
    assert pipeline.over_rest.mean == pytest.approx(0.01 + 0.01), "0.04 / 4 images, and the mean of bg's"
    by_hand = paired_difference(np.array([-0.04, 0, 0, 0.08]) + 0.01, np.zeros(4)).difference
    assert pipeline.over_rest.ci95 == pytest.approx(by_hand.ci95), "over the same resamples"
    assert (bg.best, list(bg.over)) == ("0.3", ["0.2", "0.1"])
    assert bg.over_rest.mean == pytest.approx((0.01 - 0.0025) / 1), "0.010 against the mean of 0.000 and 0.005"
    assert bg.over["0.1"].ci95 == pytest.approx((0.01, 0.01)), "the same on every image"
    # Means less BASE's: fg 0, 0, 0; fgbg 0.01, 0.02, 0.03. Their mean is 0.01, and their squares come to 0.0008.
    assert pipeline.share == pytest.approx(6 * 0.01**2 / 0.0008)
    assert bg.share == pytest.approx(2 * 2 * 0.005**2 / 0.0008)
    assert found.interactions == {("pipeline", "bg"): pytest.approx(1 - 0.75 - 0.125)}
    assert pipeline.share + bg.share + found.interactions["pipeline", "bg"] == pytest.approx(1)


def test_what_wins_is_said_and_what_does_not_matter(tmp_path: Path):
    (found,) = grid(tmp_path, PIPELINES, lambda pipeline, bg: 0.1 * (pipeline == "fg") + 1e-5 * float(bg))
    assert in_words([found]) == [
        "pipeline=fg wins: mIoU is higher by 0.100 [0.100, 0.100] than with fgbg, image by image on 4 images. "
        "bg hardly matters."
    ]
    rows = [[text for _, text in row] for row in knob_rows(found)]
    by = "+0.1000 [+0.1000, +0.1000]"
    assert rows[0] == ["pipeline", "fg", "fgbg", by, by, "100 %"]
    assert rows[1][:2] == ["bg", "any"]


def test_levels_that_cannot_be_told_apart_are_named_together(tmp_path: Path):
    apart = {
        "box": [0.1, 0.12, 0.1, 0.1],
        "mask": [0.12, 0.1, 0.1, 0.1],
        "fg": [0, 0, 0, 0],
        "far": [-0.5, 0, 0, 0],
    }
    (found,) = grid(tmp_path, {"pipeline": list(apart)}, lambda name: np.array(apart[name]) / 2)
    (said,) = in_words([found])
    assert said == (
        "pipeline: box and mask are best and cannot be told apart; box is ahead of fg by 0.053 [0.050, 0.058] "
        "mIoU, image by image on 4 images."
    )
    assert found.knobs[0].share == pytest.approx(1)


def test_of_a_grid_with_gaps_only_pairs_count(tmp_path: Path):
    """fgbg at 0.3 failed: there bg is compared with fg alone, and pipeline at 0.1 and 0.2 alone."""

    def value(pipeline: str, bg: str) -> float | None:
        return None if (pipeline, bg) == ("fgbg", "0.3") else 0.1 * (pipeline == "fg") - float(bg) / 10

    (found,) = grid(tmp_path, PIPELINES, value)
    assert (found.jobs, found.whole) == (5, False)
    pipeline, bg = found.knobs
    assert (pipeline.best, pipeline.over_rest.mean) == ("fg", pytest.approx(0.1))
    assert (bg.best, bg.over["0.3"].mean, bg.over["0.2"].mean) == ("0.1", pytest.approx(0.02), pytest.approx(0.01))
    assert 0 < bg.share < pipeline.share < 1
    assert found.interactions == {}, "the two add up"


def test_upper_bounds_are_no_choice(tmp_path: Path):
    for k, (name, ious) in enumerate((("fg", BASE), ("box", BASE + 0.1), ("oracle", BASE + 0.2))):
        write_run(tmp_path / str(k), {"pipeline": name}, ious.tolist(), bound=name == "oracle")
    runs = Runs(tmp_path)
    (found,) = main_effects(runs, collect_runs(runs), ["pipeline"])
    assert (found.knobs[0].best, list(found.knobs[0].over)) == ("box", ["fg"])


def test_each_set_of_images_by_itself(tmp_path: Path):
    for k, (data, name) in enumerate(product("xy", ["fg", "box"])):
        write_run(
            tmp_path / str(k),
            {"data": data, "pipeline": name},
            BASE + 0.1 * ((name == "box") == (data == "x")),
            data=data,
        )
    runs = Runs(tmp_path)
    table = collect_runs(runs)
    found = main_effects(runs, table, varied_columns(table))
    assert [(one.within, one.knobs[0].best) for one in found] == [("data=x", "box"), ("data=y", "fg")]
    assert in_words(found)[1].startswith("data=y: pipeline=fg wins: mIoU is higher by 0.100")


def test_knobs_that_never_differ_alone_are_told_apart_by_no_pair(tmp_path: Path):
    rng = np.random.default_rng(0)
    values = rng.random((20, 2)).round(4)
    for k, (a, b) in enumerate(values):
        write_run(tmp_path / str(k), {"a": str(a), "b": str(b)}, (BASE + 0.1 * a + 0.001 * b).tolist())
    runs = Runs(tmp_path)
    (found,) = main_effects(runs, collect_runs(runs), ["a", "b"])
    assert (found.knobs, found.untold) == ((), ("a", "b"))
    assert list(found.importance) == ["a", "b"]
    assert found.importance["a"] > 0.9
    assert "importance for a random forest over its 20 runs (permutation, scikit-learn)" in in_words([found])[0]
    assert importance_of([("0.1",), ("0.2",)], np.array([0.1, 0.2]), ["a"]) == {}, "two runs say nothing"


def test_shares_are_those_of_the_analysis_of_variance():
    """Of a 2×3×2 grid, from deviations of group means (Fisher)."""
    cells = list(product("ab", "xyz", "01"))
    means = np.random.default_rng(1).random(len(cells))
    shares = shares_of_variance(cells, means)

    def squares(*places: int) -> float:
        groups = [tuple(cell[k] for k in places) for cell in cells]
        return sum(
            (np.mean([m for m, g in zip(means, groups, strict=True) if g == own]) - means.mean()) ** 2
            for own in groups
        )

    total = ((means - means.mean()) ** 2).sum()
    for k in range(3):
        assert shares[k,] == pytest.approx(squares(k) / total)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert shares[one, other] == pytest.approx((squares(one, other) - squares(one) - squares(other)) / total)
    assert shares_of_variance(cells, np.full(12, 0.5)) == {}, "nothing to share out"
