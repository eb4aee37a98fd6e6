"""This module holds ``pipeline=gensam``: the classifier looks again at an image that its heatmap has dimmed."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from pydantic.dataclasses import dataclass
from scipy import ndimage
from torch import Tensor

from gradsam_exp.prompts.base import STRATEGIES, Count, Fraction
from gradsam_exp.prompts.clip_surgery import ClipSurgery
from gradsam_exp.prompts.regions import bounding_boxes, clipped
from gradsam_exp.prompts.thresholds import Threshold
from gradsam_exp.types import Chosen, Heatmaps, LowRes, Masks, PromptContext, Prompts, Segmentation


@STRATEGIES.register("gensam")
@dataclass(frozen=True)
class GenSam(ClipSurgery):
    """GenSam clicks as `ClipSurgery`, then again on heatmaps of the image as the last heatmap dims it, with a box.

    The progressive mask generation of GenSAM, "Relax Image-Specific Prompt Requirement in SAM" (Hu et al., AAAI
    2024, `get_mask` in `utils_model.py` of github.com/jyLin8100/GenSAM): each round explains ``weight · image ·
    heatmap + (1 − weight) · the image explained last``, and asks SAM about the image itself, with that heatmap's
    points and the box of the last mask's component of the largest box, a tenth wider on each side. The last answer
    stands, where that code takes the one nearest to the mean of all.

    Attributes:
        threshold, cells: of `ClipSurgery`.
        weight: of the dimmed image.
        max_rounds: each image is asked so often.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"points", "boxes"})
    needs: ClassVar[frozenset[str]] = frozenset({"classifier"})

    threshold: Threshold = 0.9
    weight: Fraction = 0.3
    max_rounds: Count = 6

    def revise(
        self, ctx: PromptContext, prompts: Prompts, segmentation: Segmentation, masks: Masks, chosen: LowRes
    ) -> tuple[Prompts, Chosen]:
        """Ask about all images again."""
        del prompts, segmentation, chosen
        heatmaps: Heatmaps = ctx.memory.get("heatmaps", ctx.heatmaps)
        image: Tensor = ctx.memory.get("image", ctx.images.float())
        dimmed = self.weight * ctx.images * heatmaps.values[:, None] + (1 - self.weight) * image
        assert ctx.explain is not None  # the classifier is needed
        heatmaps = ctx.explain(dimmed.round().to(torch.uint8), ctx.heatmaps.targets)
        ctx.memory.update(heatmaps=heatmaps, image=dimmed)
        again = super().propose(replace(ctx, heatmaps=heatmaps))
        return replace(again, boxes=widest_boxes(masks)), torch.ones(len(ctx), dtype=torch.bool)


def widest_boxes(masks: Masks, wider: float = 0.1) -> Tensor:
    """Find the largest box ``x0, y0, x1, y1`` px around a component of each mask, a share wider on each side.

    It is clipped to the image, and all of it for an empty mask.
    """
    largest = torch.zeros_like(masks)
    for row, mask in enumerate(masks.numpy()):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        places = ndimage.find_objects(labels)
        if count:
            areas = [np.prod([side.stop - side.start for side in place]) for place in places]
            largest[row] = torch.from_numpy(labels == 1 + int(np.argmax(areas)))
    boxes = bounding_boxes(largest)
    sides = (boxes[:, 2:] - boxes[:, :2]) * wider
    return clipped(boxes + torch.cat([-sides, sides], 1), (masks.shape[1], masks.shape[2]))
