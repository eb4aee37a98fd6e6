"""This module says what a prompt strategy is, and holds the registry of them.

Everything that a strategy looks at (`PromptContext`, masks, ``chosen`` logits) and everything that it returns
(`Prompts`) is on the CPU; the segmenter brings prompts to its own device.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from gradsam_exp.prompts.thresholds import Threshold
from gradsam_exp.registry import Registry, check_value
from gradsam_exp.types import Choice, Chosen, EverythingMode, LowRes, Masks, PromptContext, Prompts, Segmentation

Select = Callable[[PromptContext, Segmentation], Choice]


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


def _length(given: Any) -> float | str:
    """Bring a length to one form: pixels as a float, or a share such as ``2%``."""
    share = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%\s*", given) if isinstance(given, str) else None
    if share is not None:
        if float(share[1]) > 100:
            raise ValueError("must be at most 100% of the image's shorter side")
        return f"{float(share[1]):g}%"
    try:
        number = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("must be a finite number of pixels, or a share of the image's shorter side such as 2%")
    return number


def _positive(given: float | str) -> float | str:
    if _number(given) <= 0:
        raise ValueError("must be greater than 0")
    return given


def _not_negative(given: float | str) -> float | str:
    if _number(given) < 0:
        raise ValueError("must be greater than or equal to 0")
    return given


def _whole(given: float | str) -> float | int | str:
    if isinstance(given, float):
        if given % 1 or not 1 <= given <= MAX_WHOLE:
            raise ValueError(f"must be a whole number of pixels from 1 to {MAX_WHOLE}, or a share such as 2%")
        return int(given)
    return given


def _number(length: float | int | str) -> float:
    return float(length.removesuffix("%")) if isinstance(length, str) else float(length)


MAX_WHOLE = 1000  # px
Length = Annotated[float | str, BeforeValidator(_positive), BeforeValidator(_length)]
"""A length in pixels, or a share of the image's shorter side: ``1.5``, ``"2%"``; positive."""
Gap = Annotated[float | str, BeforeValidator(_not_negative), BeforeValidator(_length)]
"""As `Length`, or 0."""
WholeLength = Annotated[int | str, BeforeValidator(_whole), BeforeValidator(_positive), BeforeValidator(_length)]
"""As `Length`, in whole pixels; a share is rounded, to 1 px at least."""


def pixels(length: float | int | str, size: tuple[int, int]) -> float:
    """Convert a `Length` to pixels of an image of ``size``, (height, width)."""
    return _number(length) / 100 * min(size) if isinstance(length, str) else float(length)


def whole_pixels(length: int | str, size: tuple[int, int]) -> int:
    """Convert a `WholeLength` to pixels of an image of ``size``, (height, width)."""
    return max(1, round(pixels(length, size)))


Count = Annotated[int, Field(ge=1, le=1000)]
"""Number of points, peaks or rounds."""

# Defaults and ranges of the knobs that several strategies share; ``conf/config.yaml`` has the same defaults.
FG_THRESHOLD: float | str = 0.8
BG_THRESHOLD: float | str = 0.1
GRID_SIZE = 3
GRID_OFFSET: float | str = 1.0
KNOBS = {"fg_threshold": Threshold, "bg_threshold": Threshold, "grid_size": OddInt, "grid_offset": Length}


class PromptStrategy(ABC):
    """A prompt strategy turns heatmaps into prompts; its fields are the knobs of its configuration."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    kinds: ClassVar[frozenset[str]] = frozenset({"points"})
    """Its prompts hold these of ``points``, ``boxes``, ``masks``; checked against the segmenter up front."""

    selects: ClassVar[bool] = False
    """It keeps masks by a rule of its own, see `choose`: the selector has no effect."""

    brings_selector: ClassVar[str | None] = None
    """Its configuration chooses this selector, unless another is given."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """It looks at these besides heatmaps: the segmenter's ``embeddings``, its ``everything`` mode, the
    ``classifier``, the ``truth``; see `PromptContext`. What is not needed is not made and not loaded."""

    everything: EverythingMode | None = None
    """How the masks are made that a strategy looks at which needs ``everything``."""

    @property
    def needs_truth(self) -> bool:
        """Say whether it looks at the true masks: results are an upper bound and are marked as such everywhere."""
        return "truth" in self.needs

    @property
    def ignored(self) -> frozenset[str]:
        """Name parameters without effect here; runs that differ only in these count as the same run."""
        return frozenset()

    @property
    def ignoring(self) -> tuple[str, ...]:
        """Give the settings that leave others without effect, as the command line gives them."""
        return ()

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

    def choose(self, ctx: PromptContext, prompts: Prompts, segmentation: Segmentation, select: Select) -> Choice:
        """Choose which of the masks that were offered are kept; by default the selector does.

        Args:
            ctx, prompts: as in `propose`; ``segmentation`` answers these prompts, row by row.
            select: the selector, which keeps one mask of each example.

        Returns:
            As of a selector: the masks of an example's rows are united.
        """
        return (
            select(ctx, segmentation)
            if prompts.candidate is None
            else chosen_rows(prompts.candidate, segmentation)
        )

    def complete(self, ctx: PromptContext, masks: Masks) -> Masks:
        """Change the masks that are kept, one for each example in the original frame; by default not."""
        del ctx
        return masks

    def better(self, ctx: PromptContext, new: Masks, old: Masks) -> Chosen:
        """Tell which revised masks replace those kept so far: those that are not empty, or whose heatmap is."""
        del old
        return new.flatten(1).any(1) | ctx.heatmaps.empty


def chosen_rows(candidate: torch.Tensor, segmentation: Segmentation) -> Choice:
    """Choose one candidate of each query."""
    query = torch.arange(len(segmentation))
    predicted_iou = segmentation.predicted_iou.cpu()[query, candidate]
    return Choice(segmentation.example_index, query, candidate, predicted_iou)


def of_each_query(ctx: PromptContext, segmentation: Segmentation, select: Select) -> Choice:
    """Choose, by the selector, one mask of each query, where it would choose one of each example."""
    rows = segmentation.example_index
    choice = select(ctx.of_examples(rows), replace(segmentation, example_index=torch.arange(len(rows))))
    return replace(choice, example_index=rows[choice.example_index])


def check_knobs(values: Mapping[str, Any]) -> None:
    """Check the knobs that several strategies share, whether or not the chosen one uses them.

    Raises:
        InputError: a value out of its range; names the knob as the command line does, such as ``bg_threshold``.
    """
    for name, kind in KNOBS.items():
        check_value(name, kind, values[name])


STRATEGIES: Registry[PromptStrategy] = Registry("pipeline", "gradsam_exp.prompts")
