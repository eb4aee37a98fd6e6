"""Rounds: who is asked again, what is kept, and what is recorded."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from gradsam_exp.engine.pipeline import Pipeline
from gradsam_exp.prompts.base import STRATEGIES, PromptStrategy
from gradsam_exp.selectors.base import SELECTORS
from gradsam_exp.selectors.score import PredictedIoU
from gradsam_exp.types import Heatmaps, ImageBatch, PromptContext, Prompts


def context(batch: ImageBatch) -> PromptContext:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(len(batch), 6, 8, generator=generator)
    values = torch.nn.functional.interpolate(values[:, None], batch.size, mode="bicubic")[:, 0].clamp(0, 1)
    values = values / values.amax((1, 2), keepdim=True)
    return PromptContext(
        batch.images, Heatmaps(values, torch.zeros(len(batch), dtype=torch.bool), batch.labels), batch.image_ids
    )


class SecondThoughts(PromptStrategy):
    """Clicks the centre; asks the images 1 and 2 again at the corner; believes the answer only for image 2."""

    max_rounds: ClassVar[int] = 3

    def propose(self, ctx: PromptContext) -> Prompts:
        count = len(ctx)
        return Prompts(
            torch.arange(count), torch.full((count, 1, 2), 20.0), torch.ones(count, 1, dtype=torch.long)
        )

    def revise(self, ctx, prompts, segmentation, masks, chosen):
        assert chosen.shape == (len(ctx), 64, 64)
        active = torch.zeros(len(ctx), dtype=torch.bool)
        active[1:3] = True
        asked = Prompts(torch.tensor([1, 2]), torch.full((2, 2, 2), 3.0), torch.tensor([[1, 0], [1, 0]]))
        return asked, active

    def better(self, ctx, new, old):
        return torch.arange(len(ctx)) == 2


def test_a_revised_mask_is_kept_only_where_it_is_better(segmenter, batch: ImageBatch):
    ctx, embeddings = context(batch), segmenter.encode(batch.images)
    result = Pipeline(SecondThoughts(), segmenter, PredictedIoU())(ctx, embeddings)
    once = SecondThoughts()
    first = Pipeline(once, segmenter, PredictedIoU())._ask(ctx, embeddings, once.propose(ctx))
    asked, _ = once.revise(ctx, None, None, None, torch.zeros(len(ctx), 64, 64))
    second = Pipeline(once, segmenter, PredictedIoU())._ask(ctx, embeddings, asked)
    others = [k for k in range(len(ctx)) if k != 2]
    assert torch.equal(result.masks[others], first.masks[others])
    assert torch.equal(result.masks[2], second.masks[2])
    assert float(result.predicted_iou[2]) == pytest.approx(float(second.predicted_iou[2]), abs=1e-6)
    assert result.rounds.tolist() == [1, 2, 3, 1, 1, 1, 1, 1], "what was turned down is not asked again"
    own = result.prompts[result.prompts.image_index == 2]
    assert own.labels.tolist() == [[1, 0]]
    assert result.prompts.labels[result.prompts.image_index == 1].tolist() == [[1, -1]]
    for image in range(len(ctx)):  # the choice points at the rows that were kept
        row = result.choice.query[image]
        assert result.segmentation.image_index[row] == image
        kept = result.segmentation.logits[row, result.choice.candidate[image]]
        assert torch.equal(segmenter.to_original(kept[None], embeddings)[0], result.masks[image])


@pytest.mark.parametrize("selector", SELECTORS.names())
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name == "grid_match" else name for name in STRATEGIES.names()],
)
def test_every_strategy_goes_with_every_selector(name: str, selector: str, segmenter, batch: ImageBatch):
    ctx = context(batch)
    object.__setattr__(ctx, "masks", batch.masks)
    pipeline = Pipeline(STRATEGIES.build({"name": name}), segmenter, SELECTORS.build({"name": selector}))
    embeddings = segmenter.encode(batch.images)
    result = pipeline(ctx, embeddings)
    assert result.masks.shape == batch.masks.shape
    assert len(result.prompts) == len(result.segmentation.logits)
    assert result.rounds.min() >= 1
    assert result.choice.image_index.tolist() == list(range(len(batch))), "one mask an image"


def test_feeding_the_logits_back_changes_the_answer(segmenter, batch: ImageBatch):
    ctx, embeddings = context(batch), segmenter.encode(batch.images)
    once, twice = (
        Pipeline(STRATEGIES.build({"name": "cascade", "max_rounds": n}), segmenter, PredictedIoU())(
            ctx, embeddings
        )
        for n in (1, 2)
    )
    assert once.rounds.tolist() == [1] * 8
    assert twice.rounds.tolist() == [2] * 8
    assert twice.prompts.mask_logits is not None
    assert not torch.equal(once.segmentation.logits, twice.segmentation.logits)
