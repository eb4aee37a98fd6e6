"""From heatmaps to masks: propose prompts, decode them, select a mask, and ask again where the strategy wants to.

Knows nothing of data sets, classifiers, Hydra or W&B; usable as a library.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsam_exp.prompts.base import PromptStrategy
from gradsam_exp.segmenters.base import Embeddings, Segmenter
from gradsam_exp.selectors.base import MaskSelector
from gradsam_exp.types import Choice, PromptContext, Prompts, Segmentation


@dataclass(frozen=True)
class PipelineResult:
    """What one batch came to.

    Attributes:
        masks: the mask kept for each image, in the original frame; empty for an image without a query.
        choice: which candidates of which queries it is made of.
        prompts, segmentation: what was asked for the masks that are kept, and all that was answered; one
            row per query of every image's last accepted round.
        rounds: how many times each image was asked.
    """

    masks: Bool[Tensor, "batch height width"]
    choice: Choice
    prompts: Prompts
    segmentation: Segmentation
    rounds: Int[Tensor, " batch"]

    @property
    def predicted_iou(self) -> Float[Tensor, " batch"]:
        """The segmenter's estimate of the kept mask's IoU; the largest if several were united, 0 without any."""
        return _largest(self.choice, self.choice.predicted_iou, len(self.masks))

    @property
    def candidates(self) -> Int[Tensor, " batch"]:
        """The kept candidate of each image; the first of several, 0 without any."""
        found = torch.zeros(len(self.masks), dtype=torch.long)
        found[self.choice.image_index.flip(0)] = self.choice.candidate.flip(0)
        return found


class Pipeline:
    """A prompt strategy, a segmenter and a mask selector that together turn heatmaps into masks.

    Args:
        strategy: heatmaps to prompts.
        segmenter: prompts to masks; loaded before the first call.
        selector: which mask to keep.
    """

    def __init__(self, strategy: PromptStrategy, segmenter: Segmenter, selector: MaskSelector) -> None:
        self.strategy, self.segmenter, self.selector = strategy, segmenter, selector

    @property
    def needs_truth(self) -> bool:
        """Whether the strategy or the selector looks at the true masks."""
        return self.strategy.needs_truth or self.selector.needs_truth

    def __call__(self, ctx: PromptContext, embeddings: Embeddings) -> PipelineResult:
        """Run a batch of images of one size.

        Args:
            ctx: images, heatmaps and names, in the embeddings' order.
            embeddings: the segmenter's encoding of the same images.
        """
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
        segmentation = self.segmenter.decode(embeddings, prompts)
        choice = self.selector(ctx, segmentation)
        return PipelineResult(
            masks=self._masks(choice, segmentation, embeddings, len(ctx)),
            choice=choice,
            prompts=prompts,
            segmentation=segmentation,
            rounds=torch.ones(len(ctx), dtype=torch.long),
        )

    def _masks(
        self, choice: Choice, segmentation: Segmentation, embeddings: Embeddings, count: int
    ) -> Bool[Tensor, "batch height width"]:
        """Bring the masks that are kept, and no others, to the original frame, and unite those of one image."""
        masks = torch.zeros(count, *embeddings.original_size, dtype=torch.bool)
        if len(choice):
            kept = segmentation.logits[choice.query, choice.candidate]
            originals = self.segmenter.to_original(kept, embeddings).cpu()
            for image, mask in zip(choice.image_index, originals, strict=True):
                masks[image] |= mask
        return masks


@dataclass(frozen=True)
class _Frames:
    """`Frames` of one batch."""

    segmenter: Segmenter
    embeddings: Embeddings

    def to_low_res(self, values: Float[Tensor, "maps height width"]) -> Float[Tensor, "maps low low"]:
        return self.segmenter.to_low_res(values, self.embeddings)

    def to_original(self, logits: Float[Tensor, "masks low low"]) -> Bool[Tensor, "masks height width"]:
        return self.segmenter.to_original(logits, self.embeddings)


def _chosen(result: PipelineResult) -> Float[Tensor, "batch low low"]:
    """Low-resolution logits of the masks kept; the largest of those united, zero for an image without any."""
    kept = result.segmentation.logits[result.choice.query, result.choice.candidate]
    return _largest(result.choice, kept, len(result.masks))


def _largest(choice: Choice, values: Float[Tensor, rows * shape], count: int) -> Float[Tensor, batch * shape]:
    """The elementwise maximum of the rows of each of ``count`` images; 0 for an image without any."""
    found = values.new_full((count, *values.shape[1:]), -torch.inf)
    for image, own in zip(choice.image_index, values, strict=True):
        found[image] = torch.maximum(found[image], own)
    return torch.where(found == -torch.inf, 0.0, found)


def _merged(old: PipelineResult, new: PipelineResult, accepted: Tensor, active: Tensor) -> PipelineResult:
    """The new round's rows for the images that accept it, the old rows for all others."""
    keep = torch.nonzero(~accepted[old.prompts.image_index]).flatten()
    take = torch.nonzero(accepted[new.prompts.image_index]).flatten()
    kept_choice = _renumbered(old.choice[~accepted[old.choice.image_index]], keep, len(old.prompts), start=0)
    new_choice = _renumbered(new.choice[accepted[new.choice.image_index]], take, len(new.prompts), start=len(keep))
    return PipelineResult(
        masks=torch.where(accepted[:, None, None], new.masks, old.masks),
        choice=_in_order(kept_choice, new_choice),
        prompts=Prompts.joined(old.prompts[keep], new.prompts[take]),
        segmentation=Segmentation.joined(old.segmentation[keep], new.segmentation[take]),
        rounds=old.rounds + active.long(),
    )


def _in_order(first: Choice, second: Choice) -> Choice:
    """The rows of both, by image."""
    both = Choice(*(torch.cat(pair) for pair in zip(first.parts, second.parts, strict=True)))
    return both[both.image_index.argsort(stable=True)]


def _renumbered(choice: Choice, rows: Tensor, count: int, *, start: int) -> Choice:
    """The choice among ``rows`` of ``count`` queries, which become rows ``start``, ``start + 1``, …."""
    place = torch.full((count,), -1)
    place[rows] = start + torch.arange(len(rows))
    return replace(choice, query=place[choice.query])
