"""MaxBoxAccV2, PxAP and box IoU, by hand, against the protocol's published cases, OpenCV and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score

from gradsam_exp.errors import InputError
from gradsam_exp.metrics.base import build_metrics
from gradsam_exp.metrics.wsol import (
    LEVELS,
    THRESHOLDS,
    BoxIoU,
    MaskBoxIoU,
    MaxBoxAccV2,
    PixelAveragePrecision,
    box_ious,
    boxes_at,
    level_boxes,
    scaled_box,
    score_map,
)
from gradsam_exp.runs.summary import Summary, summarize_metrics
from gradsam_exp.types import Heatmaps


def known(
    maps: Any, truth: Any, images: list[str], labels: list[int] | None = None, **more: Any
) -> dict[str, Any]:
    values = torch.as_tensor(np.array(maps), dtype=torch.float32)
    labelled = torch.tensor(labels or [0] * len(images))
    heatmaps = Heatmaps(values, values.flatten(1).amax(1) == 0, labelled)
    masks = torch.as_tensor(np.array(truth)).bool()
    return {"heatmaps": heatmaps, "truth": masks, "image_ids": images, "labels": labelled, **more}


def rectangle(x0: int, y0: int, x1: int, y1: int, size: int = 10) -> np.ndarray:
    """Pixels x0 … x1 and y0 … y1."""
    mask = np.zeros((size, size))
    mask[y0 : y1 + 1, x0 : x1 + 1] = 1
    return mask


def test_box_iou_counts_both_ends():
    assert box_ious(np.array([[1, 2, 5, 6]]), np.array([[3, 1, 4, 5], [7, 7, 8, 8]]))[0] == pytest.approx(
        [8 / 27, 0]
    )


def test_boxes_are_scaled_by_size_and_rounded_down():
    assert scaled_box(np.array([1, 2, 4, 3]), (20, 10), 5).tolist() == [0, 0, 2, 0]
    assert scaled_box(np.array([60, 27, 385, 331]), (335, 500), 224).tolist() == [26, 18, 172, 221]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (np.zeros((3, 3)), [[0, 0, 0, 0]] * 5),
        (
            [[0, 0, 0, 0, 0], [0, 0.4, 0.4, 0.4, 0.6], [0, 0.4, 1, 0.8, 0.6], [0, 0.4, 0.4, 0.4, 0.6]],
            [[1, 1, 4, 3], [1, 1, 4, 3], [2, 1, 4, 3], [2, 2, 4, 3], [2, 2, 3, 3]],
        ),
        (
            [[0.4, 0, 0.2, 0.2, 0.2], [0.4, 0.4, 0, 0.4, 0], [0, 0, 0, 0.4, 0], [1, 0.6, 0.8, 0.2, 0.2]],
            [[0, 0, 4, 3], [0, 0, 2, 2], [0, 3, 3, 3], [2, 3, 3, 3], [0, 3, 1, 3]],
        ),
    ],
)
def test_the_largest_contour_has_the_box_of_the_protocols_own_tests(scores: Any, expected: list[list[int]]):
    for threshold, box in zip(np.arange(0, 1, 0.2), expected, strict=True):
        assert boxes_at(np.array(scores), threshold, "largest").tolist() == [box]


def test_holes_have_contours_too():
    ring = rectangle(1, 1, 6, 6) - rectangle(3, 3, 4, 4)
    assert sorted(boxes_at(ring, 0.5, "all").tolist()) == [[1, 1, 7, 7], [2, 2, 6, 6]]
    assert boxes_at(ring, 0.5, "largest").tolist() == [[1, 1, 7, 7]]


@pytest.mark.parametrize("smooth", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("contours", ["all", "largest"])
def test_boxes_are_those_of_opencv(smooth: float, contours: Any):
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(7)
    for shape in ((13, 21), (30, 9), (1, 8), (24, 24)):
        noise = gaussian_filter(rng.random(shape), smooth).astype(np.float32)
        scores = score_map(torch.from_numpy(noise), None)
        height, width = shape
        for threshold in THRESHOLDS[::7]:
            image = (scores * 255).astype(np.uint8)
            above = cv2.threshold(image, int(threshold * image.max()), 255, cv2.THRESH_BINARY)[1]
            found = cv2.findContours(above, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
            kept = found if contours == "all" else [max(found, key=cv2.contourArea)]
            sides = [cv2.boundingRect(contour) for contour in kept]
            theirs = {(x, y, min(x + w, width - 1), min(y + h, height - 1)) for x, y, w, h in sides}
            assert set(map(tuple, boxes_at(scores, threshold, contours).tolist())) == theirs


def test_every_threshold_is_one_of_255_levels_which_its_text_names():
    assert LEVELS.tolist() == list(range(255))
    named = [float(f"{value:.3f}") for value in THRESHOLDS]
    assert [int(value * 255) for value in named] == (THRESHOLDS * 255).astype(int).tolist()
    scores = score_map(torch.rand(9, 9, generator=torch.Generator().manual_seed(1)), None)
    at_once = list(level_boxes(scores, LEVELS, "all"))
    assert all(np.array_equal(at_once[int(t * 255)], boxes_at(scores, t, "all")) for t in THRESHOLDS[::13])


def test_maps_are_resized_and_scaled_to_one():
    scores = score_map(torch.rand(30, 50), 12)
    assert scores.shape == (12, 12)
    assert (scores.min(), scores.max()) == (0, 1)
    assert not score_map(torch.full((4, 6), 0.3), 5).any()


TRUE = rectangle(2, 2, 6, 6)
"""Its box is 2 2 7 7, of 36 pixels."""
SMALLER = np.maximum(0.6 * rectangle(2, 2, 6, 6), rectangle(2, 2, 4, 4))
"""Below 0.6 the true box; above, 2 2 5 5: IoU 16/36 = 0.44."""
LARGER = np.maximum(0.3 * (rectangle(0, 0, 9, 9) - rectangle(8, 8, 8, 8)), rectangle(2, 2, 6, 3))
"""Below 0.3 the whole image, 0 0 9 9: IoU 36/100; above, 2 2 7 4: IoU 18/36 = 0.5."""
ELSEWHERE = rectangle(9, 9, 9, 9)
THREE = known([SMALLER, LARGER, ELSEWHERE], [TRUE] * 3, ["a", "b", "c"])


def test_max_box_acc_by_hand():
    """At 0.3 two of three; at 0.5 two of three from 0.3 to 0.6, else one; at 0.7 one below 0.6."""
    metric = MaxBoxAccV2(size=None)
    metric.add(THREE)
    found = summarize_metrics([metric], pd.DataFrame())["max_box_acc_v2"]
    assert {name: part.mean for name, part in found.parts.items()} == pytest.approx(
        {"IoU 0.3": 2 / 3, "IoU 0.5": 2 / 3, "IoU 0.7": 1 / 3}
    )
    assert found.mean == pytest.approx(5 / 9)
    assert found.n == 3
    assert found.ci95[0] <= found.mean <= found.ci95[1]
    assert "upper bound" in found.facts.title
    assert found.note.endswith("metrics.max_box_acc_v2.thresholds=[0.000,0.299,0.000]")
    assert Summary.from_json("max_box_acc_v2", found.as_json()) == found


def test_thresholds_that_are_given_are_used():
    for thresholds, expected in (([0.0, 0.299, 0.0], [2, 2, 1]), ([0.7, 0.1, 0.9], [2, 1, 0])):
        metric = MaxBoxAccV2(thresholds=thresholds, size=None)
        metric.add(THREE)
        found = summarize_metrics([metric], pd.DataFrame())["max_box_acc_v2"]
        assert [part.mean * 3 for part in found.parts.values()] == pytest.approx(expected)
        assert found.facts.title == "MaxBoxAccV2"
        assert not found.note


def test_any_object_of_the_class_may_be_found():
    """One heatmap, two objects: found once as one class, and in one case of two as two classes."""
    maps, truth = [rectangle(0, 0, 2, 2)] * 2, [rectangle(5, 5, 8, 8), rectangle(0, 0, 2, 2)]
    for labels, share in (([3, 3], 1.0), ([3, 4], 0.5)):
        metric = MaxBoxAccV2(size=None)
        metric.add(known(maps, truth, ["a", "a"], labels))
        assert summarize_metrics([metric], pd.DataFrame())["max_box_acc_v2"].mean == share


def test_an_empty_heatmap_is_wrong_and_an_empty_mask_left_out():
    metric = MaxBoxAccV2()
    metric.add(known([TRUE, TRUE * 0, TRUE], [TRUE, TRUE, TRUE * 0], ["a", "b", "c"]))
    assert summarize_metrics([metric], pd.DataFrame())["max_box_acc_v2"].mean == 0.5


def test_pxap_weighs_images_alike():
    """A quarter of both pictures, of 10 and of 30 px, is true: 100 of 400 pixels at 20 px."""
    small, large = TRUE, np.kron(TRUE, np.ones((3, 3)))
    metric = PixelAveragePrecision(size=20)
    metric.add(known([small], [small], ["a"]))
    metric.add(known([1 - large], [large], ["b"]))
    pixels = pd.DataFrame(metric.rows)
    assert [[int(row.sum()) for row in pixels[name]] for name in metric.COUNTS] == [[100, 100], [300, 300]]


def test_pxap_by_hand():
    """Heat 1 is on one true pixel, 0.5 on one true and one other, 0 on one true and three others."""
    metric = PixelAveragePrecision(size=None)
    metric.add(known([[[1, 0.5, 0, 0]], [[0.5, 0, 0, 1]]], [[[1, 1, 1, 0]], [[0, 0, 0, 0]]], ["a", "b"]))
    found = summarize_metrics([metric], pd.DataFrame())["pxap"]
    assert found.mean == pytest.approx((1 / 2 + 2 / 4 + 3 / 8) / 3)
    assert not found.parts


def test_pxap_is_average_precision_of_all_pixels_that_count():
    rng = np.random.default_rng(3)
    maps = rng.integers(0, 98, (3, 20, 30)) / 100 + 0.0015  # one value in each bin
    maps[:, 0, 0], maps[:, 0, 1] = 0, 1
    truth, counted = rng.random((3, 20, 30)) < 0.2 + 0.5 * maps, torch.from_numpy(rng.random((3, 20, 30)) < 0.7)
    for own, more in ((slice(None), {}), (counted.numpy(), {"counted": counted})):
        metric = PixelAveragePrecision(size=None)
        metric.add(known(maps, truth, ["a", "b", "c"], **more))
        expected = average_precision_score(truth[own].ravel(), maps[own].ravel())
        assert summarize_metrics([metric], pd.DataFrame())["pxap"].mean == pytest.approx(expected, abs=1e-9)


def test_without_true_pixels_there_is_no_figure():
    metrics = [PixelAveragePrecision(), MaxBoxAccV2()]
    for metric in metrics:
        metric.add(known([TRUE], [TRUE * 0], ["a"]))
    found = summarize_metrics(metrics, pd.DataFrame())
    assert [(np.isnan(own.mean), own.n) for own in found.values()] == [(True, 0)] * 2


def test_the_boxes_of_one_example():
    """A heatmap's box at 0.2 is the true one, at 0.7 its corner; ignored pixels make the true box smaller."""
    maps, truth = THREE["heatmaps"], THREE["truth"]
    assert BoxIoU(size=None).measure(maps, truth).tolist() == pytest.approx([1, 0.36, 0])
    assert BoxIoU(threshold=0.7, size=None).measure(maps, truth)[:2].tolist() == pytest.approx([16 / 36, 0.5])
    counted = torch.ones_like(truth)
    counted[:, 5:] = False
    assert BoxIoU(threshold=0.7, size=None).measure(maps, truth, counted)[0] == pytest.approx(16 / 24)
    masks = torch.from_numpy(np.array([rectangle(2, 2, 4, 6), TRUE * 0, TRUE])).bool()
    measured = MaskBoxIoU().measure(masks, truth & torch.tensor([1, 1, 0]).bool()[:, None, None])
    assert measured.tolist() == pytest.approx([15 / 25, 0, float("nan")], nan_ok=True)


def test_wrong_settings_name_the_key():
    with pytest.raises(InputError, match=r"metrics.max_box_acc_v2: 2 thresholds for 3 IoUs"):
        build_metrics({"max_box_acc_v2": {"thresholds": [0.1, 0.2]}})
    with pytest.raises(InputError, match=r"metrics.max_box_acc_v2: ious=\[0.7, 0.5\]: must increase"):
        build_metrics({"max_box_acc_v2": {"ious": [0.7, 0.5]}})
    with pytest.raises(InputError, match=r"metrics.box_iou.threshold=1.0"):
        build_metrics({"box_iou": {"threshold": 1.0}})
