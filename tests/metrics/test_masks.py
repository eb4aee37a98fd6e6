"""Dice and Boundary IoU against independent implementations; precision, recall and leaks by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torchmetrics.functional.classification import binary_f1_score

from gradsam_exp.metrics.boundary_iou import BoundaryIoU, boundary
from gradsam_exp.metrics.dice import Dice
from gradsam_exp.metrics.leaks import LeakRate, MaskPrecision, MaskRecall


def blobs(count: int, height: int, width: int, seed: int) -> torch.Tensor:
    """Smooth random masks, some of which touch the border."""
    noise = torch.rand(count, 1, height, width, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool2d(noise, 9, 1, 4, count_include_pad=False)[:, 0]
    return smooth > smooth.flatten(1).median(1).values[:, None, None]


def test_dice_by_hand_and_of_empty_masks():
    predicted, truth = torch.zeros(3, 2, 4, dtype=torch.bool), torch.zeros(3, 2, 4, dtype=torch.bool)
    predicted[0, 0, :3] = True
    truth[0, 0, 2:] = True  # one pixel in common, areas of 3 and 2
    predicted[1, 0, 0] = True
    assert Dice().measure(predicted, truth).tolist() == [0.4, 0.0, 1.0]


def test_dice_is_the_f1_score_of_the_pixels():
    predicted, truth = blobs(20, 24, 32, 0), blobs(20, 24, 32, 1)
    ours = Dice().measure(predicted, truth)
    pairs = list(zip(predicted, truth, strict=True))
    assert ours.tolist() == pytest.approx([f1_score(t.flatten(), p.flatten()) for p, t in pairs])
    assert ours.tolist() == pytest.approx([binary_f1_score(p.int(), t.int()).item() for p, t in pairs])


def authors_boundary(mask: np.ndarray, dilation_ratio: float) -> np.ndarray:
    """``mask_to_boundary`` of the paper's public code: the mask less its erosion, zeros around the image."""
    height, width = mask.shape
    dilation = max(1, round(dilation_ratio * np.hypot(height, width)))
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), dtype=np.uint8), iterations=dilation)
    return mask - eroded[1 : height + 1, 1 : width + 1]


@pytest.mark.parametrize("dilation", [0.001, 0.02, 0.1, 0.6])
@pytest.mark.parametrize("size", [(48, 64), (37, 90)])
def test_boundary_iou_is_the_authors(dilation: float, size: tuple[int, int]):
    predicted, truth = blobs(10, *size, seed=0), blobs(10, *size, seed=1)
    ours = BoundaryIoU(dilation=dilation).measure(predicted, truth)
    theirs = []
    for one, other in zip(predicted.numpy(), truth.numpy(), strict=True):
        a, b = (authors_boundary(mask.astype(np.uint8), dilation) for mask in (one, other))
        theirs.append(((a * b) > 0).sum() / ((a + b) > 0).sum())
    assert ours.tolist() == theirs


def test_a_boundary_by_hand():
    mask = torch.zeros(1, 5, 7, dtype=torch.bool)
    mask[0, :4, 1:6] = True  # touches the upper border, which counts as an outside
    inner = torch.zeros(5, 7, dtype=torch.bool)
    inner[1:3, 2:5] = True
    assert torch.equal(boundary(mask, 1)[0], mask[0] & ~inner)
    assert torch.equal(boundary(mask, 2), mask)


def test_masks_that_agree_inside_differ_at_their_contours():
    truth = torch.zeros(1, 100, 100, dtype=torch.bool)
    truth[0, 20:80, 20:80] = True
    predicted = torch.zeros_like(truth)
    predicted[0, 23:77, 23:77] = True  # the next 3 px are a band of their own
    assert BoundaryIoU().measure(truth, truth).tolist() == [1.0]
    assert BoundaryIoU(dilation=0.02).measure(predicted, truth) == 0.0
    assert BoundaryIoU().measure(torch.zeros_like(truth), torch.zeros_like(truth)).tolist() == [1.0]


def test_precision_recall_and_leaks_by_hand():
    truth = torch.zeros(5, 2, 6, dtype=torch.bool)
    truth[:4, 0, :4] = True  # 4 px
    masks = torch.zeros_like(truth)
    masks[0] = True  # all of the object, and 8 px beside it: a leak
    masks[1, 1, :4] = True  # beside the object: a miss
    masks[2, 0, :3] = True  # 3 of 4 px
    masks[2, 1, :2] = True  # and 2 px beside: exactly half of the object's area is no leak
    counted = torch.ones_like(truth)
    nan = pytest.approx(float("nan"), nan_ok=True)
    assert MaskPrecision().measure(masks, truth).tolist() == [4 / 12, 0, 0.6, nan, nan]
    assert MaskRecall().measure(masks, truth).tolist() == [1, 0, 0.75, 0, nan]
    assert LeakRate().measure(masks, truth).tolist() == [1, 0, 0, 0, nan]
    assert LeakRate(share=0.4).measure(masks, truth)[2] == 1
    counted[0, 1] = False  # the second row does not count: 2 px beside are left
    assert LeakRate().measure(masks, truth, counted)[0] == 0
