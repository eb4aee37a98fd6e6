"""These strategies place foreground points on the heatmap's maxima; some add background points far from them."""

from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from scipy import ndimage
from skimage.feature import peak_local_max
from torch import Tensor

from gradsam_exp.prompts.base import (
    STRATEGIES,
    Count,
    Fraction,
    Length,
    PromptStrategy,
    Select,
    WholeLength,
    chosen_rows,
    pixels,
    whole_pixels,
)
from gradsam_exp.prompts.foreground import pixel_positions, point_prompts
from gradsam_exp.types import BACKGROUND, FOREGROUND, Choice, PromptContext, Prompts, Segmentation, stack_points


@STRATEGIES.register("argmax")
@dataclass(frozen=True)
class ArgMax(PromptStrategy):
    """ArgMax clicks the heatmap's maximum (as github.com/mar2000/Deep-Neural-Networks does)."""

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query of one point per image."""
        return point_prompts(peaks(ctx)[:, None])


@STRATEGIES.register("argmax_corner")
@dataclass(frozen=True)
class ArgMaxCorner(PromptStrategy):
    """ArgMaxCorner clicks the heatmap's maximum, and the image corner farthest from it as background."""

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query of two points per image."""
        peak = peaks(ctx)
        height, width = ctx.size
        corners = torch.tensor([[x, y] for y in (0.0, height - 1.0) for x in (0.0, width - 1.0)])
        farthest = (peak[:, None] - corners).norm(dim=2).argmax(1)
        points = torch.stack([peak, corners[farthest]], 1)
        return Prompts(torch.arange(len(ctx)), points, torch.tensor([FOREGROUND, BACKGROUND]).repeat(len(ctx), 1))


@STRATEGIES.register("topk_smoothed")
@dataclass(frozen=True)
class TopKSmoothed(PromptStrategy):
    """TopKSmoothed clicks the ``k`` hottest pixels of the smoothed heatmap.

    After github.com/1miqi1/Image-segmentation-without-user-input, which takes one point: to each pixel, the heat
    of the pixels around it is added, divided by their distance.

    Attributes:
        k: number of points.
        radius: half the side of the square kernel ``1 / d`` (1 at its centre): whole pixels, or a share
            (``2%``) of the shorter side.
    """

    k: Count = 1
    radius: WholeLength = 20

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query of ``k`` points per image."""
        return point_prompts(self.hottest(ctx))

    def hottest(self, ctx: PromptContext) -> Float[Tensor, "batch points 2"]:
        """Find ``(x, y)`` px of the hottest pixels; those of an empty heatmap are its centre."""
        radius = whole_pixels(self.radius, ctx.size)
        y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        kernel = 1 / np.maximum(np.hypot(x, y), 1)
        values = ctx.heatmaps.values.double().numpy()
        smooth = np.stack([ndimage.convolve(v, kernel, mode="constant") for v in values])
        flat = np.argsort(-smooth.reshape(len(values), -1), axis=1, kind="stable")[:, : self.k]
        points = pixel_positions(torch.from_numpy(flat), ctx.size)
        return torch.where(ctx.heatmaps.empty[:, None, None], ctx.centre, points)


@STRATEGIES.register("topk_far")
@dataclass(frozen=True)
class TopKFar(TopKSmoothed):
    """TopKFar clicks as `TopKSmoothed` does, and random background points far from there.

    Attributes:
        n: number of background points; fewer where fewer pixels are far enough.
        distance: least distance from the foreground points' centre: pixels, or a share (``2%``) of the shorter
            side.
    """

    n: Count = 1
    distance: Length = 20.0

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query per image; its random points are the same however images are batched."""
        height, width = ctx.size
        y, x = np.mgrid[:height, :width]
        grid = np.stack([x.ravel(), y.ravel()], 1)
        rows = []
        for image, foreground in enumerate(self.hottest(ctx).numpy()):
            far = np.linalg.norm(grid - foreground.mean(0), axis=1) > pixels(self.distance, ctx.size)
            places = grid[far]
            chosen = ctx.generator(image).permutation(len(places))[: self.n]
            row = [(float(x), float(y), FOREGROUND) for x, y in foreground]
            rows.append(row + [(float(x), float(y), BACKGROUND) for x, y in places[chosen]])
        points, labels = stack_points(rows)
        return Prompts(torch.arange(len(ctx)), points, labels)


@STRATEGIES.register("multi_peak")
@dataclass(frozen=True)
class MultiPeak(PromptStrategy):
    """MultiPeak clicks several maxima of the heatmap in one query, found by non-maximum suppression.

    Attributes:
        peaks: at most so many.
        min_distance: between two peaks: whole pixels, or a share (``2%``) of the shorter side.
        min_heat: a peak is at least this hot.
    """

    peaks: Count = 3
    min_distance: WholeLength = 3
    min_heat: Fraction = 0.5

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query of one to ``peaks`` points per image."""
        middle = ctx.centre.tolist()
        apart = whole_pixels(self.min_distance, ctx.size)
        rows = []
        for values, empty in zip(ctx.heatmaps.values.numpy(), ctx.heatmaps.empty.tolist(), strict=True):
            found = peak_local_max(values, apart, self.min_heat, exclude_border=False, num_peaks=self.peaks)
            places = [middle] if empty or not len(found) else [(float(x), float(y)) for y, x in found]
            rows.append([(x, y, FOREGROUND) for x, y in places])
        points, labels = stack_points(rows)
        return Prompts(torch.arange(len(ctx)), points, labels)


@STRATEGIES.register("s2c_peaks")
@dataclass(frozen=True)
class S2CPeaks(PromptStrategy):
    """S2CPeaks clicks the heatmap's maximum and its local maxima, and keeps the mask of most confident heat.

    The CAM-based prompting module of "From SAM to CAMs" (Kweon and Yoon, CVPR 2024, `models/model_s2c.py` of
    github.com/sangrockEG/S2C): local maxima of the heatmap after a 3×3 maximum filter. There a mask's confidence,
    predicted IoU × mean heat in it, decides between classes, and SAM's third mask is taken: ``keep=whole``.

    Attributes:
        min_distance: between two local maxima: whole pixels, or a share (``2%``) of the shorter side.
        min_heat: a local maximum is hotter than this.
        keep: the ``confident`` mask has the largest predicted IoU × mean heat; ``whole`` is the last one offered.
    """

    min_distance: WholeLength = 20
    min_heat: Fraction = 0.5
    keep: Literal["confident", "whole"] = "confident"
    selects: ClassVar[bool] = True

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query of one or more points per image."""
        apart, rows = whole_pixels(self.min_distance, ctx.size), []
        first = peaks(ctx).tolist()
        for values, best in zip(ctx.heatmaps.values.numpy(), first, strict=True):
            wide = ndimage.maximum_filter(values, size=3, mode="constant")
            found = peak_local_max(wide, apart, exclude_border=False)[
                1:
            ]  # the first is the maximum's surroundings
            others = [(float(x), float(y)) for y, x in found if values[y, x] > self.min_heat]
            rows.append([(x, y, FOREGROUND) for x, y in [tuple(best), *others]])
        points, labels = stack_points(rows)
        return Prompts(torch.arange(len(ctx)), points, labels)

    def choose(self, ctx: PromptContext, prompts: Prompts, segmentation: Segmentation, select: Select) -> Choice:
        """Keep the candidate of the largest confidence, of those beside the single-mask output."""
        count = segmentation.logits.shape[1]
        if self.keep == "whole":
            return chosen_rows(torch.full((len(segmentation),), count - 1), segmentation)
        masks = ctx.low_res.to_original(segmentation.logits[:, 1:].flatten(0, 1)).cpu()
        masks = masks.unflatten(0, (len(segmentation), count - 1))
        heat = (masks * ctx.heatmaps.values[segmentation.example_index][:, None]).sum((2, 3))
        confidence = segmentation.predicted_iou[:, 1:].cpu() * heat / masks.sum((2, 3)).clamp(min=1)
        return chosen_rows(confidence.argmax(1) + 1, segmentation)


def peaks(ctx: PromptContext) -> Float[Tensor, "batch 2"]:
    """Find ``(x, y)`` px of each heatmap's first maximum; the image's centre for an empty one."""
    found = pixel_positions(ctx.heatmaps.values.flatten(1).argmax(1), ctx.size)
    return torch.where(ctx.heatmaps.empty[:, None], ctx.centre, found)
