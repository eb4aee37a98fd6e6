"""These strategies prompt with a box, a mask or a dense grid of points from the thresholded heatmap."""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torchvision.ops import masks_to_boxes

from gradsam_exp.prompts.base import (
    FG_THRESHOLD,
    STRATEGIES,
    Count,
    Fraction,
    Gap,
    PromptStrategy,
    WholeLength,
    pixels,
    whole_pixels,
)
from gradsam_exp.prompts.foreground import Foreground, Region, component_of_peak
from gradsam_exp.prompts.thresholds import Threshold, at_least, level
from gradsam_exp.types import NO_POINT, Chosen, LowRes, Masks, PromptContext, Prompts, Segmentation

Boxes = Float[Tensor, "batch 4"]


@STRATEGIES.register("box")
@dataclass(frozen=True)
class Box(PromptStrategy):
    """Box asks with the bounding box of the warm component that holds the heatmap's peak.

    Attributes:
        box_threshold: warm pixels have at least this share of the heatmap's maximum; or a rule, see
            `Threshold`.
        margin: added on every side: pixels, or a share (``2%``) of the shorter side.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"boxes"})

    box_threshold: Threshold = 0.5
    margin: Gap = 0.0

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query of one box per image; the whole image for an empty heatmap."""
        return box_prompts(warm_boxes(ctx, self.box_threshold, self.margin))


@STRATEGIES.register("box_points")
@dataclass(frozen=True)
class BoxPoints(Foreground):
    """BoxPoints asks with `Foreground`'s points and `Box`'s box in one query; see there for the attributes.

    Attributes:
        box_threshold: warm pixels of the box have at least this share of the heatmap's maximum; or a rule.
        margin: added to the box on every side: pixels, or a share (``2%``) of the shorter side.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"points", "boxes"})

    box_threshold: Threshold = 0.5
    margin: Gap = 0.0

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query of a grid of points and a box per image."""
        return replace(super().propose(ctx), boxes=warm_boxes(ctx, self.box_threshold, self.margin))


@STRATEGIES.register("mask")
@dataclass(frozen=True)
class HeatmapMask(Foreground):
    """HeatmapMask asks with the heatmap as a mask prompt, with the foreground points or alone.

    Attributes:
        points: ask with `Foreground`'s points as well.
        mask_threshold: heat at which the logit is 0; or a rule, see `Threshold`.
        gain: logit per unit of heat; SAM's own masks have logits of some ±10.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"points", "masks"})

    points: bool = True
    mask_threshold: Threshold = 0.5
    gain: Annotated[float, Field(gt=0)] = 20.0

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query per image; an empty heatmap's mask is all negative."""
        heat = ctx.low_res.to_low_res(ctx.heatmaps.values)
        zero = level(ctx.heatmaps.values, self.mask_threshold)
        prompts = replace(super().propose(ctx), mask_logits=self.gain * (heat - zero).float()[:, None])
        return prompts if self.points else replace(prompts, labels=torch.full_like(prompts.labels, NO_POINT))


@STRATEGIES.register("threshold")
@dataclass(frozen=True)
class WarmPixels(PromptStrategy):
    """WarmPixels asks with the warm pixels as a mask prompt; with ``sam=none`` they are the mask, pixel by pixel.

    Attributes:
        fg_threshold: warm pixels have at least this share of the heatmap's maximum; or a rule, see `Threshold`.
        region: ``all`` warm pixels, or only the connected component that holds the ``peak``.
        logit: of the warm pixels; the others have its negative.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"masks"})

    fg_threshold: Threshold = FG_THRESHOLD
    region: Region = "all"
    logit: Annotated[float, Field(gt=0)] = 4.0

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query of one mask per image; an empty heatmap has no warm pixels."""
        values = ctx.heatmaps.values
        warm = at_least(values, self.fg_threshold)
        if self.region == "peak":
            warm = component_of_peak(warm, values)
        warm &= ~ctx.heatmaps.empty[:, None, None]
        return mask_prompts(self.logit * (2 * ctx.low_res.to_low_res(warm.float()) - 1))


@STRATEGIES.register("cascade")
@dataclass(frozen=True)
class Cascade(Foreground):
    """Cascade asks with a prompt from the heatmap, then feeds the mask back: as mask prompt, and its box.

    PerSAM's post-refinement (Zhang et al., ICLR 2024, section 3.2) is ``start=points, feed_box=true,
    max_rounds=3``.

    Attributes:
        start: the first prompt: `Foreground`'s points, or `Box`.
        box_threshold: that of `Box`, for ``start=box``.
        feed_points: ask with the first prompt's points in later rounds as well (``start=points``).
        feed_box: ask with the mask's bounding box in later rounds.
        max_rounds: each image is asked so often, the first time included.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"points", "boxes", "masks"})

    start: Literal["points", "box"] = "points"
    box_threshold: Threshold = 0.5
    feed_points: bool = True
    feed_box: bool = False
    max_rounds: Count = 2

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query per image."""
        return super().propose(ctx) if self.start == "points" else Box(self.box_threshold).propose(ctx)

    def revise(
        self, ctx: PromptContext, prompts: Prompts, segmentation: Segmentation, masks: Masks, chosen: LowRes
    ) -> tuple[Prompts, Chosen]:
        """Ask about all images with a mask again, each with its own logits."""
        del segmentation
        active = masks.flatten(1).any(1)
        rows = prompts.example_index  # after a round they are no longer in the images' order
        again = replace(prompts, mask_logits=chosen[rows][:, None])
        if self.feed_box:
            again = replace(again, boxes=bounding_boxes(masks)[rows])
        if not self.feed_points:
            again = replace(again, labels=torch.full_like(again.labels, NO_POINT))
        return again[active[rows]], active


@STRATEGIES.register("grid_match")
@dataclass(frozen=True)
class GridMatch(PromptStrategy):
    """GridMatch asks with a dense grid of single clicks, one a query; the selector picks among all their masks.

    After Pro2SAM (Yang et al., ECCV 2024), which keeps the candidate that matches the activation map best: its
    configuration chooses ``selector=heatmap_agreement``.

    Attributes:
        spacing: distance of neighbouring grid points: whole pixels, or a share (``2%``) of the shorter side.
        min_heat: grid points on colder pixels are left out; the image's centre if none is left.
    """

    brings_selector: ClassVar[str | None] = "heatmap_agreement"

    spacing: WholeLength = 4
    min_heat: Fraction = 0.3

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query of one point for every warm grid point."""
        height, width = ctx.size
        spacing = whole_pixels(self.spacing, ctx.size)
        # A side too short for a first point has one in its middle.
        starts = [spacing // 2 if spacing // 2 < side else (side - 1) // 2 for side in (height, width)]
        ys, xs = (torch.arange(start, side, spacing) for start, side in zip(starts, (height, width), strict=True))
        heat = ctx.heatmaps.values[:, ys][:, :, xs]
        image, row, column = torch.nonzero(heat >= self.min_heat, as_tuple=True)
        points = torch.stack([xs[column], ys[row]], 1).float()
        without = torch.nonzero(torch.bincount(image, minlength=len(ctx)) == 0).flatten()
        middle = ctx.centre.expand(len(without), 2)
        index = torch.cat([image, without])
        order = index.argsort(stable=True)
        every = torch.cat([points, middle])[order][:, None]
        return Prompts(index[order], every, torch.ones(len(index), 1, dtype=torch.long))


def box_prompts(boxes: Boxes) -> Prompts:
    """Make one query of a box and no points for each image."""
    count = len(boxes)
    no_points, no_labels = torch.zeros(count, 0, 2), torch.zeros(count, 0, dtype=torch.long)
    return Prompts(torch.arange(count), no_points, no_labels, boxes)


def mask_prompts(logits: LowRes) -> Prompts:
    """Make one query of a mask and no points for each image."""
    count = len(logits)
    no_points, no_labels = torch.zeros(count, 0, 2), torch.zeros(count, 0, dtype=torch.long)
    return Prompts(torch.arange(count), no_points, no_labels, mask_logits=logits[:, None])


def warm_boxes(ctx: PromptContext, threshold: float | str, margin: float | str = 0.0) -> Boxes:
    """Find ``x0, y0, x1, y1`` px around the warm component of each heatmap's peak, clipped to the image."""
    values = ctx.heatmaps.values
    warm = component_of_peak(at_least(values, threshold), values)
    warm |= ctx.heatmaps.empty[:, None, None]
    return boxes_around(warm, margin)


def boxes_around(masks: Masks, margin: float | str) -> Boxes:
    """Find ``x0, y0, x1, y1`` px around each mask, a `Gap` wider on every side, clipped to the image."""
    size = (masks.shape[1], masks.shape[2])
    return clipped(bounding_boxes(masks) + pixels(margin, size) * torch.tensor([-1, -1, 1, 1]), size)


def clipped(boxes: Boxes, size: tuple[int, int]) -> Boxes:
    """Clip ``x0, y0, x1, y1`` px to the outer edges of an image; ``size`` is (height, width)."""
    height, width = size
    return boxes.clamp(min=torch.tensor(-0.5), max=torch.tensor([width, height, width, height]) - 0.5)


def bounding_boxes(masks: Masks) -> Boxes:
    """Find ``x0, y0, x1, y1`` px around each mask, by its pixels' outer edges; the frame for an empty mask."""
    corners = masks_to_boxes(masks | ~masks.flatten(1).any(1)[:, None, None])
    return corners + torch.tensor([-0.5, -0.5, 0.5, 0.5])
