"""What a prompt strategy is, and what it may look at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Bool, UInt8
from pydantic import AfterValidator, Field
from torch import Tensor

from gradsam_exp.registry import Registry
from gradsam_exp.types import Heatmaps, Prompts

Fraction = Annotated[float, Field(ge=0, le=1)]


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("must be odd, so that the grid has a centre")
    return value


OddInt = Annotated[int, Field(ge=1), AfterValidator(_odd)]


@dataclass(frozen=True)
class PromptContext:
    """What is known about a batch when prompts are chosen.

    Attributes:
        images: RGB 0..255 in the original frame.
        heatmaps: where the classifier looked.
        image_ids: one name per image; numbers if left out.
        seed: of random strategies; see `generator`.
        masks: the true masks, for strategies that declare ``needs_truth`` only; else None.
    """

    images: UInt8[Tensor, "batch 3 height width"]
    heatmaps: Heatmaps
    image_ids: Sequence[str] = ()
    seed: int = 0
    masks: Bool[Tensor, "batch height width"] | None = None

    def __post_init__(self) -> None:
        if not self.image_ids:
            object.__setattr__(self, "image_ids", tuple(map(str, range(len(self.images)))))
        if not len(self.images) == len(self.heatmaps) == len(self.image_ids):
            raise ValueError(
                f"{len(self.images)} images, {len(self.heatmaps)} heatmaps and {len(self.image_ids)} names "
                "do not belong together"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` of the images in pixels."""
        return self.images.shape[-2], self.images.shape[-1]

    def generator(self, row: int) -> np.random.Generator:
        """Randomness of one image: the same however images are batched."""
        return np.random.default_rng([self.seed, *self.image_ids[row].encode()])


class PromptStrategy(ABC):
    """Turns heatmaps into prompts. Subclasses are small dataclasses whose fields are the knobs."""

    kinds: ClassVar[frozenset[str]] = frozenset({"points"})
    """Which of ``points``, ``boxes``, ``masks`` its prompts hold; checked against the segmenter up front."""

    needs_truth: ClassVar[bool] = False
    """Looks at the true masks: results are an upper bound and are marked as such everywhere."""

    @abstractmethod
    def propose(self, ctx: PromptContext) -> Prompts:
        """The first prompts for a batch; an image may get several queries, or none."""


STRATEGIES: Registry[PromptStrategy] = Registry("pipeline", "gradsam_exp.prompts")
