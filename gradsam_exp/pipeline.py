"""From heatmaps to masks: propose prompts, decode them, select a mask.

Knows nothing of data sets, classifiers, Hydra or W&B; usable as a library.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsam_exp.prompts.base import PromptContext, PromptStrategy
from gradsam_exp.segmenters.base import Embeddings, Segmenter
from gradsam_exp.selectors.base import Choice, MaskSelector
from gradsam_exp.types import Prompts, Segmentation


@dataclass(frozen=True)
class PipelineResult:
    """What one batch came to.

    Attributes:
        masks: the mask kept for each image, in the original frame; empty for an image without a query.
        choice: which query and mask token it came from, and its predicted IoU.
        prompts, segmentation: what was asked and all that was answered.
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
        segmenter: prompts to masks; loaded.
        selector: which mask to keep.
    """

    def __init__(self, strategy: PromptStrategy, segmenter: Segmenter, selector: MaskSelector) -> None:
        self.strategy, self.segmenter, self.selector = strategy, segmenter, selector

    def __call__(self, ctx: PromptContext, embeddings: Embeddings) -> PipelineResult:
        """Run a batch of images of one size.

        Args:
            ctx: images, heatmaps and names, in the embeddings' order.
            embeddings: the segmenter's encoding of the same images.
        """
        prompts = self.strategy.propose(ctx)
        segmentation = self.segmenter.decode(embeddings, prompts)
        choice = self.selector(ctx.heatmaps, segmentation)
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
