"""This module holds ``pipeline=components``: a query for every connected component of the warm pixels."""

from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Int
from pydantic.dataclasses import dataclass
from scipy import ndimage
from torch import Tensor
from torchvision.ops import batched_nms

from gradsam_exp.prompts.base import STRATEGIES, Fraction, Gap, PromptStrategy, Select, of_each_query
from gradsam_exp.prompts.foreground import centre_of_mass
from gradsam_exp.prompts.regions import bounding_boxes, boxes_around
from gradsam_exp.prompts.thresholds import Threshold, at_least
from gradsam_exp.types import NO_POINT, Choice, Masks, PromptContext, Prompts, Segmentation


@STRATEGIES.register("components")
@dataclass(frozen=True)
class Components(PromptStrategy):
    """Components asks about every connected component of the warm pixels, and unites what is answered.

    Common practice in weakly supervised segmentation, where a class may have several objects in an image; SAM's
    answers go through non-maximum suppression, as in its automatic mask generator (Kirillov et al., ICCV 2023).

    Attributes:
        ask: each component by its ``box``, its ``centre`` of mass (weighted by heat), or ``both`` in one query.
        threshold: warm pixels have at least this share of the heatmap's maximum; or a rule, see `Threshold`.
        min_area: components of fewer pixels than this share of the image are left out, the largest never.
        margin: added to boxes on every side: pixels, or a share (``2%``) of the shorter side.
        nms: of two masks of an example whose boxes have a larger IoU, that of the lower predicted IoU is left out.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"points", "boxes"})

    ask: Literal["box", "centre", "both"] = "box"
    threshold: Threshold = 0.5
    min_area: Fraction = 0.001
    margin: Gap = 0.0
    nms: Fraction = 0.9

    @property
    def ignored(self) -> frozenset[str]:
        """Name ``margin`` where no box is asked with."""
        return frozenset({"margin"} if self.ask == "centre" else ())

    @property
    def ignoring(self) -> tuple[str, ...]:
        """See `PromptStrategy.ignoring`."""
        return ("pipeline.ask=centre",) if self.ask == "centre" else ()

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query for every component; about the whole image for an empty heatmap."""
        masks, example = components(ctx, self.threshold, self.min_area)
        heat = torch.where(ctx.heatmaps.empty[:, None, None], 1.0, ctx.heatmaps.values.double())[example]
        points = centre_of_mass(masks * heat).float()[:, None]
        boxes = None if self.ask == "centre" else boxes_around(masks, self.margin)
        label = NO_POINT if self.ask == "box" else 1
        return Prompts(example, points, torch.full((len(example), 1), label), boxes)

    def choose(self, ctx: PromptContext, prompts: Prompts, segmentation: Segmentation, select: Select) -> Choice:
        """Keep one mask of every component, except near copies."""
        choice = of_each_query(ctx, segmentation, select)
        masks = ctx.low_res.to_original(segmentation.logits[choice.query, choice.candidate]).cpu()
        kept = batched_nms(bounding_boxes(masks), choice.predicted_iou, choice.example_index, self.nms)
        return choice[kept.sort().values]


def warm_pixels(ctx: PromptContext, threshold: float | str) -> Masks:
    """Find the warm pixels of each heatmap by a `Threshold`; all of an empty one."""
    return at_least(ctx.heatmaps.values, threshold) | ctx.heatmaps.empty[:, None, None]


def components(
    ctx: PromptContext, threshold: float | str, min_area: float
) -> tuple[Masks, Int[Tensor, " components"]]:
    """Find the 8-connected components of the warm pixels, and which example each belongs to.

    Args:
        min_area: smaller ones, as a share of the image, are left out, but for each example's largest.
    """
    found, example = [], []
    for row, warm in enumerate(warm_pixels(ctx, threshold).numpy()):
        labels, count = ndimage.label(warm, structure=np.ones((3, 3)))
        sizes = np.bincount(labels.flat, minlength=count + 1)[1:]
        kept = np.flatnonzero((sizes >= min_area * warm.size) | (np.arange(count) == sizes.argmax())) + 1
        found += [labels == label for label in kept]
        example += [row] * len(kept)
    return torch.from_numpy(np.array(found).reshape(-1, *ctx.size)), torch.tensor(example, dtype=torch.long)
