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
from gradsam_exp.selectors.base import Choice, MaskSelector
from gradsam_exp.types import PromptContext, Prompts, Segmentation


@dataclass(frozen=True)
class PipelineResult:
    """What one batch came to.

    Attributes:
        masks: the mask kept for each image, in the original frame; empty for an image without a query.
        choice: which query and mask token it came from, and its predicted IoU.
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
    def scores(self) -> Float[Tensor, " batch"]:
        """Predicted IoU of the mask kept."""
        return self.choice.score


class Pipeline:
    """The right-hand side of the experiment.

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
            masks=self._masks(choice, segmentation, embeddings),
            choice=choice,
            prompts=prompts,
            segmentation=segmentation,
            rounds=torch.ones(len(ctx), dtype=torch.long),
        )

    def _masks(
        self, choice: Choice, segmentation: Segmentation, embeddings: Embeddings
    ) -> Bool[Tensor, "batch height width"]:
        """Bring only the masks that are kept to the original frame."""
        masks = torch.zeros(len(choice.query), *embeddings.original_size, dtype=torch.bool)
        asked = torch.nonzero(choice.query >= 0).flatten()
        if len(asked):
            kept = segmentation.logits[choice.query[asked], choice.token[asked]]
            masks[asked.cpu()] = self.segmenter.to_original(kept, embeddings).cpu()
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
    """Low-resolution logits of the masks kept; zero for an image without a query."""
    choice, logits = result.choice, result.segmentation.logits
    if not len(logits):
        return logits.new_zeros(len(choice.query), *logits.shape[2:])
    found = (choice.query >= 0)[:, None, None]
    return torch.where(found, logits[choice.query.clamp(min=0), choice.token], 0.0)


def _merged(old: PipelineResult, new: PipelineResult, accepted: Tensor, active: Tensor) -> PipelineResult:
    """The new round's rows for the images that accept it, the old rows for all others."""
    keep = torch.nonzero(~accepted[old.prompts.image_index]).flatten()
    take = torch.nonzero(accepted[new.prompts.image_index]).flatten()
    old_row = torch.full((len(old.prompts) + 1,), -1)
    old_row[keep] = torch.arange(len(keep))
    new_row = torch.full((len(new.prompts) + 1,), -1)
    new_row[take] = len(keep) + torch.arange(len(take))
    device = old.choice.query.device
    query = torch.where(accepted, new_row[new.choice.query.cpu()], old_row[old.choice.query.cpu()]).to(device)
    pick = accepted.to(device)
    return PipelineResult(
        masks=torch.where(accepted[:, None, None], new.masks, old.masks),
        choice=Choice(
            query,
            torch.where(pick, new.choice.token, old.choice.token),
            torch.where(pick, new.choice.score, old.choice.score),
        ),
        prompts=Prompts.joined(old.prompts[keep], new.prompts[take]),
        segmentation=Segmentation(
            torch.cat([old.segmentation.logits[keep], new.segmentation.logits[take]]),
            torch.cat([old.segmentation.scores[keep], new.segmentation.scores[take]]),
            torch.cat([old.segmentation.image_index[keep], new.segmentation.image_index[take]]),
        ),
        rounds=old.rounds + active.long(),
    )
