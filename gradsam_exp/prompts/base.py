"""What a prompt strategy is; what it may look at is a `PromptContext`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar

from jaxtyping import Bool, Float
from pydantic import AfterValidator, Field
from torch import Tensor

from gradsam_exp.registry import Registry
from gradsam_exp.types import PromptContext, Prompts, Segmentation

Fraction = Annotated[float, Field(ge=0, le=1)]


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("must be odd, so that the grid has a centre")
    return value


OddInt = Annotated[int, Field(ge=1), AfterValidator(_odd)]


class PromptStrategy(ABC):
    """Turns heatmaps into prompts. Subclasses are small dataclasses whose fields are the knobs."""

    kinds: ClassVar[frozenset[str]] = frozenset({"points"})
    """Which of ``points``, ``boxes``, ``masks`` its prompts hold; checked against the segmenter up front."""

    needs_truth: ClassVar[bool] = False
    """Looks at the true masks: results are an upper bound and are marked as such everywhere."""

    @property
    def ignored(self) -> frozenset[str]:
        """Parameters that make no difference as the others are: runs that differ only in them are the same."""
        return frozenset()

    @abstractmethod
    def propose(self, ctx: PromptContext) -> Prompts:
        """The first prompts for a batch; an image may get several queries, or none."""

    max_rounds: int = 1
    """How often an image is asked at most; more than one needs `revise`."""

    def revise(
        self,
        ctx: PromptContext,
        prompts: Prompts,
        segmentation: Segmentation,
        masks: Bool[Tensor, "batch height width"],
        chosen: Float[Tensor, "batch low low"],
    ) -> tuple[Prompts, Bool[Tensor, " batch"]]:
        """Look at the answer and ask again.

        Args:
            ctx: as in `propose`.
            prompts: the last round's.
            segmentation: its answers.
            masks: the mask kept so far for each image, in the original frame.
            chosen: its low-resolution logits.

        Returns:
            New prompts, for the images that are to be asked again only, and which these are.
        """
        raise NotImplementedError(f"{type(self).__name__} asks once")

    def better(
        self, ctx: PromptContext, new: Bool[Tensor, "batch height width"], old: Bool[Tensor, "batch height width"]
    ) -> Bool[Tensor, " batch"]:
        """Whether a revised mask replaces the one kept so far: unless it is empty where the heatmap is not."""
        del old
        return new.flatten(1).any(1) | ctx.heatmaps.empty.cpu()


STRATEGIES: Registry[PromptStrategy] = Registry("pipeline", "gradsam_exp.prompts")
