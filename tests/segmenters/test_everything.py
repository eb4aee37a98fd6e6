"""Everything mode finds the masks that segment_anything's automatic mask generator finds, for the same weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator
from torch import Tensor

from gradsam_exp.digest import Sources
from gradsam_exp.segmenters.base import SEGMENTERS
from gradsam_exp.segmenters.checkpoints import load_segmenter
from gradsam_exp.segmenters.compact import build_compact
from gradsam_exp.segmenters.everything import everything
from gradsam_exp.segmenters.sam import SamSegmenter
from gradsam_exp.types import EverythingMode, ExampleBatch, MaskSet, Prompts
from tests.album import Album
from tests.hf_models import SIDES, saved
from tests.segmenters.test_equals_sam_predictor import images, randomised

pytestmark = pytest.mark.slow  # whole networks, many times

MODE = EverythingMode(points_per_side=12, pred_iou_thresh=0.8, stability_score_thresh=0.7, box_nms_thresh=1.0)


@pytest.fixture(scope="module")
def sure() -> SamSegmenter:
    """Random weights whose answers are steep, of which about half are predicted to be good."""
    sam = randomised(build_compact)
    sam.mask_decoder.iou_prediction_head.layers[-1].bias.data += 0.8
    for mlp in sam.mask_decoder.output_hypernetworks_mlps:
        mlp.layers[-1].weight.data *= 300
    segmenter = SamSegmenter(lambda: sam, "random", coordinates="corners")
    segmenter.load(torch.device("cpu"))
    return segmenter


@pytest.mark.parametrize("size", [(48, 64), (150, 100)])
def test_the_same_masks_as_the_automatic_mask_generator(sure: SamSegmenter, size: tuple[int, int]):
    """Random weights paint all of the image, so that suppression would leave one mask."""
    agree(sure, images(*size, 1), MODE)


def test_the_same_masks_of_trained_weights(batch: ExampleBatch):
    trained = SEGMENTERS.build({"name": "compact_drawn", "coordinates": "corners"})
    trained.load(torch.device("cpu"))
    agree(trained, batch.images[:1], replace(MODE, pred_iou_thresh=0.7, box_nms_thresh=0.7))


def agree(segmenter: SamSegmenter, image: Tensor, mode: EverythingMode) -> None:
    ours = everything(segmenter, segmenter.encode(image), mode)
    generator = SamAutomaticMaskGenerator(segmenter.model, **vars(mode))
    theirs = generator.generate(image[0].permute(1, 2, 0).numpy())
    assert len(ours) == len(theirs) > 3
    for mask, point, iou, stability, their in zip(
        ours.masks, ours.points, ours.predicted_iou, ours.stability, theirs, strict=True
    ):
        assert (mask.numpy() != their["segmentation"]).sum() <= 2, "borders may round otherwise"
        assert point.tolist() == pytest.approx(their["point_coords"][0], rel=1e-5)
        assert float(iou) == pytest.approx(their["predicted_iou"], abs=1e-5)
        assert float(stability) == pytest.approx(their["stability_score"], abs=2e-3)


def test_the_defaults_are_the_automatic_mask_generators(sure: SamSegmenter):
    generator = SamAutomaticMaskGenerator(sure.model)
    mode = EverythingMode()
    assert len(generator.point_grids[0]) == mode.points_per_side**2
    for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh"):
        assert getattr(generator, name) == getattr(mode, name)


def test_clicks_stay_inside_the_smallest_images_and_nothing_may_be_found():
    album = Album()
    embeddings = album.encode(torch.zeros(1, 3, 6, 8, dtype=torch.uint8))
    mode = replace(EverythingMode(), pred_iou_thresh=0.0, stability_score_thresh=0.0)
    assert len(everything(album, embeddings, mode)) > 0, "32 clicks along 8 px"
    none = everything(album, embeddings, replace(mode, pred_iou_thresh=1.0))
    assert none.masks.shape == (0, 6, 8)


def test_masks_are_packed_and_unpacked():
    masks = torch.rand(5, 7, 9) > 0.5
    one = torch.zeros(5)
    packed = MaskSet(MaskSet.pack(masks), torch.zeros(5, 2), one.long(), one, one, (7, 9))
    assert torch.equal(packed.masks, masks)
    assert torch.equal(packed[torch.tensor([3, 1])].masks, masks[[3, 1]])


@pytest.mark.parametrize("kind", SIDES)
def test_segmenters_of_transformers_find_everything_and_have_features(kind: str, tmp_path: Path):
    """What is found is what the click answers when asked again; features are the coarsest level, unpadded."""
    segmenter = load_segmenter("hf", id=str(saved(kind, tmp_path / kind)))
    embeddings = segmenter.encode(images(60, 90, 2))
    height, width = embeddings.input_size
    side = SIDES[kind] // (14 if kind == "sam3_tracker" else 16)  # px of a cell
    rows, columns = (math.ceil(side * length / max(height, width)) for length in (height, width))
    assert embeddings.features.shape == (2, 32, rows, columns)
    found = everything(segmenter, embeddings.of_images(slice(1, 2)), EverythingMode(4, -9.0, 0.0, 1.0))
    assert len(found) > 0
    clicks = Prompts(torch.ones(len(found)).long(), found.points[:, None], torch.ones(len(found), 1).long())
    answer = segmenter.decode(embeddings, clicks)
    logits = answer.logits[torch.arange(len(found)), found.candidate]
    assert (segmenter.to_original(logits, embeddings) != found.masks).sum() <= len(found), "borders may round"


def test_an_edit_of_a_strategy_makes_no_mask_again():
    reached = Sources().reached("gradsam_exp.engine.stages.everything")
    assert "gradsam_exp.segmenters.everything" in reached
    assert not [name for name in reached if name.startswith(("gradsam_exp.prompts", "gradsam_exp.explainers"))]
