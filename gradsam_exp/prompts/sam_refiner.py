"""This module holds ``pipeline=sam_refiner``: points, box and Gaussian mask logits from a mask."""

from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from gradsam_exp.prompts.base import STRATEGIES, Count, PromptStrategy
from gradsam_exp.prompts.components import warm_pixels
from gradsam_exp.prompts.regions import bounding_boxes
from gradsam_exp.prompts.thresholds import Threshold
from gradsam_exp.types import (
    BACKGROUND,
    FOREGROUND,
    Chosen,
    LowRes,
    Masks,
    PromptContext,
    Prompts,
    Segmentation,
    stack_points,
)

Mask = Bool[np.ndarray, "height width"]


@STRATEGIES.register("sam_refiner")
@dataclass(frozen=True)
class SamRefiner(PromptStrategy):
    """SamRefiner prompts with what a coarse mask says robustly, and with the answer again, round by round.

    The noise-tolerant prompts of SAMRefiner (Lin et al., ICLR 2025, `extract_points` and `extract_mask` of
    github.com/linyq2117/SAMRefiner), boxes not widened, as by default there: a foreground point at the mask's
    pixel farthest from its edge, a background point at the pixel in its box farthest from the mask, the box, and
    mask logits that fall from the foreground point outwards. The first mask is the warm pixels; that of an empty
    heatmap is the whole image.

    It departs from that code in four points. Distances are exact; the code's are sums of steps to eight
    neighbours, which are up to 8 % longer. A box that the mask fills has no background point; the code puts it on
    the image's upper left pixel. An answer without a pixel stays; the code goes on with a box of one pixel there.
    A box goes around its pixels as everywhere in this package, and so is half a pixel wider on every side.

    Attributes:
        threshold: warm pixels have at least this share of the heatmap's maximum; or a rule, see `Threshold`.
        negative: ask with the background point.
        feed_box, feed_mask: ask with the box, and with the mask logits.
        gamma: the logits are ``strength · exp(−(d − max d)² / max(area / gamma, 1))`` at d px from the edge.
        strength: largest logit; pixels outside have −``strength``.
        max_rounds: each image is asked so often.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"points", "boxes", "masks"})

    threshold: Threshold = 0.5
    negative: bool = True
    feed_box: bool = True
    feed_mask: bool = True
    gamma: Annotated[float, Field(gt=0)] = 4.0
    strength: Annotated[float, Field(gt=0)] = 30.0
    max_rounds: Count = 5

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query per image about its warm pixels."""
        return self.prompts(ctx, warm_pixels(ctx, self.threshold), torch.arange(len(ctx)))

    def revise(
        self, ctx: PromptContext, prompts: Prompts, segmentation: Segmentation, masks: Masks, chosen: LowRes
    ) -> tuple[Prompts, Chosen]:
        """Ask one query about the last mask of each image that has one."""
        del prompts, segmentation, chosen
        active = masks.flatten(1).any(1)
        return self.prompts(ctx, masks[active], active.nonzero().flatten()), active

    def prompts(self, ctx: PromptContext, masks: Masks, example: Int[Tensor, " queries"]) -> Prompts:
        """Make a query of each mask."""
        inside = [edge_distance(mask) for mask in masks.numpy()]
        points, labels = stack_points(
            [self._points(mask, depth) for mask, depth in zip(masks.numpy(), inside, strict=True)]
        )
        prompts = Prompts(example, points, labels, bounding_boxes(masks) if self.feed_box else None)
        if not self.feed_mask:
            return prompts
        depth = torch.from_numpy(np.array(inside, dtype=np.float32).reshape(-1, *ctx.size))
        area = (masks.sum((1, 2)) / self.gamma).clamp(min=1)[:, None, None]
        fallen = (depth - depth.amax((1, 2), keepdim=True)).square() / area
        shape = ctx.low_res.to_low_res(torch.exp(-fallen) * masks)
        sign = ctx.low_res.to_low_res(2.0 * masks - 1)
        logits = torch.where(sign > 0, self.strength, -self.strength) * torch.where(shape > 0, shape, 1.0)
        return replace(prompts, mask_logits=logits[:, None])

    def _points(self, mask: Mask, depth: Float[np.ndarray, "height width"]) -> list[tuple[float, float, int]]:
        """List ``(x, y, label)`` px of a mask's points."""
        points = [(*_first_maximum(depth), FOREGROUND)]
        ys, xs = np.nonzero(mask)
        away = np.zeros_like(depth)
        box = np.s_[ys.min() : ys.max(), xs.min() : xs.max()]  # without its last row and column, as there
        away[box] = edge_distance(~mask)[box]
        return points + [(*_first_maximum(away), BACKGROUND)] * int(self.negative and away.max() > 0)


def edge_distance(mask: Mask) -> Float[np.ndarray, "height width"]:
    """Compute each pixel's distance to the nearest pixel off the mask, in px; of a mask of all pixels, 1 each."""
    return mask.astype(float) if mask.all() else distance_transform_edt(mask)


def _first_maximum(values: Float[np.ndarray, "height width"]) -> tuple[float, float]:
    y, x = np.unravel_index(values.argmax(), values.shape)
    return float(x), float(y)
