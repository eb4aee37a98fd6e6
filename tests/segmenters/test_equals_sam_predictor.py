"""The same weights and the same input-frame coordinates give the masks that `SamPredictor` gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor, nn

from gradsam_exp.segmenters.base import Embeddings
from gradsam_exp.segmenters.compact import build_compact
from gradsam_exp.segmenters.decoder import predict_masks
from gradsam_exp.segmenters.sam import SamSegmenter
from gradsam_exp.types import Prompts
from tests.faults.counts import only_soaking

pytestmark = pytest.mark.slow  # whole networks, and their other implementations

# How many points each kind of prompt has beside its box or mask.
KINDS = {"points": 1, "9 points": 9, "13 points": 13, "box": 0, "box+points": 3, "mask+points": 2, "mask": 0}
SIZES = [(48, 64), (64, 48), (64, 64), (100, 37), (300, 400)]


def randomised(build: Callable[[], Sam]) -> Sam:
    """Random weights, positional ones included: segment-anything starts those at zero, which would hide errors."""
    torch.manual_seed(0)
    sam = build()
    for name, parameter in sam.image_encoder.named_parameters():
        if "pos_embed" in name or "rel_pos" in name:
            nn.init.normal_(parameter, std=0.2)
    return sam.eval()


@pytest.fixture(scope="module")
def compact() -> SamSegmenter:
    segmenter = SamSegmenter(lambda: randomised(build_compact), "random")
    segmenter.load(torch.device("cpu"))
    return segmenter


@pytest.fixture(scope="module")
def vit_b() -> SamSegmenter:
    segmenter = SamSegmenter(lambda: randomised(sam_model_registry["vit_b"]), "random")
    segmenter.load(torch.device("cpu"))
    return segmenter


def images(height: int, width: int, count: int) -> Tensor:
    torch.manual_seed(height)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)


def random_prompts(segmenter: SamSegmenter, size: tuple[int, int], count: int, kind: str) -> Prompts:
    """One query per image, of one kind; every query its own coordinates."""
    height, width = size
    generator = torch.Generator().manual_seed(7)
    points = KINDS[kind]
    xy = torch.rand(count, points, 2, generator=generator) * torch.tensor([width - 1.0, height - 1.0])
    labels = (torch.rand(count, points, generator=generator) > 0.4).long()
    low = segmenter.model.image_encoder.img_size // 4
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([width / 2, height / 2])
    boxes = torch.cat([corner, corner + torch.tensor([width / 3, height / 3])], 1) if "box" in kind else None
    masks = torch.randn(count, 1, low, low, generator=generator) * 4 if "mask" in kind else None
    return Prompts(torch.arange(count), xy, labels, boxes, masks)


def ask(
    predictor: SamPredictor, segmenter: SamSegmenter, embeddings: Embeddings, prompts: Prompts
) -> tuple[Tensor, Tensor, Tensor]:
    """One query in upstream's own code: logits and scores of all four masks, and the best candidate's mask."""
    points = (
        segmenter.to_input(prompts.points, embeddings, prompts.example_index) if prompts.points.shape[1] else None
    )
    labels = prompts.labels if points is not None else None
    boxes = None
    if prompts.boxes is not None:
        boxes = segmenter.to_input(prompts.boxes.unflatten(1, (2, 2)), embeddings, prompts.example_index).flatten(
            1
        )
    several = predictor.predict_torch(points, labels, boxes, prompts.mask_logits, multimask_output=True)
    single = predictor.predict_torch(points, labels, boxes, prompts.mask_logits, multimask_output=False)
    logits = torch.cat([single[2], several[2]], 1)[0]
    scores = torch.cat([single[1], several[1]], 1)[0]
    return logits, scores, several[0][0, several[1][0].argmax()]


def check(segmenter: SamSegmenter, size: tuple[int, int], kinds: Iterable[str], count: int) -> None:
    batch = images(*size, count)
    embeddings = segmenter.encode(batch)
    predictors = [SamPredictor(segmenter.model) for _ in range(count)]
    for predictor, image in zip(predictors, batch, strict=True):
        predictor.set_image(image.permute(1, 2, 0).numpy())
    for kind in kinds:
        prompts = random_prompts(segmenter, size, count, kind)
        ours = segmenter.decode(embeddings, prompts)
        best = 1 + ours.predicted_iou[:, 1:].argmax(1)
        masks = segmenter.to_original(ours.logits[torch.arange(count), best], embeddings)
        for k, predictor in enumerate(predictors):
            logits, scores, mask = ask(predictor, segmenter, embeddings, prompts[torch.tensor([k])])
            assert (ours.logits[k] - logits).abs().max() <= 1e-3 * logits.std(), kind
            assert torch.allclose(ours.predicted_iou[k], scores, atol=1e-4), kind
            assert (masks[k] != mask).float().mean() <= 1e-3, kind


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[1]}x{s[0]}")
def test_compact(compact: SamSegmenter, size: tuple[int, int]):
    check(compact, size, KINDS, count=3)


@only_soaking
@pytest.mark.slow
def test_vit_b(vit_b: SamSegmenter):
    check(vit_b, (300, 200), KINDS, count=1)


def test_queries_of_one_image_and_of_many_do_not_mix(compact: SamSegmenter):
    """Rows in any order, images asked twice or not at all, different numbers of points: each as if alone."""
    batch = images(48, 64, 4)
    embeddings = compact.encode(batch)
    generator = torch.Generator().manual_seed(1)
    index = torch.tensor([2, 0, 2, 3, 0, 2])
    points = torch.rand(6, 5, 2, generator=generator) * 40
    labels = torch.ones(6, 5, dtype=torch.long)
    labels[1, 3:] = -1
    labels[3, 1] = -1  # a gap in the middle
    labels[4] = 0
    prompts = Prompts(index, points, labels)
    together = compact.decode(embeddings, prompts)
    assert torch.equal(together.example_index, index)
    for q in range(6):
        real = labels[q] >= 0
        alone = Prompts(torch.tensor([0]), points[q : q + 1, real], labels[q : q + 1, real])
        answer = compact.decode(compact.encode(batch[index[q] : index[q] + 1]), alone)
        assert torch.allclose(together.logits[q], answer.logits[0], atol=1e-4)
        assert torch.allclose(together.predicted_iou[q], answer.predicted_iou[0], atol=1e-5)


def test_padding_points_would_change_masks(compact: SamSegmenter):
    """Why queries are grouped: SAM attends to points labelled −1."""
    sam = compact.model
    embeddings = compact.encode(images(48, 64, 1)).levels[0]
    one = torch.tensor([[[50.0, 60.0]]])
    padded = torch.cat([one, torch.zeros(1, 2, 2)], 1)
    with torch.no_grad():
        answers = []
        for points, labels in ((one, torch.tensor([[1.0]])), (padded, torch.tensor([[1.0, -1.0, -1.0]]))):
            sparse, dense = sam.prompt_encoder((points, labels), None, None)
            answers.append(sam.mask_decoder(embeddings, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)[0])
    assert (answers[0] - answers[1]).abs().max() > 0.05 * answers[0].std()


def test_company_changes_nothing_but_rounding(compact: SamSegmenter):
    batch = images(48, 64, 9)
    prompts = random_prompts(compact, (48, 64), 9, "9 points")
    whole = compact.decode(compact.encode(batch), prompts)
    for size in (1, 2, 4):
        for start in range(0, 9, size):
            rows = torch.arange(start, min(9, start + size))
            own = Prompts(torch.arange(len(rows)), prompts.points[rows], prompts.labels[rows])
            part = compact.decode(compact.encode(batch[rows]), own)
            assert torch.allclose(part.logits, whole.logits[rows], atol=1e-5)
            assert torch.allclose(part.predicted_iou, whole.predicted_iou[rows], atol=1e-5)
            assert torch.equal(part.logits > 0, whole.logits[rows] > 0)


def test_pixel_centres_stay_pixel_centres(compact: SamSegmenter):
    embeddings = compact.encode(images(48, 64, 1))
    corners = torch.tensor([[-0.5, -0.5], [63.5, 47.5], [0.0, 0.0]])
    assert compact.to_input(corners[None], embeddings, torch.tensor([0])).tolist() == [
        [[-0.5, -0.5], [255.5, 191.5], [1.5, 1.5]]
    ]


def test_no_query_is_no_error(compact: SamSegmenter):
    embeddings = compact.encode(images(48, 64, 2))
    nothing = Prompts(torch.zeros(0, dtype=torch.long), torch.zeros(0, 1, 2), torch.zeros(0, 1, dtype=torch.long))
    assert compact.decode(embeddings, nothing).logits.shape == (0, 4, 64, 64)


def test_an_unloaded_segmenter_says_so():
    with pytest.raises(RuntimeError, match="call load"):
        SamSegmenter(build_compact, "x").encode(images(8, 8, 1))


def test_upsampled_masks_are_upstreams(compact: SamSegmenter):
    embeddings = compact.encode(images(37, 100, 1))
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 64, 64))).float()
    expected = compact.model.postprocess_masks(logits[:, None], embeddings.input_size, (37, 100))[:, 0] > 0
    assert torch.equal(compact.to_original(logits, embeddings), expected)


def test_the_decoder_takes_no_query_at_all(compact: SamSegmenter):
    """A training batch may have none."""
    model = compact.model
    nothing = torch.zeros(0, 128, 16, 16)
    logits, scores = predict_masks(model, [nothing], torch.zeros(0, 2, 128), nothing)
    assert logits.shape == (0, 4, 64, 64)
    assert scores.shape == (0, 4)


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[1]}x{s[0]}")
def test_corners_are_what_predict_does_with_original_coordinates(compact: SamSegmenter, size: tuple[int, int]):
    segmenter = SamSegmenter(lambda: compact.model, "random", coordinates="corners")
    segmenter.load(torch.device("cpu"))
    batch = images(*size, 2)
    embeddings = segmenter.encode(batch)
    for kind in ("points", "9 points", "box+points", "mask+points"):
        prompts = random_prompts(segmenter, size, 2, kind)
        ours = segmenter.decode(embeddings, prompts)
        centred = compact.decode(embeddings, prompts)
        for k in range(2):
            predictor = SamPredictor(compact.model)
            predictor.set_image(batch[k].permute(1, 2, 0).numpy())
            own = prompts[torch.tensor([k])]
            assert torch.equal(
                segmenter.to_input(own.points, embeddings, torch.tensor([k])),
                torch.from_numpy(predictor.transform.apply_coords(own.points.numpy(), size)).float(),
            )
            box = None if own.boxes is None else own.boxes[0].numpy()
            mask = None if own.mask_logits is None else own.mask_logits[0].numpy()
            masks, scores, logits = predictor.predict(own.points[0].numpy(), own.labels[0].numpy(), box, mask)
            assert np.abs(ours.logits[k, 1:].numpy() - logits).max() <= 1e-4 * logits.std(), kind
            assert np.allclose(ours.predicted_iou[k, 1:].numpy(), scores, atol=1e-5), kind
            assert (segmenter.to_original(ours.logits[k, 1:], embeddings).numpy() != masks).mean() <= 1e-4, kind
            if size[0] < 256:
                assert np.abs(centred.logits[k, 1:].numpy() - logits).max() > 1e-2 * logits.std(), kind
