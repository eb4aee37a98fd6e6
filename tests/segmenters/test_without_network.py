"""Segmenters without a network: ``sam=none`` and ``sam=grabcut``, on pictures small enough to work out by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from gradsam_exp.engine.pipeline import Pipeline
from gradsam_exp.engine.suitability import check_strategy
from gradsam_exp.errors import InputError
from gradsam_exp.prompts.base import STRATEGIES
from gradsam_exp.segmenters.base import SEGMENTERS, Embeddings
from gradsam_exp.segmenters.cached import CachedSegmenter
from gradsam_exp.segmenters.grabcut import GrabCut, grabcut
from gradsam_exp.segmenters.pixelwise import PixelSegmenter
from gradsam_exp.segmenters.unsegmented import Unsegmented
from gradsam_exp.selectors.score import PredictedIoU
from gradsam_exp.types import Heatmaps, PromptContext, Prompts

S, F, P = 0, 1, 3  # what pixels are marked as: surely background, surely foreground, probably foreground
Q = 2  # probably background


def asked(
    *points: tuple[float, float, int], box: list[float] | None = None, logits: list[list[float]] | None = None
) -> Prompts:
    """One query about the first example: ``(x, y, label)``, a box, mask logits."""
    given = torch.tensor(points, dtype=torch.float32).reshape(1, -1, 3)
    return Prompts(
        torch.tensor([0]),
        given[..., :2],
        given[..., 2].long(),
        None if box is None else torch.tensor([box]),
        None if logits is None else torch.tensor([[logits]]),
    )


def encoded(segmenter: PixelSegmenter, *size: int) -> Embeddings:
    return segmenter.encode(torch.zeros(1, 3, *size, dtype=torch.uint8))


def answer(segmenter: PixelSegmenter, embeddings: Embeddings, prompts: Prompts) -> list[list[bool]]:
    """The mask of the only query; its two candidates are the same."""
    found = segmenter.decode(embeddings, prompts)
    assert torch.equal(found.logits[:, 0], found.logits[:, 1])
    assert found.predicted_iou.isnan().all()
    return segmenter.to_original(found.logits[:, 0], embeddings)[0].tolist()


WIDE = [[-1.0, 0.0, 2.0, 0.1], [3.0, -0.1, -5.0, 9.0]]


def test_the_mask_that_a_prompt_itself_says():
    none = Unsegmented()
    embeddings = encoded(none, 2, 4)
    assert answer(none, embeddings, asked(logits=WIDE)) == [[False, False, True, True], [True, False, False, True]]
    middle = [0.5, -0.5, 2.5, 1.5]  # its edges run between pixels
    assert answer(none, embeddings, asked(box=middle)) == [[False, True, True, False]] * 2
    centres = [1.0, 1.0, 3.0, 1.0]  # and here through their centres
    assert answer(none, embeddings, asked(box=centres)) == [[False] * 4, [False, True, True, True]]
    both = answer(none, embeddings, asked(box=middle, logits=WIDE))
    assert both == [[False, False, True, False], [False, False, False, False]]
    pointed = answer(none, embeddings, asked((0, 0, 1), (2, 0, 0), box=middle))
    assert pointed == [[False, True, True, False]] * 2, "points say nothing of an extent"


def test_points_alone_say_no_mask():
    with pytest.raises(
        InputError, match="sam=none masks what a box or a mask prompt says, and was asked with nei"
    ):
        Unsegmented().decode(encoded(Unsegmented(), 2, 4), asked((0, 0, 1)))


@pytest.mark.parametrize("segmenter", [Unsegmented(), GrabCut()])
def test_mask_logits_of_another_size_are_refused(segmenter: PixelSegmenter):
    with pytest.raises(ValueError, match="mask logits of 4×2 px do not belong to images of 5×3 px"):
        segmenter.decode(encoded(segmenter, 3, 5), asked(logits=WIDE))


@pytest.mark.parametrize(
    ("prompts", "marks"),
    [
        (asked(box=[0.5, 0.5, 2.5, 2.5]), [[S, S, S, S], [S, P, P, S], [S, P, P, S]]),
        (asked((0, 0, 1), (2, 1, 0), box=[0.5, 0.5, 2.5, 2.5]), [[F, S, S, S], [S, P, S, S], [S, P, P, S]]),
        (asked((1.4, 0.6, 1), (0, 2, 0)), [[S, S, S, S], [S, F, P, S], [S, S, S, S]]),
        (  # σ(±2) is 0.88 and 0.12, σ(±3) 0.95 and 0.05
            asked((3, 2, 1), logits=[[3, 2, 0.1, 0], [-2, -3, 9, -9], [3, 3, -3, -3]]),
            [[F, P, P, Q], [Q, S, F, S], [F, F, S, F]],
        ),
        (
            asked(box=[0.5, -0.5, 2.5, 1.5], logits=[[3, 2, 0.1, 0], [-2, -3, 9, -9], [3, 3, -3, -3]]),
            [[S, P, P, S], [S, S, F, S], [S, S, S, S]],
        ),
    ],
)
def test_what_a_prompt_makes_of_pixels(prompts: Prompts, marks: list[list[int]]):
    segmenter = GrabCut(sure_foreground=0.9, sure_background=0.1)
    assert segmenter.marks(prompts, (3, 4)).tolist() == marks


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray]:
    """A noisy red disc on noisy green, 50×40 px, and where it is."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:40, :50]
    disc = (x - 22) ** 2 + (y - 18) ** 2 < 10**2
    colours = np.where(disc[..., None], [190, 60, 60], [60, 170, 70])
    return (colours + random.normal(0, 12, colours.shape)).clip(0, 255).astype(np.uint8), disc


def soft(disc: np.ndarray, *, shift: int) -> list[list[float]]:
    """Logits that are sure nowhere and lie beside the disc."""
    return np.where(np.roll(disc, shift, 1), 2.0, -2.0).tolist()


@pytest.mark.parametrize(
    "how", ["box", "mask", "points", "box and points"]
)  # the box is larger than the disc, the mask 5 px beside it
def test_grabcut_finds_what_has_another_colour(scene: tuple[np.ndarray, np.ndarray], how: str):
    image, disc = scene
    prompts = {
        "box": asked(box=[8.5, 4.5, 37.5, 34.5]),
        "mask": asked(logits=soft(disc, shift=5)),
        "points": asked((22, 18, 1)),
        "box and points": asked((22, 18, 1), (10, 6, 0), box=[8.5, 4.5, 37.5, 34.5]),
    }[how]
    segmenter = GrabCut()
    embeddings = segmenter.encode(torch.from_numpy(image).permute(2, 0, 1)[None])
    found = np.array(answer(segmenter, embeddings, prompts))
    assert (found & disc).sum() / (found | disc).sum() > 0.97


def test_grabcut_is_opencvs_and_repeats_whatever_was_drawn_before():
    """On patches of random colours, where it matters with which colours k-means starts."""
    cv2 = pytest.importorskip("cv2")
    patches = np.random.default_rng(6).integers(0, 256, (8, 10, 3)).astype(np.uint8)
    image = patches.repeat(5, 0).repeat(5, 1)
    marks = np.zeros((40, 50), np.uint8)
    marks[5:35, 8:38] = P

    def directly(seed: int) -> np.ndarray:
        found, models = np.zeros_like(marks), (np.zeros((1, 65)), np.zeros((1, 65)))
        cv2.setRNGSeed(seed)
        cv2.grabCut(image[..., ::-1].copy(), found, (8, 5, 30, 30), *models, 3, cv2.GC_INIT_WITH_RECT)
        return found % 2 == 1

    assert not np.array_equal(directly(0), directly(1))
    for _ in range(2):
        assert np.array_equal(grabcut(image, marks, 3), directly(0))
        cv2.setRNGSeed(7)
    assert marks[10, 10] == P, "what was given stays as it is"


@pytest.mark.parametrize("mark", [S, F, Q, P])
def test_without_a_second_side_the_mask_is_what_is_marked(mark: int):
    marks = np.full((4, 5), mark, dtype=np.uint8)
    assert (grabcut(np.zeros((4, 5, 3), np.uint8), marks) == (mark in (F, P))).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (2, 2), (3, 3)])
@pytest.mark.parametrize("prompts", [asked((0, 0, 1)), asked(box=[-0.5, -0.5, 0.5, 0.5])])
def test_tiny_pictures_of_one_colour_have_an_answer(size: tuple[int, int], prompts: Prompts):
    found = np.array(answer(GrabCut(), encoded(GrabCut(), *size), prompts))
    assert found.shape == size
    if size == (1, 1):
        assert found.all()


def test_grabcut_without_opencv_names_its_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r'cv2, which is not installed: pip install "gradsam_exp\[grabcut\]"'):
        SEGMENTERS.build({"name": "grabcut"})


def heated(size: tuple[int, int], seed: int) -> PromptContext:
    values = torch.rand(3, *size, generator=torch.Generator().manual_seed(seed))
    values[0] /= values[0].max()
    values[1, 0, 0], values[2] = 1.0, 0.0  # the last is empty
    heatmaps = Heatmaps(values, torch.tensor([False, False, True]), torch.zeros(3, dtype=torch.long))
    return PromptContext(torch.zeros(3, 3, *size, dtype=torch.uint8), heatmaps)


def test_the_heatmap_at_a_threshold_is_exact_in_pictures_of_any_size():
    """Together, as a run segments them; a low-resolution grid would not keep these maps of noise."""
    none = Unsegmented()
    contexts = [heated(size, seed) for seed, size in enumerate([(48, 64), (30, 41), (64, 48), (7, 301)])]
    pipeline = Pipeline(STRATEGIES.build({"name": "threshold", "fg_threshold": 0.4}), none, PredictedIoU())
    results = pipeline.together([(ctx, none.encode(ctx.images)) for ctx in contexts])
    for ctx, result in zip(contexts, results, strict=True):
        values = ctx.heatmaps.values
        expected = (values >= torch.tensor(0.4) * values.amax((1, 2), keepdim=True)) & (values > 0)
        assert torch.equal(result.masks, expected)
        assert result.masks[1, 0, 0]
        assert not result.masks[2].any()
        assert result.predicted_iou.isnan().all()


def test_a_mask_that_is_fed_back_can_still_change():
    logits = GrabCut().decode(encoded(GrabCut(), 9, 9), asked(box=[2.5, 2.5, 5.5, 5.5])).logits[0, 0]
    assert set(GrabCut().marks(asked(logits=logits.tolist()), (9, 9)).flat) <= {P, Q}


def test_answers_can_be_kept(scene: tuple[np.ndarray, np.ndarray]):
    image, disc = scene
    segmenter = CachedSegmenter(GrabCut(), 2**24)
    embeddings = segmenter.encode(torch.from_numpy(image).permute(2, 0, 1)[None])
    prompts = asked(logits=soft(disc, shift=5))
    first, again = (segmenter.decode(embeddings, prompts) for _ in range(2))
    assert (segmenter.asked, segmenter.decoded) == (2, 1)
    assert torch.equal(first.logits, again.logits)


@pytest.mark.parametrize(
    ("strategy", "sam", "problem"),
    [
        ("fg", "none", "pipeline=fg prompts with points, which sam=none does not accept; it accepts boxes, masks"),
        ("persam", "grabcut", "pipeline=persam compares an image's embeddings, which sam=grabcut does not have"),
        (
            "everything_vote",
            "grabcut",
            "pipeline=everything_vote needs SAM's everything mode, which sam=grabcut do",
        ),
    ],
)
def test_what_only_a_network_has_is_refused(strategy: str, sam: str, problem: str):
    with pytest.raises(InputError, match=problem):
        check_strategy(STRATEGIES.build({"name": strategy}), SEGMENTERS.build({"name": sam}), strategy, sam)
