"""The study's tables are right on data whose answer is known."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from pycocotools import mask as coco

from studies.background_points import findings


def prediction(
    name: str, points: list[tuple[float, float]], labels: list[int], mask: np.ndarray | None = None
) -> dict:
    mask = np.zeros((10, 20), dtype=np.uint8) if mask is None else mask.astype(np.uint8)
    encoded = coco.encode(np.asfortranarray(mask))["counts"].decode()
    prompts = json.dumps([{"points": points, "labels": labels}])
    return {"example_id": name, "height": 10, "width": 20, "mask_rle": encoded, "prompts": prompts}


def test_corners_and_sides_are_told_apart():
    table = pd.DataFrame(
        [
            prediction("a", [(0, 1), (19, 5), (10, 5), (7, 7), (19, 0)], [0, 0, 0, 1, 0]),
            prediction("b", [(9, 9)], [1]),
        ]
    )
    places = findings.background_places(table)
    assert places["example_id"].tolist() == ["a"] * 4, "a foreground point is none"
    assert places["corner"].tolist() == [True, False, False, True]
    assert places["edge"].tolist() == [True, True, False, True]
    assert places["exact"].tolist() == [False, False, False, True]


def test_points_that_stay_where_they_are():
    one = pd.DataFrame([prediction("a", [(0, 1), (3, 4)], [0, 0]), prediction("b", [(5, 5)], [0])])
    other = pd.DataFrame([prediction("b", [(5, 6)], [0]), prediction("a", [(3, 4), (0, 1)], [0, 0])])
    places = findings.background_places(one), findings.background_places(other)
    assert findings.unmoved(places[0], places[0]) == 1
    assert findings.unmoved(*places) == 0.5, "the order of the points does not matter"


def test_facts_of_an_object():
    image, mask = np.zeros((3, 10, 20), dtype=np.uint8), np.zeros((10, 20), dtype=bool)
    mask[2:5, 4:9] = True
    image[:, mask] = 255
    facts = findings.object_facts(image, mask)
    assert facts["area"] == 15
    assert facts["to_side"] == 3, "its centre is (6, 3)"
    assert facts["contrast"] == pytest.approx(1)


def test_errors_are_counted_on_both_sides():
    truth, mask = np.zeros((10, 20), dtype=bool), np.zeros((10, 20), dtype=bool)
    truth[2:5, 2:5], mask[3:6, 2:4] = True, True
    wrong = findings.errors(pd.DataFrame([prediction("a", [], [], mask)]), {"a": truth}).loc["a"]
    assert (wrong["extra"], wrong["missed"]) == (2, 5)


def test_quarters_of_the_images_show_where_the_change_is():
    names = [f"image {k}" for k in range(40)]
    facts = pd.DataFrame({"area": np.arange(40.0), "constant": 1.0}, index=names)
    delta = pd.Series(np.where(np.arange(40) < 10, -0.1, 0.0), index=names)
    units = pd.Series(names, index=names)
    table = findings.by_quartile(delta, facts, units).query("fact == 'area'")
    assert table["delta"].tolist() == pytest.approx([-0.1, 0, 0, 0])
    assert table["n"].tolist() == [10] * 4


def test_every_run_is_compared_with_fg_to_four_digits():
    own = {"miou": 0.5, "miou_low": 0.4, "miou_high": 0.6}
    against = {"baseline": "fg", "delta_miou": 0.10004, "delta_low": 0.05, "delta_high": 0.15, "p": 0.25}
    counts = {"wins": 3.0, "ties": 1.0, "losses": 0.0}
    table = pd.DataFrame(
        [{"job": "fg", **own}, {"job": "fg-oracle", "upper_bound": True, **own, **against, **counts}]
    )
    headings, rows = findings.comparison_cells(table)
    assert headings[0] == "run"
    assert rows[0][:3] == ["fg", "0.5000 [0.4000, 0.6000]", "baseline"]
    assert rows[1][0] == "fg-oracle*", "an upper bound is marked"
    assert rows[1][2:] == ["+0.1000 [+0.0500, +0.1500]", "0.25", "3/1/0"]
