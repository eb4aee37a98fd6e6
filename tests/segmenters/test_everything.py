"""Everything mode finds the masks that segment_anything's automatic mask generator finds, for the same weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator
from torch import Tensor

from gradsam_exp.segmenters.base import SEGMENTERS
from gradsam_exp.segmenters.compact import build_compact
from gradsam_exp.segmenters.everything import everything
from gradsam_exp.segmenters.sam import SamSegmenter
from gradsam_exp.types import EverythingMode, ExampleBatch, MaskSet
from tests.album import Album
from tests.segmenters.test_equals_sam_predictor import images, randomised

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
    trained = SEGMENTERS.build({"name": "compact", "coordinates": "corners"})
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
