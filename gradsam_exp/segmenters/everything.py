"""This module finds everything in an image: the masks of a grid of single clicks that a segmenter is sure of."""

import torch
from torchvision.ops import masks_to_boxes, nms

from gradsam_exp.segmenters.base import Embeddings, Segmenter
from gradsam_exp.types import EverythingMode, MaskSet, Prompts

CLICKS = 64  # asked together, which bounds memory
STABILITY_OFFSET = 1.0  # logit


@torch.no_grad()
def everything(segmenter: Segmenter, embeddings: Embeddings, mode: EverythingMode) -> MaskSet:
    """Ask about a grid of clicks; the masks are those of segment_anything's `SamAutomaticMaskGenerator`.

    They equal its masks for the same weights, without crops of the image and with ``sam.coordinates=corners``.

    Args:
        segmenter: loaded.
        embeddings: of one image.
    """
    height, width = embeddings.original_size
    along = (torch.arange(mode.points_per_side, dtype=torch.float64) + 0.5) / mode.points_per_side
    y, x = torch.meshgrid(along * height, along * width, indexing="ij")
    furthest = torch.tensor([width - 0.5, height - 0.5], dtype=torch.float64)
    clicks = torch.stack([x, y], -1).flatten(0, 1).minimum(furthest).float()
    parts = [_sure(segmenter, embeddings, mode, some) for some in clicks.split(CLICKS)]
    masks, boxes, points, candidate, predicted_iou, stability = map(torch.cat, zip(*parts, strict=True))
    kept = nms(boxes, predicted_iou, mode.box_nms_thresh)
    return MaskSet(
        MaskSet.pack(masks[kept]),
        points[kept],
        candidate[kept],
        predicted_iou[kept],
        stability[kept],
        (height, width),
    )


def _sure(
    segmenter: Segmenter, embeddings: Embeddings, mode: EverythingMode, clicks: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Ask about some clicks, and keep what is sure: masks, boxes, clicks, candidates and scores, on the CPU."""
    count = len(clicks)
    asked = Prompts(torch.zeros(count, dtype=torch.long), clicks[:, None], torch.ones(count, 1, dtype=torch.long))
    answer = segmenter.decode(embeddings, asked)
    query, candidate = (answer.predicted_iou[:, 1:] > mode.pred_iou_thresh).nonzero(as_tuple=True)
    logits = answer.logits[query, candidate + 1]
    # Resizing keeps constants: a shifted logit's sign says on which side of the shift the resized one is.
    inner, outer = (
        segmenter.to_original(logits + shift, embeddings).sum((1, 2))
        for shift in (-STABILITY_OFFSET, STABILITY_OFFSET)
    )
    stability = inner / outer  # NaN, and so left out, where there is nothing
    masks = segmenter.to_original(logits, embeddings)
    kept = (stability >= mode.stability_score_thresh) & masks.flatten(1).any(1)
    masks, query, candidate = (value[kept].cpu() for value in (masks, query, candidate))
    boxes = masks_to_boxes(masks).float() if len(masks) else torch.zeros(0, 4)
    predicted_iou = answer.predicted_iou.cpu()[query, candidate + 1]
    return masks, boxes, clicks[query], candidate + 1, predicted_iou, stability[kept].cpu()
