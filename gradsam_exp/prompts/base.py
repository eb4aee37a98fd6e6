"""This module says what a prompt strategy is, and holds the registry of them.

Everything that a strategy looks at (`PromptContext`, masks, ``chosen`` logits) and everything that it returns
(`Prompts`) is on the CPU; the segmenter brings prompts to its own device.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict, Field

from gradsam_exp.registry import Registry, check_value
from gradsam_exp.types import Chosen, LowRes, Masks, PromptContext, Prompts, Segmentation


def _fraction(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError("must lie between 0 and 1")
    return value


def _odd(value: int) -> int:
    if value < 1 or value % 2 == 0:
        raise ValueError("must be odd and positive, so that the grid has a centre")
    if value > MAX_GRID:
        raise ValueError(f"must be at most {MAX_GRID}: a grid has the square of it in points")
    return value


MAX_GRID = 101
Fraction = Annotated[float, AfterValidator(_fraction)]
OddInt = Annotated[int, AfterValidator(_odd)]
Offset = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1000)]
"""Number of points, peaks or rounds."""

# Defaults and ranges of the knobs that several strategies share; ``conf/config.yaml`` has the same defaults.
FG_THRESHOLD = 0.8
BG_THRESHOLD = 0.1
GRID_SIZE = 3
GRID_OFFSET = 1.0
KNOBS = {"fg_threshold": Fraction, "bg_threshold": Fraction, "grid_size": OddInt, "grid_offset": Offset}


class PromptStrategy(ABC):
    """A prompt strategy turns heatmaps into prompts; its fields are the knobs of its configuration."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    kinds: ClassVar[frozenset[str]] = frozenset({"points"})
    """Its prompts hold these of ``points``, ``boxes``, ``masks``; checked against the segmenter up front."""

    brings_selector: ClassVar[str | None] = None
    """Its configuration chooses this selector, unless another is given."""

    needs_truth: ClassVar[bool] = False
    """It looks at the true masks: results are an upper bound and are marked as such everywhere."""

    @property
    def ignored(self) -> frozenset[str]:
        """Name parameters without effect here; runs that differ only in these count as the same run."""
        return frozenset()

    @abstractmethod
    def propose(self, ctx: PromptContext) -> Prompts:
        """Make the first prompts for a batch; an image may get several queries, or none."""

    max_rounds: int = 1
    """Each image is asked at most so often; more than once needs `revise`."""

    def revise(
        self, ctx: PromptContext, prompts: Prompts, segmentation: Segmentation, masks: Masks, chosen: LowRes
    ) -> tuple[Prompts, Chosen]:
        """Look at the segmentation and make the prompts of the next round.

        Args:
            ctx: as in `propose`.
            prompts: the last round's.
            segmentation: the masks that were offered for them.
            masks: the mask kept so far for each image, in the original frame.
            chosen: its low-resolution logits; all zero for an image without a mask.

        Returns:
            New prompts, for the images that are to be asked again only, and which these are.

        Raises:
            NotImplementedError: a strategy with ``max_rounds`` above 1 that does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} asks once")

    def better(self, ctx: PromptContext, new: Masks, old: Masks) -> Chosen:
        """Tell which revised masks replace those kept so far: those that are not empty, or whose heatmap is."""
        del old
        return new.flatten(1).any(1) | ctx.heatmaps.empty


def check_knobs(values: Mapping[str, Any]) -> None:
    """Check the knobs that several strategies share, whether or not the chosen one uses them.

    Raises:
        InputError: a value out of its range; names the knob as the command line does, such as ``bg_threshold``.
    """
    for name, kind in KNOBS.items():
        check_value(name, kind, values[name])


STRATEGIES: Registry[PromptStrategy] = Registry("pipeline", "gradsam_exp.prompts")
