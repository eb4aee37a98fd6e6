"""Mask selectors on candidates worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gradsam_exp.overlap import iou, soft_iou
from gradsam_exp.selectors.base import SELECTORS
from gradsam_exp.types import Heatmaps, PromptContext, Segmentation


class Same:
    """The low-resolution grid is the original frame, but for padding at the right and at the bottom."""

    def to_low_res(self, values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(values, (0, 2, 0, 2))

    def to_original(self, logits: torch.Tensor) -> torch.Tensor:
        return logits[..., :-2, :-2] > 0


def square(side: int) -> torch.Tensor:
    """Logits of a square at the top left of a 6×6 image with two pixels of padding."""
    logits = torch.full((8, 8), -20.0)
    logits[:side, :side] = 20.0
    return logits


@pytest.fixture
def ctx() -> PromptContext:
    heat = torch.zeros(2, 6, 6)
    heat[:, :3, :3] = 1
    return PromptContext(
        torch.zeros(2, 3, 6, 6, dtype=torch.uint8),
        Heatmaps(heat, torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.long)),
        frames=Same(),
    )


@pytest.fixture
def answer() -> Segmentation:
    """Two queries about image 0, none about image 1. Padding is full in the candidate of side 2."""
    small = square(2)
    small[:, 6:] = 20.0
    first = torch.stack([square(3), small, square(4), square(6)])
    second = torch.stack([square(6), square(1), square(3), square(5)])
    scores = torch.tensor([[0.99, 0.5, 0.6, 0.9], [0.98, 0.1, 0.3, 0.7]])
    return Segmentation(torch.stack([first, second]), scores, torch.tensor([0, 0]))


@pytest.mark.parametrize(
    ("node", "query", "token"),
    [
        ({"name": "predicted_iou"}, 0, 3),
        ({"name": "single"}, 0, 0),
        ({"name": "heatmap_agreement"}, 1, 2),
        ({"name": "hybrid", "weight": 0.0}, 0, 3),
        ({"name": "hybrid", "weight": 1.0}, 1, 2),
        ({"name": "largest"}, 0, 3),
    ],
)
def test_which_candidate_is_kept(ctx: PromptContext, answer: Segmentation, node: dict, query: int, token: int):
    choice = SELECTORS.build(node)(ctx, answer)
    assert choice.example_index.tolist() == [0], "image 1 has no query"
    assert choice.query.tolist() == [query]
    assert choice.candidate.tolist() == [token]
    assert choice.predicted_iou[0] == answer.predicted_iou[query, token]


def test_half_of_each(ctx: PromptContext, answer: Segmentation):
    """Side 4 agrees by 9/16 and scores 0.6; side 6 by 9/36 and 0.9; side 3 by 1 and 0.3: the last wins."""
    choice = SELECTORS.build({"name": "hybrid", "weight": 0.5})(ctx, answer)
    assert (choice.query[0], choice.candidate[0]) == (1, 2)


@pytest.mark.parametrize(("threshold", "token", "predicted_iou"), [(0.78, 3, 0.9), (0.9, 3, 0.9), (0.95, 2, 0.7)])
def test_what_is_unsure_makes_place_for_the_next(
    ctx: PromptContext, answer: Segmentation, threshold: float, token: int, predicted_iou: float
):
    """The best is side 6 (0.9, agreement 9/36); the next here side 4 (0.7, 9/16)."""
    scores = torch.tensor([[0.99, 0.5, 0.7, 0.9], [0.98, 0.1, 0.3, 0.6]])
    choice = SELECTORS.build({"name": "distrust", "threshold": threshold})(
        ctx, replace(answer, predicted_iou=scores)
    )
    assert (choice.example_index.tolist(), choice.query.tolist()) == ([0], [0])
    assert choice.candidate.tolist() == [token]
    assert choice.predicted_iou.tolist() == pytest.approx([predicted_iou])


def test_the_next_is_left_where_it_agrees_less_or_there_is_none(ctx: PromptContext, answer: Segmentation):
    """The next may be another query's: side 5 (0.7) agrees by 9/25, better than side 6. Side 2 agrees by 4/9."""
    distrust = SELECTORS.build({"name": "distrust", "threshold": 1.0})
    choice = distrust(ctx, answer)
    assert (choice.query.tolist(), choice.candidate.tolist()) == ([1], [3])
    scores = torch.tensor([[0.0, 0.1, 0.9, 0.8], [0.0, 0.1, 0.3, 0.7]])
    left = distrust(ctx, replace(answer, predicted_iou=scores))
    assert (left.query.tolist(), left.candidate.tolist()) == ([0], [2]), (
        "side 4 agrees better than the next, side 6"
    )
    alone = Segmentation(answer.logits[:1, :1], answer.predicted_iou[:1, :1] / 2, torch.tensor([0]))
    assert distrust(ctx, alone).candidate.tolist() == [0]


def test_without_an_estimate_of_the_iou_the_heatmap_alone_counts(ctx: PromptContext, answer: Segmentation):
    unknown = replace(answer, predicted_iou=torch.full((2, 4), torch.nan))
    choice = SELECTORS.build({"name": "hybrid", "weight": 0.1})(ctx, unknown)
    assert (choice.query[0], choice.candidate[0]) == (1, 2)
    first = SELECTORS.build({"name": "predicted_iou"})(ctx, unknown)
    assert (first.query[0], first.candidate[0]) == (0, 1), "the first that is offered"
    assert first.predicted_iou.isnan().all()


def test_soft_iou_worked_out_by_hand():
    """Σ p·h / Σ max: half for a constant half and itself, 0 for two empty maps."""
    one, other = torch.tensor([[0.5, 0.2], [0.0, 1.0]]), torch.tensor([[0.25, 0.4], [0.0, 1.0]])
    assert soft_iou(one, other) == pytest.approx((0.125 + 0.08 + 1) / (0.5 + 0.4 + 1))
    assert soft_iou(torch.full((3, 3), 0.5), torch.full((3, 3), 0.5)) == pytest.approx(0.5)
    assert soft_iou(torch.zeros(2, 2), torch.zeros(2, 2)) == 0


def test_soft_iou_of_binary_maps_is_the_iou_and_of_one_binary_map_the_ruzicka_similarity():
    masks = torch.rand(2, 50, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    assert torch.allclose(soft_iou(*masks.double()), iou(*masks))
    heat = torch.rand(50, 6, 6, generator=torch.Generator().manual_seed(1)).double()
    mask = masks[0].double()
    ruzicka = torch.minimum(mask, heat).sum((1, 2)) / torch.maximum(mask, heat).sum((1, 2))
    assert torch.allclose(soft_iou(mask, heat), ruzicka)


def test_the_oracle_knows_the_truth(ctx: PromptContext, answer: Segmentation):
    oracle = SELECTORS.build({"name": "oracle"})
    assert oracle.needs_truth
    truth = torch.zeros(2, 6, 6, dtype=torch.bool)
    truth[:, :5, :5] = True
    choice = oracle(replace(ctx, masks=truth), answer)
    assert (choice.query[0], choice.candidate[0]) == (1, 3)
    with pytest.raises(ValueError, match="needs true masks"):
        oracle(ctx, answer)
