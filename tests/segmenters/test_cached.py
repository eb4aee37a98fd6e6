"""What was asked before is not decoded again, and the answers are the segmenter's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from gradsam_exp.segmenters.base import Embeddings
from gradsam_exp.segmenters.cached import CachedSegmenter
from gradsam_exp.segmenters.sam import SamSegmenter
from gradsam_exp.types import ExampleBatch, Prompts, Segmentation

ANSWER = 4 * 64 * 64 * 4 + 4 * 4  # bytes of compact's


@pytest.fixture
def decoded(segmenter: SamSegmenter, monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """First points of the queries that the segmenter itself has answered."""
    points: list[list[float]] = []
    decode = segmenter.decode

    def noted(embeddings: Embeddings, prompts: Prompts) -> Segmentation:
        points.extend(prompts.points[:, 0].tolist())
        return decode(embeddings, prompts)

    monkeypatch.setattr(segmenter, "decode", noted)
    return points


@pytest.fixture(scope="module")
def embeddings(segmenter: SamSegmenter, batch: ExampleBatch) -> Embeddings:
    return segmenter.encode(batch.images[:4])


def asked(*xy: tuple[float, float], image: int = 0) -> Prompts:
    points = torch.tensor(xy, dtype=torch.float32).reshape(-1, 1, 2)
    return Prompts(torch.full((len(xy),), image), points, torch.ones(len(xy), 1, dtype=torch.long))


def test_only_new_queries_are_decoded(segmenter: SamSegmenter, embeddings: Embeddings, decoded: list):
    remembered = CachedSegmenter(segmenter, 2**24)
    first = remembered.decode(embeddings, asked((10, 10), (20, 20)))
    again = remembered.decode(embeddings, asked((20, 20), (10, 10)))
    assert torch.equal(again.logits, first.logits[[1, 0]])
    assert torch.equal(again.predicted_iou, first.predicted_iou[[1, 0]])
    mixed = asked((30, 30), (10, 10), (40, 20), (20, 20))
    answer = remembered.decode(embeddings, mixed)
    assert decoded == [[10, 10], [20, 20], [30, 30], [40, 20]]
    assert (remembered.asked, remembered.decoded) == (8, 4)
    alone = segmenter.decode(embeddings, mixed)
    assert_close(answer.logits, alone.logits, rtol=1e-4, atol=1e-4)
    assert_close(answer.predicted_iou, alone.predicted_iou, rtol=1e-5, atol=1e-5)
    assert answer.example_index.equal(mixed.example_index)


def test_an_answer_depends_on_all_that_was_asked(segmenter: SamSegmenter, embeddings: Embeddings):
    point = asked((10, 10))
    others = [
        asked((10, 10), image=1),
        replace(point, labels=torch.zeros(1, 1, dtype=torch.long)),
        replace(point, boxes=torch.tensor([[1.0, 1, 20, 20]])),
        replace(point, boxes=torch.tensor([[1.0, 1, 30, 20]])),
        replace(point, mask_logits=torch.zeros(1, 1, 64, 64)),
        replace(point, mask_logits=torch.ones(1, 1, 64, 64)),
    ]
    remembered = CachedSegmenter(segmenter, 2**24)
    for prompts in (point, *others):
        answer = remembered.decode(embeddings, prompts)
        assert_close(answer.logits, segmenter.decode(embeddings, prompts).logits)
    cropped = replace(embeddings, original_sizes=torch.tensor([[24, 64]]).expand(len(embeddings), 2))
    assert_close(remembered.decode(cropped, point).logits, segmenter.decode(cropped, point).logits)
    assert remembered.decoded == remembered.asked == 8


def test_the_same_image_is_known_in_another_batch(segmenter: SamSegmenter, embeddings: Embeddings):
    remembered = CachedSegmenter(segmenter, 2**24)
    remembered.decode(embeddings, asked((10, 10), image=2))
    remembered.decode(embeddings.of_images(slice(2, None)), asked((10, 10), image=0))
    assert remembered.decoded == 1


def test_memory_is_bounded_and_what_is_asked_in_turn_is_still_found(
    segmenter: SamSegmenter, embeddings: Embeddings
):
    remembered = CachedSegmenter(segmenter, max_bytes=10 * ANSWER)
    places = [(5.0 * k, 10.0) for k in range(12)]  # more than fit
    for _ in range(10):
        for xy in places:
            remembered.decode(embeddings, asked(xy))
            assert remembered.kept_bytes <= 10 * ANSWER
    assert remembered.asked == 120
    assert remembered.decoded < 60, "if the least recently used went, none would be found"


def test_no_query_is_no_answer(segmenter: SamSegmenter, embeddings: Embeddings):
    remembered = CachedSegmenter(segmenter, 2**20)
    nothing = asked((10, 10))[torch.zeros(1, dtype=torch.bool)]
    assert remembered.decode(embeddings, nothing).logits.shape == (0, 4, 64, 64)
