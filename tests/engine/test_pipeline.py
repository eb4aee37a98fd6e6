"""Pipelines: which mask is kept, who is asked again, and what is recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

import gradsam_exp as gs
from gradsam_exp.engine.pipeline import Pipeline, PipelineResult
from gradsam_exp.prompts.base import STRATEGIES, PromptStrategy
from gradsam_exp.segmenters.base import Embeddings
from gradsam_exp.segmenters.cached import CachedSegmenter
from gradsam_exp.segmenters.tta import Augmented
from gradsam_exp.selectors.base import SELECTORS
from gradsam_exp.selectors.score import PredictedIoU
from gradsam_exp.types import Choice, ExampleBatch, Heatmaps, PromptContext, Prompts, Segmentation
from tests.accelerator import pretended_accelerator
from tests.album import RADII, SIDE, Album


def context(batch: ExampleBatch) -> PromptContext:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(len(batch), 6, 8, generator=generator)
    values = torch.nn.functional.interpolate(values[:, None], batch.size, mode="bicubic")[:, 0].clamp(0, 1)
    values = values / values.amax((1, 2), keepdim=True)
    return PromptContext(
        batch.images, Heatmaps(values, torch.zeros(len(batch), dtype=torch.bool), batch.labels), batch.example_ids
    )


class Asked(PromptStrategy):
    """Asks what it is told to."""

    def __init__(self, prompts: Prompts) -> None:
        self.prompts = prompts

    def propose(self, ctx: PromptContext) -> Prompts:
        return self.prompts


CENTRES = Prompts(torch.arange(8), torch.full((8, 1, 2), 20.0), torch.ones(8, 1, dtype=torch.long))
CORNERS = Prompts(torch.tensor([1, 2]), torch.full((2, 2, 2), 3.0), torch.tensor([[1, 0], [1, 0]]))


class SecondThoughts(Asked):
    """Clicks the centre; asks the images 1 and 2 again at the corner; believes the answer only for image 2."""

    max_rounds: ClassVar[int] = 3

    def __init__(self) -> None:
        super().__init__(CENTRES)

    def revise(self, ctx, prompts, segmentation, masks, chosen):
        assert chosen.shape == (len(ctx), 64, 64)
        active = torch.zeros(len(ctx), dtype=torch.bool)
        active[1:3] = True
        return CORNERS, active

    def better(self, ctx, new, old):
        return torch.arange(len(ctx)) == 2


def test_a_revised_mask_is_kept_only_where_it_is_better(segmenter, batch: ExampleBatch):
    ctx, embeddings = context(batch), segmenter.encode(batch.images)
    result, first, second = (
        Pipeline(strategy, segmenter, PredictedIoU())(ctx, embeddings)
        for strategy in (SecondThoughts(), Asked(CENTRES), Asked(CORNERS))
    )
    others = [k for k in range(len(ctx)) if k != 2]
    assert torch.equal(result.masks[others], first.masks[others])
    assert torch.equal(result.masks[2], second.masks[2])
    assert float(result.predicted_iou[2]) == pytest.approx(float(second.predicted_iou[2]), abs=1e-6)
    assert result.rounds.tolist() == [1, 2, 3, 1, 1, 1, 1, 1], "what was turned down is not asked again"
    own = result.prompts[result.prompts.example_index == 2]
    assert own.labels.tolist() == [[1, 0]]
    assert result.prompts.labels[result.prompts.example_index == 1].tolist() == [[1, -1]]
    for image in range(len(ctx)):  # the choice points at the rows that were kept
        row = result.choice.query[image]
        assert result.segmentation.example_index[row] == image
        kept = result.segmentation.logits[row, result.choice.candidate[image]]
        assert torch.equal(segmenter.to_original(kept[None], embeddings)[0], result.masks[image])


def criterion(selector: str, result: PipelineResult, ctx: PromptContext) -> np.ndarray:
    """What a selector maximises, for each query and candidate, in NumPy; −inf where it may not choose."""
    assert ctx.masks is not None
    height, width = ctx.size
    image = result.segmentation.example_index.numpy()
    logits = result.segmentation.logits.double().numpy()[..., :height, :width]
    predicted = result.segmentation.predicted_iou.double().numpy()
    probability, inside = 1 / (1 + np.exp(-logits)), logits > 0
    heat = ctx.heatmaps.values.double().numpy()[image][:, None]
    truth = ctx.masks.numpy()[image][:, None]
    agreement = (probability * heat).sum((2, 3)) / np.maximum(probability, heat).sum((2, 3))
    values = {
        "predicted_iou": predicted,
        "single": predicted.copy(),
        "heatmap_agreement": agreement,
        "hybrid": (agreement + predicted) / 2,
        "distrust": without_the_distrusted(predicted, agreement, image),
        "largest": inside.sum((2, 3)).astype(float),
        "oracle": (inside & truth).sum((2, 3)) / (inside | truth).sum((2, 3)),
    }[selector]
    values[:, 1:] = -np.inf if selector == "single" else values[:, 1:]
    values[:, 0] = values[:, 0] if selector == "single" else -np.inf
    return values


def without_the_distrusted(predicted: np.ndarray, agreement: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The predicted IoU; −inf for the largest of an image below 0.78, if the second largest agrees better."""
    left = predicted.copy()
    for number in np.unique(image):
        places = [(row, token) for row in np.flatnonzero(image == number) for token in (1, 2, 3)]
        best, following = sorted(places, key=lambda place: predicted[place], reverse=True)[:2]
        if predicted[best] < 0.78 and agreement[following] > agreement[best]:
            left[best] = -np.inf
    return left


LETS_THE_SELECTOR_CHOOSE = [
    name
    for name in STRATEGIES.names()
    if STRATEGIES.get(name).choose is PromptStrategy.choose and STRATEGIES.get(name).needs <= {"truth"}
]


@pytest.mark.parametrize("selector", SELECTORS.names())
@pytest.mark.parametrize("name", LETS_THE_SELECTOR_CHOOSE)
def test_the_mask_that_is_kept_is_the_selectors_best_of_all_that_were_offered(
    name: str, selector: str, batch: ExampleBatch
):
    ctx, album = replace(context(batch), masks=batch.masks), Album()
    pipeline = Pipeline(STRATEGIES.build({"name": name}), album, SELECTORS.build({"name": selector}))
    result = pipeline(ctx, album.encode(batch.images))
    values, image_of = criterion(selector, result, ctx), result.segmentation.example_index.numpy()
    assert result.choice.example_index.tolist() == list(range(len(batch))), "one mask an image"
    for image, query, candidate, _ in zip(
        *(part.tolist() for part in result.choice.as_tensors().values()), strict=True
    ):
        assert image_of[query] == image
        assert values[query, candidate] == pytest.approx(values[image_of == image].max(), rel=1e-5)
        picture = result.segmentation.logits[query, candidate, : ctx.size[0], : ctx.size[1]] > 0
        assert torch.equal(result.masks[image], picture)
        assert result.predicted_iou[image] == result.segmentation.predicted_iou[query, candidate]


def test_the_pictures_are_squares_around_the_point_that_was_asked(batch: ExampleBatch):
    """So that what the test above compares with is known to be right."""
    album = Album()
    asked = Prompts(torch.tensor([3]), torch.tensor([[[20.0, 30.0]]]), torch.tensor([[1]]))
    logits = album.decode(album.encode(batch.images), asked).logits
    for radius, picture in zip(RADII, logits[0], strict=True):
        expected = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        expected[30 - radius : 31 + radius, 20 - radius : 21 + radius] = True
        assert torch.equal(picture > 0, expected)


class BestOfEveryQuery:
    """Keeps the smallest square (candidate 1) of each query, so that an image's masks are united."""

    needs_truth: ClassVar[bool] = False

    def __call__(self, ctx: PromptContext, segmentation: Segmentation) -> Choice:
        query = torch.arange(len(segmentation))
        candidate = torch.ones_like(query)
        predicted_iou = segmentation.predicted_iou[query, candidate].cpu()
        return Choice(segmentation.example_index, query, candidate, predicted_iou)


def square(x: int, y: int, size: tuple[int, int]) -> torch.Tensor:
    """The smallest square of the album."""
    mask = torch.zeros(size, dtype=torch.bool)
    mask[y - 2 : y + 3, x - 2 : x + 3] = True
    return mask


def clicks(*rows: tuple[int, int, int]) -> Prompts:
    """One query of one foreground point for each ``(image, x, y)``."""
    image, points = torch.tensor([row[0] for row in rows]), torch.tensor([row[1:] for row in rows])
    return Prompts(image, points[:, None].float(), torch.ones(len(rows), 1, dtype=torch.long))


def test_several_masks_that_are_kept_for_an_image_are_united(batch: ExampleBatch):
    ctx, album = context(batch), Album()
    asked = clicks((0, 10, 10), (0, 40, 30), (2, 20, 20))
    result = Pipeline(Asked(asked), album, BestOfEveryQuery())(ctx, album.encode(batch.images))
    assert torch.equal(result.masks[0], square(10, 10, ctx.size) | square(40, 30, ctx.size))
    assert torch.equal(result.masks[2], square(20, 20, ctx.size))
    assert not result.masks[[1, 3, 4, 5, 6, 7]].any(), "without a query there is no mask"
    predicted = result.segmentation.predicted_iou[:, 1]
    assert result.predicted_iou[0] == predicted[:2].max()
    assert result.predicted_iou.tolist()[1:3] == [0.0, predicted[2]]
    assert result.candidates.tolist() == [1, 0, 1, 0, 0, 0, 0, 0]


class MovesOn(Asked):
    """Asks image 0 twice and image 1 once; then 0 once and 1 twice, at other places. Believes image 1 only."""

    max_rounds: ClassVar[int] = 2

    def revise(self, ctx, prompts, segmentation, masks, chosen):
        self.seen = chosen
        return clicks((0, 50, 20), (1, 30, 30), (1, 50, 40)), torch.arange(len(ctx)) < 2

    def better(self, ctx, new, old):
        return torch.arange(len(ctx)) == 1


def test_rounds_of_united_masks_keep_all_rows_of_an_image_or_none(batch: ExampleBatch):
    ctx, album = context(batch), Album()
    strategy = MovesOn(clicks((0, 10, 10), (0, 40, 30), (1, 20, 20)))
    result = Pipeline(strategy, album, BestOfEveryQuery())(ctx, album.encode(batch.images))
    united = square(10, 10, ctx.size) | square(40, 30, ctx.size)
    assert torch.equal(strategy.seen[0, : ctx.size[0], : ctx.size[1]] > 0, united), "logits of the union"
    assert not strategy.seen[2:].any(), "no mask, no logits"
    assert torch.equal(result.masks[0], united)
    assert torch.equal(result.masks[1], square(30, 30, ctx.size) | square(50, 40, ctx.size))
    assert result.choice.example_index.tolist() == [0, 0, 1, 1]
    assert result.prompts.points[result.choice.query, 0].tolist() == [[10, 10], [40, 30], [30, 30], [50, 40]]
    assert result.rounds.tolist() == [2, 2, 1, 1, 1, 1, 1, 1]


def test_feeding_the_logits_back_changes_the_answer(segmenter, batch: ExampleBatch):
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


def test_the_reference_reports_pipelines_are_fg_and_fgbg(batch: ExampleBatch):
    ctx, album = context(batch), Album()
    embeddings = album.encode(batch.images)
    for build, name in ((gs.SamForegroundPipeline, "fg"), (gs.SamBackgroundPipeline, "fgbg")):
        ours = Pipeline(STRATEGIES.build({"name": name, "grid_offset": 2}), album, PredictedIoU())(ctx, embeddings)
        theirs = build(album, grid_offset=2)(ctx, embeddings)
        assert torch.equal(theirs.prompts.points, ours.prompts.points)
        assert torch.equal(theirs.masks, ours.masks)


@pytest.mark.parametrize("selector", SELECTORS.names())
@pytest.mark.parametrize(
    "name",
    [
        "fgbg", "cascade", "adaptive", "grid_match", "oracle_heatmap", "mask", "components", "s2c_peaks",
        "sam_refiner", "subsets", "persam",
    ],
)  # fmt: skip
def test_what_decides_is_on_the_cpu_wherever_the_segmenter_runs(name: str, selector: str, batch: ExampleBatch):
    """Heatmaps and images come from the accelerator as well; a mix of devices would stop here."""
    with pretended_accelerator() as cuda:
        album = Album()
        album.load(cuda)
        there = context(batch)
        ctx = PromptContext(there.images.to(cuda), there.heatmaps.to(cuda), masks=batch.masks.to(cuda))
        fresh = album.encode(batch.images)
        for embeddings in (fresh, Embeddings.joined([fresh])):
            pipeline = Pipeline(STRATEGIES.build({"name": name}), album, SELECTORS.build({"name": selector}))
            result = pipeline(ctx, embeddings)
            on_the_cpu = [
                result.masks,
                result.prompts.points,
                *result.choice.as_tensors().values(),
                ctx.heatmaps.values,
            ]
            assert {value.device.type for value in on_the_cpu} == {"cpu"}
            assert result.segmentation.logits.device.type == "cuda"
            assert result.segmentation.predicted_iou.device.type == "cuda"


@pytest.mark.parametrize(
    "name",
    ["fg", "fgbg", "box_points", "cascade", "adaptive", "grid_match", "components", "sam_refiner", "persam"],
)
def test_images_of_different_sizes_are_decoded_together_as_alone(name: str, segmenter, batch: ExampleBatch):
    sizes = [(48, 64), (64, 48), (37, 101), (90, 90)]
    asked = []
    for row, size in enumerate(sizes):
        images = torch.nn.functional.interpolate(batch.images[row : row + 1], size, mode="nearest")
        own = ExampleBatch.one_each(images, None, batch.labels[row : row + 1], (f"image {row}",))
        asked.append((context(own), segmenter.encode(images)))
    pipeline = Pipeline(STRATEGIES.build({"name": name}), segmenter, PredictedIoU())
    for (ctx, embeddings), together in zip(asked, pipeline.together(asked), strict=True):
        alone = pipeline(ctx, embeddings)
        assert torch.equal(together.masks, alone.masks)
        assert torch.equal(together.rounds, alone.rounds)
        torch.testing.assert_close(together.predicted_iou, alone.predicted_iou)
        assert len(together.prompts) == len(alone.prompts)


def test_examples_of_one_image_share_its_embedding(segmenter, batch: ExampleBatch):
    three = batch.images[:2]
    embeddings = segmenter.encode(three)
    shared = replace(embeddings, image_of=torch.tensor([0, 0, 1]))
    prompts = Prompts(
        torch.tensor([0, 1, 2]),
        torch.tensor([[[10.0, 10]], [[40.0, 20]], [[20.0, 30]]]),
        torch.ones(3, 1, dtype=torch.long),
    )
    alone = [
        segmenter.decode(embeddings, replace(prompts[row : row + 1], example_index=torch.tensor([image])))
        for row, image in enumerate((0, 0, 1))
    ]
    answer = segmenter.decode(shared, prompts)
    torch.testing.assert_close(answer.logits, torch.cat([one.logits for one in alone]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize("name", SELECTORS.names())
def test_any_number_of_candidates_is_chosen_from(batch: ExampleBatch, name: str, count: int):
    """Of five the last, which is added, is the truth and the best by its own account; of one, that one."""
    ctx = replace(context(batch), masks=batch.masks)

    class Several(Album):
        def decode(self, embeddings, prompts):
            four = super().decode(embeddings, prompts)
            truth = torch.nn.functional.pad(
                8.0 * batch.masks[prompts.example_index] - 4, (0, 0, 0, SIDE - 48), value=-4
            )
            logits = torch.cat([four.logits, truth[:, None]], 1)[:, :count]
            scores = torch.cat([four.predicted_iou, torch.ones(len(prompts), 1)], 1)[:, :count]
            return Segmentation(logits, scores, prompts.example_index)

    segmenter = CachedSegmenter(Several(), 2**24)
    for views in (segmenter, Augmented(segmenter, 1)):
        pipeline = Pipeline(SecondThoughts(), views, SELECTORS.build({"name": name}))
        result = pipeline(ctx, views.encode(batch.images))
        assert result.segmentation.logits.shape[1] == count
        if name == "single" or count == 1:
            assert result.candidates.tolist() == [0] * 8
        else:
            assert (result.candidates > 0).all()
        if count == 5 and name in ("predicted_iou", "oracle"):
            assert result.candidates.tolist() == [4] * 8
            assert torch.equal(result.masks, batch.masks)
