"""A pipeline turns heatmaps into masks: a strategy makes prompts, a segmenter masks, a selector keeps some.

A strategy may look at the masks and prompt again. Knows nothing of data sets, classifiers, Hydra or W&B.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsam_exp.prompts.background import ForegroundBackground
from gradsam_exp.prompts.base import PromptStrategy
from gradsam_exp.prompts.foreground import Foreground
from gradsam_exp.segmenters.base import Embeddings, Segmenter
from gradsam_exp.selectors.base import MaskSelector
from gradsam_exp.selectors.score import PredictedIoU
from gradsam_exp.types import Choice, PromptContext, Prompts, Segmentation


@dataclass(frozen=True)
class PipelineResult:
    """Holds the masks of one batch and how they came about; on the CPU but for ``segmentation``'s logits.

    Attributes:
        masks: the mask kept for each image, in the original frame; empty for an image without a query.
        choice: which candidates of which queries it is made of.
        prompts, segmentation: what was asked for the masks that are kept, and all that was answered; one
            row per query of every image's last accepted round.
        rounds: each image was asked so many times.
    """

    masks: Bool[Tensor, "batch height width"]
    choice: Choice
    prompts: Prompts
    segmentation: Segmentation
    rounds: Int[Tensor, " batch"]

    @property
    def predicted_iou(self) -> Float[Tensor, " batch"]:
        """Returns the segmenter's estimate of each kept mask's IoU; the largest of those united, 0 without any."""
        return _largest(self.choice, self.choice.predicted_iou, len(self.masks))

    @property
    def candidates(self) -> Int[Tensor, " batch"]:
        """Returns the kept candidate of each image; the first of several, 0 without any."""
        found = torch.zeros(len(self.masks), dtype=torch.long)
        found[self.choice.image_index.flip(0)] = self.choice.candidate.flip(0)
        return found


class Pipeline:
    """Turns heatmaps into masks: the strategy makes prompts, the segmenter masks, the selector keeps some."""

    def __init__(self, strategy: PromptStrategy, segmenter: Segmenter, selector: MaskSelector) -> None:
        self.strategy, self.segmenter, self.selector = strategy, segmenter, selector

    @property
    def needs_truth(self) -> bool:
        """Says whether the strategy or the selector looks at the true masks."""
        return self.strategy.needs_truth or self.selector.needs_truth

    def __call__(self, ctx: PromptContext, embeddings: Embeddings) -> PipelineResult:
        """Segments a batch of images of one size; ``embeddings`` are the segmenter's of the same images."""
        ctx = replace(ctx, frames=_Frames(self.segmenter, embeddings))
        kept = self._ask(ctx, embeddings, self.strategy.propose(ctx))
        going = torch.ones(len(ctx), dtype=torch.bool)
        for _ in range(self.strategy.max_rounds - 1):
            chosen = _chosen(kept)
            prompts, active = self.strategy.revise(ctx, kept.prompts, kept.segmentation, kept.masks, chosen)
            active &= going
            if not active.any():
                break
            revised = self._ask(ctx, embeddings, prompts[active[prompts.image_index]])
            # What was turned down would be asked the same again.
            going = active & self.strategy.better(ctx, revised.masks, kept.masks)
            kept = _merged(kept, revised, going, active)
        return kept

    def _ask(self, ctx: PromptContext, embeddings: Embeddings, prompts: Prompts) -> PipelineResult:
        """Masks one round's prompts; brings the kept masks alone to the original frame, and unites an image's."""
        segmentation = self.segmenter.decode(embeddings, prompts)
        choice = self.selector(ctx, segmentation)
        masks = torch.zeros(len(ctx), *embeddings.original_size, dtype=torch.bool)
        if len(choice):
            kept = segmentation.logits[choice.query, choice.candidate]
            originals = self.segmenter.to_original(kept, embeddings).cpu()
            for image, mask in zip(choice.image_index, originals, strict=True):
                masks[image] |= mask
        return PipelineResult(masks, choice, prompts, segmentation, rounds=torch.ones(len(ctx), dtype=torch.long))


class SamForegroundPipeline(Pipeline):
    """Segments by foreground points alone, as the reference report's class does: ``pipeline=fg``.

    `PredictedIoU` chooses among the masks. The knobs are fields of `Foreground`, such as ``fg_threshold``.
    """

    def __init__(self, segmenter: Segmenter, **knobs: Any) -> None:
        super().__init__(Foreground(**knobs), segmenter, PredictedIoU())


class SamBackgroundPipeline(Pipeline):
    """Segments by foreground and background points, as the reference report's class does: ``pipeline=fgbg``.

    `PredictedIoU` chooses among the masks. The knobs are fields of `ForegroundBackground`: ``bg_threshold``, ….
    """

    def __init__(self, segmenter: Segmenter, **knobs: Any) -> None:
        super().__init__(ForegroundBackground(**knobs), segmenter, PredictedIoU())


@dataclass(frozen=True)
class _Frames:
    """Brings maps of one batch to the segmenter's resolution, and masks back."""

    segmenter: Segmenter
    embeddings: Embeddings

    def to_low_res(self, values: Float[Tensor, "maps height width"]) -> Float[Tensor, "maps low low"]:
        return self.segmenter.to_low_res(values, self.embeddings)

    def to_original(self, logits: Float[Tensor, "masks low low"]) -> Bool[Tensor, "masks height width"]:
        return self.segmenter.to_original(logits, self.embeddings)


def _chosen(result: PipelineResult) -> Float[Tensor, "batch low low"]:
    """Returns low-resolution logits of the masks kept, on the CPU; the largest of those united, 0 without any."""
    kept = result.segmentation.logits[result.choice.query, result.choice.candidate].cpu()
    return _largest(result.choice, kept, len(result.masks))


def _largest(choice: Choice, values: Float[Tensor, "rows *shape"], count: int) -> Float[Tensor, "batch *shape"]:
    """Returns the elementwise maximum of the rows of each of ``count`` images; 0 for an image without any."""
    found = values.new_full((count, *values.shape[1:]), -torch.inf)
    for image, own in zip(choice.image_index, values, strict=True):
        found[image] = torch.maximum(found[image], own)
    return torch.where(found == -torch.inf, 0.0, found)


def _merged(old: PipelineResult, new: PipelineResult, accepted: Tensor, active: Tensor) -> PipelineResult:
    """Takes the new round's rows for the images that accept it, the old rows for all others."""
    keep = torch.nonzero(~accepted[old.prompts.image_index]).flatten()
    take = torch.nonzero(accepted[new.prompts.image_index]).flatten()
    kept_choice = _renumbered(old.choice[~accepted[old.choice.image_index]], keep, len(old.prompts), start=0)
    new_choice = _renumbered(new.choice[accepted[new.choice.image_index]], take, len(new.prompts), start=len(keep))
    choice = Choice.joined([kept_choice, new_choice])
    return PipelineResult(
        masks=torch.where(accepted[:, None, None], new.masks, old.masks),
        choice=choice[choice.image_index.argsort(stable=True)],
        prompts=Prompts.joined([old.prompts[keep], new.prompts[take]]),
        segmentation=Segmentation.joined([old.segmentation[keep], new.segmentation[take]]),
        rounds=old.rounds + active.long(),
    )


def _renumbered(choice: Choice, rows: Tensor, count: int, *, start: int) -> Choice:
    """Renumbers the choice among ``rows`` of ``count`` queries, which become rows ``start``, ``start + 1``, …."""
    place = torch.full((count,), -1)
    place[rows] = start + torch.arange(len(rows))
    return replace(choice, query=place[choice.query])
