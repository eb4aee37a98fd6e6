"""These strategies spread foreground points over the warm pixels: the hottest, random ones, a skeleton's."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic.dataclasses import dataclass
from scipy import ndimage
from skimage.morphology import skeletonize
from torch import Tensor

from gradsam_exp.prompts.base import STRATEGIES, Count, Fraction, PromptStrategy, Select, of_each_query
from gradsam_exp.prompts.components import components, warm_pixels
from gradsam_exp.prompts.foreground import pixel_positions, point_prompts
from gradsam_exp.prompts.thresholds import Threshold
from gradsam_exp.types import FOREGROUND, Choice, PromptContext, Prompts, Segmentation, stack_points

Pixels = Float[np.ndarray, "_ 2"]


@STRATEGIES.register("hottest_k")
@dataclass(frozen=True)
class HottestK(PromptStrategy):
    """HottestK clicks the ``k`` hottest pixels of the heatmap itself; common practice, see `TopKSmoothed`.

    Attributes:
        k: number of points; of equally hot pixels the first in scan order.
    """

    k: Count = 5

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query of ``k`` points per image; of its centre for an empty heatmap."""
        hottest = (-ctx.heatmaps.values.flatten(1)).argsort(dim=1, stable=True)[:, : self.k]
        points = pixel_positions(hottest, ctx.size)
        return point_prompts(torch.where(ctx.heatmaps.empty[:, None, None], ctx.centre, points))


@STRATEGIES.register("random_points")
@dataclass(frozen=True)
class RandomPoints(PromptStrategy):
    """RandomPoints clicks random warm pixels: what the choice of points in a warm region is worth.

    Attributes:
        k: number of points, none twice; fewer where fewer pixels are warm.
        threshold: warm pixels have at least this share of the heatmap's maximum; or a rule, see `Threshold`.
    """

    k: Count = 5
    threshold: Threshold = 0.5

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query of up to ``k`` points per image, the same however images are batched."""
        drawn = []
        for row, warm in enumerate(warm_pixels(ctx, self.threshold).numpy()):
            pixels = xy_of(warm)
            drawn.append(pixels[ctx.generator(row).permutation(len(pixels))[: self.k]])
        return stacked(drawn, torch.arange(len(ctx)))


@STRATEGIES.register("skeleton")
@dataclass(frozen=True)
class Skeleton(PromptStrategy):
    """Skeleton clicks along the skeleton of each warm component, one query each; their masks are united.

    After SeSAM (Das et al., "Do Instance Priors Help Weakly Supervised Semantic Segmentation?", arXiv 2604.11170),
    which decomposes a class's mask into connected components and samples points along their skeletons. Its choice
    of a mask by the coverage of weak labels and its training are not part of this: the selector chooses.

    Attributes:
        threshold: warm pixels have at least this share of the heatmap's maximum; or a rule, see `Threshold`.
        points: of each component, at most: the pixel of the skeleton that lies deepest inside it, then again and
            again the one farthest from those already taken. The number is ours.
        min_area: components of fewer pixels than this share of the image are left out, the largest never.
    """

    threshold: Threshold = 0.5
    points: Count = 5
    min_area: Fraction = 0.001

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query of up to ``points`` points for every component."""
        masks, example = components(ctx, self.threshold, self.min_area)
        return stacked([along_skeleton(mask, self.points) for mask in masks.numpy()], example)

    def choose(self, ctx: PromptContext, prompts: Prompts, segmentation: Segmentation, select: Select) -> Choice:
        """Keep one mask of every component."""
        return of_each_query(ctx, segmentation, select)


def along_skeleton(region: Bool[np.ndarray, "height width"], count: int) -> Pixels:
    """Find ``(x, y)`` px of up to ``count`` pixels spread over a region's skeleton (Zhang and Suen's thinning)."""
    skeleton = skeletonize(region)
    pixels = xy_of(skeleton if skeleton.any() else region)
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    x, y = pixels.astype(int).T
    taken = [int(depth[y, x].argmax())]
    gap = np.linalg.norm(pixels - pixels[taken[0]], axis=1)
    while len(taken) < count and gap.max() > 0:
        taken.append(int(gap.argmax()))
        gap = np.minimum(gap, np.linalg.norm(pixels - pixels[taken[-1]], axis=1))
    return pixels[taken]


def xy_of(mask: Bool[np.ndarray, "height width"]) -> Pixels:
    """List ``(x, y)`` px of a mask's pixels in scan order."""
    return np.argwhere(mask)[:, ::-1].astype(float)


def stacked(points: list[Pixels], example: Tensor) -> Prompts:
    """Make a query of foreground points of each list."""
    xy, labels = stack_points([[(float(x), float(y), FOREGROUND) for x, y in own] for own in points])
    return Prompts(example, xy, labels)
