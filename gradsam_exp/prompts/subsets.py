"""This module holds ``pipeline=subsets``: many small sets of warm points are asked, the best mask is kept."""

from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from scipy.cluster.vq import kmeans2

from gradsam_exp.prompts.base import STRATEGIES, Count, PromptStrategy, Select
from gradsam_exp.prompts.components import warm_pixels
from gradsam_exp.prompts.thresholds import Threshold
from gradsam_exp.prompts.warm_points import Pixels, stacked, xy_of
from gradsam_exp.types import Choice, PromptContext, Prompts, Segmentation

MASK_PIXELS = 2**24  # of each candidate's masks that are compared together; bounds memory


@STRATEGIES.register("subsets")
@dataclass(frozen=True)
class Subsets(PromptStrategy):
    """Subsets asks about random small sets of points of the warm region, and keeps the mask that fits it best.

    The robust prompt sampler of Matcher (Liu et al., ICLR 2024, `RobustPromptSampler` of
    github.com/aim-uofa/Matcher), with warm pixels for its matched patches: they are clustered by k-means++, and
    points are drawn among the centres. The best mask has the largest purity (share of it that is warm) × coverage
    (share of the warm pixels in it) ``** exponent``; the earth mover's distance to a reference image's features
    has no counterpart here, and one mask is kept rather than ten united.

    Attributes:
        threshold: warm pixels have at least this share of the heatmap's maximum; or a rule, see `Threshold`.
        centres: clusters of the warm pixels.
        fewest, most: points of a set are from ``fewest`` to ``most``, and no more than there are centres.
        draws: sets of each size, those that are drawn twice asked once.
        exponent: of coverage.
    """

    selects: ClassVar[bool] = True

    threshold: Threshold = 0.5
    centres: Count = 8
    fewest: Count = 4
    most: Count = 6
    draws: Count = 30
    exponent: Annotated[float, Field(ge=0)] = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> "Subsets":
        if self.fewest > self.most:
            raise ValueError(f"fewest={self.fewest} must not be above most={self.most}")
        return self

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query for every set, the same however images are batched."""
        sets: list[Pixels] = []
        example: list[int] = []
        for row, warm in enumerate(warm_pixels(ctx, self.threshold).numpy()):
            own = self._sets(xy_of(warm), ctx.generator(row))
            sets += own
            example += [row] * len(own)
        return stacked(sets, torch.tensor(example, dtype=torch.long))

    def _sets(self, pixels: Pixels, random: np.random.Generator) -> list[Pixels]:
        """Draw the sets of one example."""
        centres = pixels
        if len(pixels) > self.centres:
            centres = kmeans2(pixels, self.centres, minit="++", rng=random)[0]
        drawn = {
            tuple(sorted(random.choice(len(centres), size, replace=False).tolist()))
            for size in sorted({min(size, len(centres)) for size in range(self.fewest, self.most + 1)})
            for _ in range(self.draws)
        }
        return [centres[list(own)] for own in sorted(drawn)]

    def choose(self, ctx: PromptContext, prompts: Prompts, segmentation: Segmentation, select: Select) -> Choice:
        """Keep of each example the mask of the best set, of those beside the single-mask output."""
        rows, warm = segmentation.example_index, warm_pixels(ctx, self.threshold)
        purity, coverage = [], []
        for some in torch.arange(len(rows)).split(max(1, MASK_PIXELS // (ctx.size[0] * ctx.size[1]))):
            logits, own = segmentation.logits[some, 1:], warm[rows[some], None]
            masks = ctx.low_res.to_original(logits.flatten(0, 1)).cpu().unflatten(0, logits.shape[:2])
            both = (masks & own).sum((2, 3)).double()
            purity.append(both / masks.sum((2, 3)).clamp(min=1))
            coverage.append(both / own.sum((2, 3)).clamp(min=1))
        score, candidate = (torch.cat(purity) * torch.cat(coverage) ** self.exponent).max(1)
        examples = rows.unique()
        query = torch.stack([torch.where(rows == one, score, -1.0).argmax() for one in examples])
        predicted_iou = segmentation.predicted_iou.cpu()[query, candidate[query] + 1]
        return Choice(examples, query, candidate[query] + 1, predicted_iou)
