"""Clicks of the simulated user, by hand, and what is counted of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradsam_exp.metrics.clicks import IoUAt1, IoUAt3, IoUAt5, NumberOfClicks85, NumberOfClicks90
from gradsam_exp.prompts.robot_user import RobotUser, next_click
from gradsam_exp.types import Heatmaps, PromptContext, Segmentation


def context(truth: torch.Tensor, counted: torch.Tensor | None = None) -> PromptContext:
    count = len(truth)
    maps = Heatmaps(truth.float(), torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=torch.long))
    images = torch.zeros(count, 3, *truth.shape[1:], dtype=torch.uint8)
    return PromptContext(images, maps, masks=truth, counted=counted)


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((9, 12), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_a_click_lies_innermost_in_the_deeper_error():
    assert next_click(box(1, 1, 4, 4), box(6, 2, 11, 7), []) == (8, 4, 0)
    assert next_click(box(6, 2, 11, 7), box(1, 1, 4, 4), []) == (8, 4, 1)
    assert next_click(box(1, 1, 4, 4), box(6, 1, 9, 4), []) == (7, 2, 0), "RITM: background if equally deep"
    assert next_click(box(0, 0, 3, 3), box(0, 0, 0, 0), []) == (1, 1, 1), "the border is an outside"


def test_no_pixel_is_clicked_twice():
    assert next_click(box(1, 1, 4, 4), box(0, 0, 0, 0), [(2, 2, 1)]) == (1, 1, 1)
    assert next_click(box(2, 2, 3, 3), box(0, 0, 0, 0), [(2, 2, 1)]) is None
    assert next_click(box(0, 0, 0, 0), box(0, 0, 0, 0), []) is None


def test_clicks_add_up_and_images_without_an_error_are_left_alone():
    truth = torch.from_numpy(np.stack([box(1, 1, 4, 4), box(5, 1, 10, 6), box(0, 0, 0, 0)]))
    strategy, ctx = RobotUser(), context(truth)
    first = strategy.propose(ctx)
    assert first.example_index.tolist() == [0, 1], "an empty truth gets no click"
    assert first.points.tolist() == [[[2, 2]], [[7, 3]]]
    masks = truth.clone()
    masks[1] = torch.from_numpy(box(5, 1, 12, 9))
    answer = Segmentation(torch.zeros(2, 4, 3, 3), torch.zeros(2, 4), first.example_index)
    chosen = torch.rand(3, 3, 3)
    second, active = strategy.revise(ctx, first, answer, masks, chosen)
    assert active.tolist() == [False, True, False]
    assert second.points.tolist() == [[[7, 3], [6, 7]]]
    assert second.labels.tolist() == [[1, 0]]
    assert second.mask_logits is not None
    assert torch.equal(second.mask_logits[0, 0], chosen[1])


def test_errors_that_do_not_count_are_not_clicked():
    truth = torch.from_numpy(box(1, 1, 4, 4))[None]
    counted = torch.ones_like(truth)
    counted[0, :, 5:] = False
    masks = truth | torch.from_numpy(box(6, 1, 12, 9))
    strategy, ctx = RobotUser(), context(truth, counted)
    first = strategy.propose(ctx)
    answer = Segmentation(torch.zeros(1, 4, 3, 3), torch.zeros(1, 4), first.example_index)
    again, active = strategy.revise(ctx, first, answer, masks, torch.zeros(1, 3, 3))
    assert len(again) == 0
    assert not active.any()


def test_clicks_are_counted_as_ritm_does():
    ious = torch.tensor([[0.5, 0.86, 0.84, 0.95], [0.2, 0.3, 0.4, 0.5], [1.0, 1.0, 1.0, 1.0]])
    assert IoUAt1().measure(ious).tolist() == pytest.approx([0.5, 0.2, 1])
    assert IoUAt3().measure(ious).tolist() == pytest.approx([0.84, 0.4, 1])
    assert IoUAt5().measure(ious).tolist() == pytest.approx([0.95, 0.5, 1]), "after the last"
    assert NumberOfClicks85().measure(ious).tolist() == [2, 20, 1]
    assert NumberOfClicks90(max_clicks=3).measure(ious).tolist() == [3, 3, 1]
    without = NumberOfClicks85()
    assert without.measure_known({"round_ious": None}, 2).isnan().all()
