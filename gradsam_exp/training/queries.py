"""This module draws the prompts a segmenter is trained with: clicks, boxes, background points, corrections.

Every tensor is made on the device of the masks it is drawn from. What decides which operations run (how many
points, box or points) comes from Python's `random`, so that no step waits for a value from the device.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from gradsam_exp.types import TensorRows

PIXELS_PER_CELL = 4  # SAM's low-resolution masks have a quarter of its input's side
Masks = Bool[Tensor, "queries low low"]
Cells = Int[Tensor, "queries points 2"]


@dataclass(frozen=True)
class SceneBatch(TensorRows):
    """A scene batch holds scenes in SAM's input frame.

    Attributes:
        images: RGB 0..255, resized to the longer side and padded at the bottom and right.
        inside: True where there is image, False on padding.
        masks: ``targets`` true masks of every image on the low-resolution grid; none is empty.
    """

    images: UInt8[Tensor, "batch 3 size size"]
    inside: Bool[Tensor, "batch size size"]
    masks: Bool[Tensor, "batch targets low low"]


@dataclass(frozen=True)
class Queries(TensorRows):
    """Queries are prompts of one kind in SAM's input frame, one row a query, and the masks they ask for.

    Attributes:
        image_index: which image of the batch a query is about.
        truth: the mask that it should give.
        points: x before y, in pixels of the input frame.
        labels: 1 for a foreground point, 0 for a background point.
        boxes: x0, y0, x1, y1 in pixels of the input frame.
        masks: logits of the previous round, as mask prompts.
    """

    image_index: Int[Tensor, " queries"]
    truth: Masks
    points: Float[Tensor, "queries points 2"] | None
    labels: Float[Tensor, "queries points"] | None
    boxes: Float[Tensor, "queries 4"] | None = None
    masks: Float[Tensor, "queries 1 low low"] | None = None

    def with_points(self, points: Tensor, labels: Tensor) -> "Queries":
        """Add points to those that are there already."""
        if self.points is not None and self.labels is not None:
            points, labels = torch.cat([self.points, points], 1), torch.cat([self.labels, labels], 1)
        return replace(self, points=points, labels=labels)


def single_clicks(batch: SceneBatch, pick: Callable[[Masks, int], Cells]) -> Queries:
    """Ask for every target by one foreground click, at the cell that ``pick`` chooses."""
    images, targets = batch.masks.shape[:2]
    truth = batch.masks.flatten(0, 1)
    points = cells_to_pixels(pick(truth, 1))
    image_index = torch.arange(images, device=truth.device).repeat_interleave(targets)
    return Queries(image_index, truth, points, points.new_ones(points.shape[:2]))


def first_prompts(
    batch: SceneBatch,
    *,
    click_share: float,
    box_share: float,
    tight_clusters: float,
    idle_background: float,
    idle_foreground: float,
) -> tuple[Queries, Queries]:
    """Ask for the targets once; the shares are those of `PromptableTraining`.

    Returns:
        The targets asked for by a click, and others: all by a box, or all by two to nine points.
        Scenes of one target have no others.
    """
    every = single_clicks(batch, random_cells)
    images, targets = batch.masks.shape[:2]
    rows = torch.arange(len(every), device=every.truth.device).view(images, targets)
    by_click = max(1, round(targets * click_share))
    inside = batch.inside[:, 1::PIXELS_PER_CELL, 1::PIXELS_PER_CELL]
    clicks = every[rows[:, :by_click].flatten()]
    if random.random() < tight_clusters:
        clicks = clustered(clicks)
    if by_click == targets:
        others = every[:0]
    elif random.random() < box_share:
        # A box around ground or sky would mean what lies around things: boxes ask for what a scene has of these.
        things = (borders_touched(batch.masks, inside) <= 1).float() + 1e-4
        asked = torch.multinomial(things, targets - by_click)
        others = every[rows.gather(1, asked).flatten()]
        others = replace(others, points=None, labels=None, boxes=jittered_boxes(others.truth))
    else:
        others = every[rows[:, by_click:].flatten()]
        points = cells_to_pixels(random_cells(others.truth, random.randint(2, 9)))
        others = replace(others, points=points, labels=points.new_ones(points.shape[:2]))
    drawn = random.random()  # one for both: of equal shares the same steps have them
    if drawn < idle_background:
        clicks, others = with_idle_background(clicks, inside), with_idle_background(others, inside)
    if drawn < idle_foreground:
        clicks, others = with_idle_foreground(clicks), with_idle_foreground(others)
    return clicks, others


def borders_touched(
    masks: Bool[Tensor, "batch targets low low"], inside: Bool[Tensor, "batch low low"]
) -> Int[Tensor, "batch targets"]:
    """Count the borders of the image, 0 to 4, that each mask reaches; ``inside`` is where there is image."""
    beside = torch.nn.functional.pad(inside, (1, 1, 1, 1))
    rows, columns = slice(1, -1), slice(1, -1)
    neighbours = (
        beside[:, :-2, columns],
        beside[:, 2:, columns],
        beside[:, rows, :-2],
        beside[:, rows, 2:],
    )
    return torch.stack([(masks & ~one[:, None]).flatten(2).any(2) for one in neighbours]).sum(0)


def corrected(queries: Queries, logits: Float[Tensor, "queries low low"]) -> Queries:
    """Feed the last masks back as mask prompts, mostly with one more click where it was wrong."""
    refined = replace(queries, masks=logits[:, None])
    if random.random() < 0.15:
        return refined
    wrong = (logits > 0) != queries.truth
    wrong |= queries.truth & ~wrong.flatten(1).any(1)[:, None, None]  # nothing wrong: confirm the object
    cells = random_cells(wrong, 1)
    rows = torch.arange(len(cells), device=cells.device)[:, None]
    labels = queries.truth[rows, cells[..., 1], cells[..., 0]].float()
    return refined.with_points(cells_to_pixels(cells), labels)


def clustered(clicks: Queries) -> Queries:
    """Replace each click by a grid of 3×3 foreground points around it, 1 to 8 px apart."""
    assert clicks.points is not None
    steps = torch.tensor([-1.0, 0.0, 1.0], device=clicks.points.device) * random.uniform(1, 8)
    points = clicks.points + torch.cartesian_prod(steps, steps)
    return replace(clicks, points=points, labels=points.new_ones(points.shape[:2]))


def with_idle_background(queries: Queries, inside: Bool[Tensor, "batch low low"]) -> Queries:
    """Add one to eight background points anywhere ``inside`` the image off the target.

    A target that fills the image gets foreground points instead.
    """
    off = inside[queries.image_index] & ~queries.truth
    filled = ~off.flatten(1).any(1)
    off = torch.where(filled[:, None, None], queries.truth, off)
    points = cells_to_pixels(random_cells(off, random.randint(1, 8)))
    return queries.with_points(points, filled.float()[:, None].expand(points.shape[:2]))


def with_idle_foreground(queries: Queries) -> Queries:
    """Add one to eight foreground points anywhere on the target."""
    points = cells_to_pixels(random_cells(queries.truth, random.randint(1, 8)))
    return queries.with_points(points, points.new_ones(points.shape[:2]))


def random_cells(masks: Masks, count: int) -> Cells:
    """Draw ``count`` set cells of every mask, with replacement, as x, y."""
    return _as_cells(torch.multinomial(masks.flatten(1).float(), count, replacement=True), masks)


def innermost_cells(masks: Masks, count: int) -> Cells:
    """Find the set cell farthest from each mask's edge, where a person would click; repeated ``count`` times."""
    depth = masks.float()[:, None]
    inside = depth
    for _ in range(masks.shape[-1] // 2):
        inside = -torch.nn.functional.max_pool2d(-inside, 3, stride=1, padding=1)
        depth = depth + inside
    return _as_cells(depth.flatten(1).argmax(1, keepdim=True).expand(-1, count), masks)


def _as_cells(flat: Tensor, masks: Masks) -> Cells:
    return torch.stack([flat % masks.shape[-1], flat // masks.shape[-1]], -1)


def cells_to_pixels(cells: Int[Tensor, "*rows 2"]) -> Float[Tensor, "*rows 2"]:
    """Convert cells of the low-resolution grid to the coordinates of their centres in the input frame."""
    return (cells + 0.5) * PIXELS_PER_CELL - 0.5


def jittered_boxes(masks: Masks) -> Float[Tensor, "queries 4"]:
    """Draw boxes around masks, in the input frame: tight, then each side moved by noise.

    The noise's standard deviation is 10 % of the box's width or height; it is at most 20 px (SAM, appendix A).
    """
    across, down = masks.any(1), masks.any(2)

    def ends(line: Tensor) -> tuple[Tensor, Tensor]:
        line = line.float()
        return line.argmax(1), line.shape[1] - line.flip(1).argmax(1)

    (x0, x1), (y0, y1) = ends(across), ends(down)
    boxes = torch.stack([x0, y0, x1, y1], 1).float() * PIXELS_PER_CELL - 0.5
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    noise = (torch.randn_like(boxes) * 0.1 * size).clamp(-20, 20)
    return (boxes + noise).clamp(0, masks.shape[-1] * PIXELS_PER_CELL - 1)
