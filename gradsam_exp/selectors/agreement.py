"""These selectors look at how masks overlap the heatmap, at their area, or (oracle) at the truth."""

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from gradsam_exp.overlap import iou, only_counted, soft_iou
from gradsam_exp.selectors.base import SELECTORS, MaskSelector, best_by, candidates_only
from gradsam_exp.types import Choice, PromptContext, Segmentation


@SELECTORS.register("heatmap_agreement")
@dataclass(frozen=True)
class HeatmapAgreement(MaskSelector):
    """HeatmapAgreement keeps the candidate with the largest soft IoU with the heatmap, ``Σ p·h / Σ max(p, h)``.

    ``p`` is the candidate's probability and ``h`` the heatmap on the segmenter's grid.
    """

    def __call__(self, ctx: PromptContext, segmentation: Segmentation) -> Choice:
        """Choose for each image, see `MaskSelector.__call__`."""
        return best_by(candidates_only(_agreement(ctx, segmentation)), segmentation)


@SELECTORS.register("hybrid")
@dataclass(frozen=True)
class Hybrid(MaskSelector):
    """Hybrid keeps the candidate with the largest ``w·(soft IoU with the heatmap) + (1 − w)·(predicted IoU)``.

    Where the segmenter makes no estimate of the IoU, only the heatmap counts.

    Attributes:
        weight: ``w``; 0 is `PredictedIoU`, 1 is `HeatmapAgreement`.
    """

    weight: Annotated[float, Field(ge=0, le=1)] = 0.5

    def __call__(self, ctx: PromptContext, segmentation: Segmentation) -> Choice:
        """Choose for each image, see `MaskSelector.__call__`."""
        agreement, predicted_iou = _agreement(ctx, segmentation), segmentation.predicted_iou
        values = self.weight * agreement + (1 - self.weight) * predicted_iou
        values = torch.where(predicted_iou.isnan(), agreement, values)
        return best_by(candidates_only(values), segmentation)


@SELECTORS.register("distrust")
@dataclass(frozen=True)
class Distrust(MaskSelector):
    """Distrust keeps the candidate with the largest predicted IoU, or the next one where the segmenter is unsure.

    Unsure is a largest predicted IoU below ``threshold``; the candidate with the second largest is then kept if it
    agrees better with the heatmap, see `HeatmapAgreement`. Both are of all queries of an example.

    Attributes:
        threshold: predicted IoU; 0 is `PredictedIoU`.
    """

    threshold: Annotated[float, Field(ge=0, le=1)] = 0.78

    def __call__(self, ctx: PromptContext, segmentation: Segmentation) -> Choice:
        """Choose for each image, see `MaskSelector.__call__`."""
        scores = candidates_only(segmentation.predicted_iou)
        best = best_by(scores, segmentation)
        following = best_by(_without(scores, best), segmentation)
        agreement = _agreement(ctx, segmentation).cpu()
        agrees = [agreement[one.query, one.candidate] for one in (best, following)]
        offered = scores.cpu()[following.query, following.candidate] > -torch.inf
        changed = offered & (best.predicted_iou < self.threshold) & (agrees[1] > agrees[0])
        return Choice(
            best.example_index,
            torch.where(changed, following.query, best.query),
            torch.where(changed, following.candidate, best.candidate),
            torch.where(changed, following.predicted_iou, best.predicted_iou),
        )


@SELECTORS.register("largest")
@dataclass(frozen=True)
class Largest(MaskSelector):
    """Largest keeps the candidate with the largest area."""

    def __call__(self, ctx: PromptContext, segmentation: Segmentation) -> Choice:
        """Choose for each image, see `MaskSelector.__call__`."""
        area = ((segmentation.logits > 0) * _inside(ctx, segmentation)[:, None]).sum((2, 3))
        return best_by(candidates_only(area), segmentation)


@SELECTORS.register("oracle")
@dataclass(frozen=True)
class BestOfThree(MaskSelector):
    """BestOfThree keeps the candidate with the largest IoU with the true mask: an upper bound, not a method.

    Only pixels that count are looked at.
    """

    needs_truth = True

    def __call__(self, ctx: PromptContext, segmentation: Segmentation) -> Choice:
        """Choose for each image, see `MaskSelector.__call__`.

        Raises:
            ValueError: if the true masks are not known.
        """
        if ctx.masks is None:
            raise ValueError("the oracle selector needs true masks")
        truth = ctx.masks[segmentation.example_index][:, None]
        masks = ctx.low_res.to_original(segmentation.logits.flatten(0, 1)).cpu()
        masks = masks.unflatten(0, segmentation.logits.shape[:2])
        counted = None if ctx.counted is None else ctx.counted[segmentation.example_index][:, None]
        quality = iou(*only_counted(masks, truth, counted=counted)).float()
        return best_by(candidates_only(quality), segmentation)


def _agreement(ctx: PromptContext, segmentation: Segmentation) -> Float[Tensor, "queries candidates"]:
    """Compute the agreement of every candidate with its image's heatmap."""
    logits = segmentation.logits
    heat = ctx.low_res.to_low_res(ctx.heatmaps.values).to(logits.device)[segmentation.example_index][:, None]
    probability = logits.sigmoid() * _inside(ctx, segmentation)[:, None]
    return soft_iou(probability, heat)


def _without(values: Float[Tensor, "queries candidates"], choice: Choice) -> Float[Tensor, "queries candidates"]:
    """Rule out the candidates of a choice, by the value −inf."""
    others = values.clone()
    others[choice.query.to(values.device), choice.candidate.to(values.device)] = -torch.inf
    return others


def _inside(ctx: PromptContext, segmentation: Segmentation) -> Float[Tensor, "queries rows columns"]:
    """Compute 1 where there is image, 0 on padding."""
    ones = torch.ones_like(ctx.heatmaps.values[:1])
    return ctx.low_res.to_low_res(ones).to(segmentation.logits.device).expand(len(segmentation.logits), -1, -1)
