"""This module holds ``pipeline=clip_surgery``: points on the heatmap's hot cells, and as many off its coldest."""

from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass

from gradsam_exp.prompts.base import STRATEGIES, PromptStrategy
from gradsam_exp.prompts.thresholds import Threshold, at_least
from gradsam_exp.types import BACKGROUND, FOREGROUND, PromptContext, Prompts, stack_points


@STRATEGIES.register("clip_surgery")
@dataclass(frozen=True)
class ClipSurgery(PromptStrategy):
    """ClipSurgery clicks the hot cells of the smoothed heatmap, and as many of its coldest as background.

    The points of "A Closer Look at the Explainability of Contrastive Language-Image Pre-training" (Li et al.,
    Pattern Recognition 2025), `similarity_map_to_points` of github.com/xmed-lab/CLIP_Surgery: the
    similarity map of 32×32 patches is halved and scaled to [0, 1].

    Attributes:
        threshold: hot cells have at least this scaled heat, or what a rule finds among the cells, see `Threshold`;
            at most half of all cells are taken.
        cells: the heatmap is averaged to so many cells each way (at most one a pixel).
    """

    threshold: Threshold = 0.8
    cells: Annotated[int, Field(ge=2, le=64)] = 16

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query per image; of its centre for an empty or constant heatmap."""
        points, labels = stack_points(self.points(ctx))
        return Prompts(torch.arange(len(ctx)), points, labels)

    def points(self, ctx: PromptContext) -> list[list[tuple[float, float, int]]]:
        """List ``(x, y, label)`` px of each image's points: whole pixels at the middle of cells."""
        height, width = ctx.size
        rows, columns = min(self.cells, height), min(self.cells, width)
        maps = F.adaptive_avg_pool2d(ctx.heatmaps.values[:, None].double(), (rows, columns)).flatten(1).numpy()
        found = []
        for cells in maps:
            low, high = cells.min(), cells.max()
            rank = np.argsort(cells, kind="stable")
            count = 0
            if high > low:
                scaled = torch.from_numpy((cells - low) / (high - low)).view(1, rows, columns)
                count = min(int(at_least(scaled, self.threshold).sum()), len(rank) // 2)
            flat = np.concatenate([rank[len(rank) - count :], rank[:count]])
            x = np.floor((flat % columns + 0.5) * width / columns)
            y = np.floor((flat // columns + 0.5) * height / rows)
            labels = [FOREGROUND] * count + [BACKGROUND] * count
            own = [(float(x), float(y), label) for x, y, label in zip(x, y, labels, strict=True)]
            found.append(own or [(*ctx.centre.tolist(), FOREGROUND)])
        return found
