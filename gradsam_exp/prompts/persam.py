"""This module holds ``pipeline=persam``: points where the segmenter's own features are most and least alike."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass

from gradsam_exp.prompts.base import FG_THRESHOLD, STRATEGIES, Count, PromptStrategy, Select, chosen_rows
from gradsam_exp.prompts.components import warm_pixels
from gradsam_exp.prompts.foreground import pixel_positions
from gradsam_exp.prompts.regions import Cascade
from gradsam_exp.prompts.thresholds import Threshold
from gradsam_exp.types import (
    BACKGROUND,
    FOREGROUND,
    Choice,
    Chosen,
    LowRes,
    Maps,
    Masks,
    PromptContext,
    Prompts,
    Segmentation,
)

INSIDE = 123.675 / 255
"""A cell's middle is warm above this: `persam.py` normalizes its mask as an image, and takes what is above 0."""


@STRATEGIES.register("persam")
@dataclass(frozen=True)
class PerSam(PromptStrategy):
    """PerSam clicks the pixel whose features are most like the warm pixels', and the least alike as background.

    "Personalize Segment Anything Model with One Shot" (Zhang et al., ICLR 2024, section 3.2, `persam.py` of
    github.com/ZrrSkywalker/Personalize-SAM), without training and with the image's own warm pixels for its
    reference mask: the cosine of SAM's features with their mean there, over cells whose middle is warm. The first
    answer is the single mask; it is fed back as a mask prompt, and that answer with its box.

    It departs from that code in four points. Target-guided attention, which changes SAM's decoder, is left out.
    Where the warm pixels are in the middle of no cell, the cells that they touch are taken; the code's mean is not
    defined there. The cosine is interpolated to pixels once, without the padding below the image, not in three
    steps over it. A box goes around its pixels as everywhere in this package: half a pixel wider on every side.

    Attributes:
        fg_threshold: warm pixels have at least this share of the heatmap's maximum; or a rule, see
            `Threshold`.
        max_rounds: each image is asked so often; 1 without refinement.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"points", "boxes", "masks"})
    needs: ClassVar[frozenset[str]] = frozenset({"embeddings"})

    fg_threshold: Threshold = FG_THRESHOLD
    max_rounds: Count = 3

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query of two points per image; the whole image is warm where the heatmap is empty."""
        alike = self.similarity(ctx).flatten(1)
        points = torch.stack([pixel_positions(flat, ctx.size) for flat in (alike.argmax(1), alike.argmin(1))], 1)
        return Prompts(torch.arange(len(ctx)), points, torch.tensor([FOREGROUND, BACKGROUND]).repeat(len(ctx), 1))

    def similarity(self, ctx: PromptContext) -> Maps:
        """Compute the cosine of each pixel's features with the mean of the warm ones, in [−1, 1]."""
        features = ctx.features
        assert features is not None  # they are needed
        rows, columns = features.shape[2:]
        warm = warm_pixels(ctx, self.fg_threshold)[:, None].float()
        middle = F.interpolate(warm, (rows, columns), mode="bilinear", align_corners=False) > INSIDE
        touched = F.adaptive_max_pool2d(warm, (rows, columns)) > 0
        warm = torch.where(middle.flatten(1).any(1)[:, None, None, None], middle, touched)
        target = (features * warm).sum((2, 3), keepdim=True)
        alike = F.cosine_similarity(features, target, dim=1)  # the mean's direction is the sum's
        return F.interpolate(alike[:, None], ctx.size, mode="bilinear", align_corners=False)[:, 0]

    def choose(self, ctx: PromptContext, prompts: Prompts, segmentation: Segmentation, select: Select) -> Choice:
        """Keep the single mask in the first round, and later what the selector chooses."""
        if prompts.mask_logits is not None:
            return select(ctx, segmentation)
        single = segmentation.single
        return chosen_rows(
            torch.zeros(len(segmentation), dtype=torch.long) if single is None else single.cpu(), segmentation
        )

    def revise(
        self, ctx: PromptContext, prompts: Prompts, segmentation: Segmentation, masks: Masks, chosen: LowRes
    ) -> tuple[Prompts, Chosen]:
        """Feed the last mask back, from the third round on with its box."""
        refined = Cascade(feed_box=prompts.mask_logits is not None)
        return refined.revise(ctx, prompts, segmentation, masks, chosen)
