"""This strategy simulates a user who clicks where the mask is wrong, as interactive segmentation is measured."""

from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
import torch
from jaxtyping import Bool
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy.ndimage import distance_transform_edt

from gradsam_exp.prompts.base import STRATEGIES, PromptStrategy
from gradsam_exp.types import (
    BACKGROUND,
    FOREGROUND,
    Chosen,
    LowRes,
    Masks,
    PromptContext,
    Prompts,
    Segmentation,
)

Mask = Bool[np.ndarray, "height width"]
Click = tuple[int, int, int]


@STRATEGIES.register("robot_user")
@dataclass(frozen=True)
class RobotUser(PromptStrategy):
    """RobotUser clicks on the innermost pixel of the mask's errors, again and again: an upper bound, no method.

    The clicker of RITM (Sofiiuk et al., ICIP 2022, ``isegm/inference/clicker.py``). Of the missing and of the
    false pixels that count, it takes the Euclidean distance to the nearest other pixel or the image's border, and
    clicks where it is largest: foreground if that is a missing pixel, background if a false one is as deep. The
    first of equal pixels in scan order is taken, and none twice. All clicks so far are asked together. An empty
    true mask gets none; an image whose mask has no error is not asked again.

    Attributes:
        max_rounds: clicks of each image, at most.
        feed_mask: give the mask so far as a mask prompt from the second click on, as RITM and SAM do.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"points", "masks"})
    needs: ClassVar[frozenset[str]] = frozenset({"truth"})

    max_rounds: Annotated[int, Field(ge=1)] = 20
    feed_mask: bool = True

    def propose(self, ctx: PromptContext) -> Prompts:
        """Ask one query of one click per image."""
        return _prompts(self._clicks(ctx, torch.zeros_like(_truth(ctx)), {}))

    def revise(
        self, ctx: PromptContext, prompts: Prompts, segmentation: Segmentation, masks: Masks, chosen: LowRes
    ) -> tuple[Prompts, Chosen]:
        """Add a click for every image whose mask has an error."""
        del segmentation
        before: dict[int, list[Click]] = {}
        rows = zip(prompts.example_index.tolist(), prompts.points, prompts.labels, strict=True)
        for example, points, labels in rows:
            real = labels >= 0
            clicks = zip(points[real].round().long().tolist(), labels[real].tolist(), strict=True)
            before[example] = [(x, y, label) for (x, y), label in clicks]
        asked = _prompts(self._clicks(ctx, masks, before))
        active = torch.zeros(len(ctx), dtype=torch.bool)
        active[asked.example_index] = True
        if self.feed_mask:
            asked = replace(asked, mask_logits=chosen[asked.example_index][:, None])
        return asked, active

    def better(self, ctx: PromptContext, new: Masks, old: Masks) -> Chosen:
        """Take every answer, as a user sees it."""
        del new, old
        return torch.ones(len(ctx), dtype=torch.bool)

    def _clicks(self, ctx: PromptContext, masks: Masks, before: dict[int, list[Click]]) -> dict[int, list[Click]]:
        """All clicks of each image that has an error, the new one last."""
        found = {}
        for k, (mask, truth) in enumerate(zip(masks.numpy(), _truth(ctx).numpy(), strict=True)):
            counted = np.ones_like(truth) if ctx.counted is None else ctx.counted[k].numpy()
            own = before.get(k, [])
            new = next_click(truth & ~mask & counted, mask & ~truth & counted, own)
            if new is not None:
                found[k] = [*own, new]
        return found


def next_click(missing: Mask, false: Mask, before: list[Click]) -> Click | None:
    """Find the next click ``(x, y, label)``; None if nothing is wrong where nobody has clicked yet.

    Args:
        missing, false: pixels that should be in the mask, and that should not.
        before: clicks so far.
    """
    depths = []
    for wrong in (missing, false):
        depth = distance_transform_edt(np.pad(wrong, 1))[1:-1, 1:-1]
        for x, y, _ in before:
            depth[y, x] = 0
        depths.append(depth)
    label = FOREGROUND if depths[0].max() > depths[1].max() else BACKGROUND
    depth = depths[0] if label == FOREGROUND else depths[1]
    if depth.max() == 0:
        return None
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return int(x), int(y), label


def _prompts(clicks: dict[int, list[Click]]) -> Prompts:
    """One query of each image's clicks, which are equally many."""
    values = torch.tensor(list(clicks.values()), dtype=torch.float32)
    values = values if clicks else torch.zeros(0, 1, 3)
    return Prompts(torch.tensor(list(clicks), dtype=torch.long), values[..., :2], values[..., 2].long())


def _truth(ctx: PromptContext) -> Masks:
    if ctx.masks is None:
        raise ValueError("a simulated user needs true masks")
    return ctx.masks
