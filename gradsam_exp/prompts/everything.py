"""These strategies choose among the masks that a segmenter finds everywhere in an image."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from jaxtyping import Bool
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from gradsam_exp.overlap import iou
from gradsam_exp.prompts.base import STRATEGIES, Fraction, Gap, PromptStrategy
from gradsam_exp.prompts.components import warm_pixels
from gradsam_exp.prompts.regions import box_prompts, warm_boxes
from gradsam_exp.prompts.thresholds import Threshold
from gradsam_exp.types import (
    Chosen,
    EverythingMode,
    LowRes,
    Masks,
    MaskSet,
    PromptContext,
    Prompts,
    Segmentation,
)

Kept = Bool[Tensor, " _"]


@dataclass(frozen=True)
class WithEverything(PromptStrategy):
    """Base class of strategies that need everything mode; its masks are made once, and stored as embeddings are.

    Attributes:
        points_per_side, pred_iou_thresh, stability_score_thresh, box_nms_thresh: of `EverythingMode`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"everything"})
    selects: ClassVar[bool] = True

    points_per_side: Annotated[int, Field(ge=1, le=128)] = EverythingMode.points_per_side
    pred_iou_thresh: Fraction = EverythingMode.pred_iou_thresh
    stability_score_thresh: Fraction = EverythingMode.stability_score_thresh
    box_nms_thresh: Fraction = EverythingMode.box_nms_thresh

    @property
    def everything(self) -> EverythingMode:  # type: ignore[override]
        """See `PromptStrategy.everything`."""
        return EverythingMode(
            self.points_per_side, self.pred_iou_thresh, self.stability_score_thresh, self.box_nms_thresh
        )

    def kept(self, ctx: PromptContext, row: int, masks: Masks) -> Kept:
        """Tell which of the masks in an example's image are united to its mask."""
        raise NotImplementedError

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask again for the masks that are kept, one query each: an example may have none."""
        kept = [self.kept(ctx, row, found.masks) for row, found in enumerate(ctx.everything)]
        return asked_again(ctx.everything, kept)


@STRATEGIES.register("everything_merge")
@dataclass(frozen=True)
class EverythingMerge(WithEverything):
    """EverythingMerge unites the masks that lie on the warm pixels, or cover most of them.

    SEPL, "Segment Anything Model (SAM) Enhanced Pseudo Labels for Weakly Supervised Semantic Segmentation" (Chen
    et al., arXiv 2305.05803, mask assignment and selection; `merge/max_iou_imp2.py` of github.com/cskyl/SAM_WSSS),
    with the warm pixels for its pseudo label.

    Attributes:
        threshold: warm pixels have at least this share of the heatmap's maximum; or a rule, see `Threshold`.
            An empty heatmap has none.
        own_share: a mask is kept if a larger share of it is warm …
        warm_share: … or at least this share of the warm pixels lies in it.
        fill: warm pixels that are in no mask of the image belong to the answer, as there.
    """

    threshold: Threshold = 0.5
    own_share: Fraction = 0.5
    warm_share: Fraction = 0.85
    fill: bool = True

    def kept(self, ctx: PromptContext, row: int, masks: Masks) -> Kept:
        """Compare each mask with the warm pixels."""
        warm = self._warm(ctx)[row]
        both = (masks & warm).sum((1, 2)).double()
        on_warm = both > self.own_share * masks.sum((1, 2))
        return (on_warm | (both >= self.warm_share * warm.sum())) & (both > 0)

    def complete(self, ctx: PromptContext, masks: Masks) -> Masks:
        """Fill in the warm pixels of which no mask says anything."""
        if not self.fill:
            return masks
        covered = torch.stack([found.masks.any(0) for found in ctx.everything])
        return masks | (self._warm(ctx) & ~covered)

    def _warm(self, ctx: PromptContext) -> Masks:
        return warm_pixels(ctx, self.threshold) & ~ctx.heatmaps.empty[:, None, None]


@STRATEGIES.register("everything_vote")
@dataclass(frozen=True)
class EverythingVote(WithEverything):
    """EverythingVote unites the masks whose mean heat is above their mean background score ``(1 − heat)^alpha``.

    The vote of SAM-based seeding in FMA-WSSS, "Foundation Model Assisted Weakly Supervised Semantic Segmentation"
    (Yang and Gong, WACV 2024; `cat_bg_score` of github.com/HAL-42/FMA-WSSS), with heatmaps that are
    scaled to [0, 1]. Its masks do not overlap, since masks of whole objects go first; ours may, and are united.

    Attributes:
        alpha: a smaller one raises the background; 0.6 for PASCAL VOC there.
    """

    alpha: Annotated[float, Field(gt=0)] = 0.6

    def kept(self, ctx: PromptContext, row: int, masks: Masks) -> Kept:
        """Compare each mask's mean heat with the background's."""
        heat = ctx.heatmaps.values[row].double()
        foreground, background = ((masks * score).sum((1, 2)) for score in (heat, (1 - heat) ** self.alpha))
        return foreground > background


@STRATEGIES.register("box_then_everything")
@dataclass(frozen=True)
class BoxThenEverything(WithEverything):
    """BoxThenEverything asks with the heatmap's box, then takes the image's mask that is most like the answer.

    Borgli, Stensland and Halvorsen, "Automatic Prompt Generation Using Class Activation Maps for Foundational
    Models" (Machine Learning and Knowledge Extraction 7(1), 22, 2025): of the automatically generated masks, the
    one of the largest IoU with the mask that the box gave. The selector chooses the latter; without any overlap it
    stays.

    Attributes:
        box_threshold, margin: of `Box`.
        max_rounds: 1 keeps the mask that the box gave.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"points", "boxes"})
    selects: ClassVar[bool] = False

    box_threshold: Threshold = 0.5
    margin: Gap = 0.0
    max_rounds: Annotated[int, Field(ge=1, le=2)] = 2

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query of one box per image."""
        return box_prompts(warm_boxes(ctx, self.box_threshold, self.margin))

    def revise(
        self, ctx: PromptContext, prompts: Prompts, segmentation: Segmentation, masks: Masks, chosen: LowRes
    ) -> tuple[Prompts, Chosen]:
        """Ask again for the most similar of each image's masks."""
        del prompts, segmentation, chosen
        kept = []
        for found, mask in zip(ctx.everything, masks, strict=True):
            alike = torch.where((found.masks & mask).flatten(1).any(1), iou(found.masks, mask), 0.0)
            kept.append((alike > 0) & (torch.arange(len(found)) == (alike.argmax() if len(found) else 0)))
        return asked_again(ctx.everything, kept), torch.tensor([bool(own.any()) for own in kept])


def asked_again(everything: Sequence[MaskSet], kept: Sequence[Kept]) -> Prompts:
    """Make a query of each mask that is kept: the click that gave it, and which of the answers it is."""
    some = [found[own] for found, own in zip(everything, kept, strict=True)]
    example = torch.repeat_interleave(torch.arange(len(some)), torch.tensor([len(own) for own in some]))
    points = torch.cat([own.points for own in some])[:, None]
    candidate = torch.cat([own.candidate for own in some])
    return replace(Prompts(example, points, torch.ones(len(example), 1, dtype=torch.long)), candidate=candidate)
