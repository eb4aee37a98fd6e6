"""A pipeline turns heatmaps into masks: a strategy makes prompts, a segmenter masks, a selector keeps some.

A strategy may look at the masks and prompt again. Knows nothing of data sets, classifiers, Hydra or W&B.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsam_exp.errors import InputError
from gradsam_exp.overlap import iou, only_counted
from gradsam_exp.prompts.background import ForegroundBackground
from gradsam_exp.prompts.base import PromptStrategy
from gradsam_exp.prompts.foreground import Foreground
from gradsam_exp.segmenters.base import Embeddings, Segmenter, check_prompts
from gradsam_exp.segmenters.everything import everything
from gradsam_exp.selectors.base import MaskSelector
from gradsam_exp.selectors.score import PredictedIoU
from gradsam_exp.types import Choice, MaskSet, PromptContext, Prompts, Segmentation


@dataclass(frozen=True)
class PipelineResult:
    """Holds the masks of one batch and how they came about; on the CPU but for ``segmentation``'s logits.

    Attributes:
        masks: the mask kept for each example, in the original frame; empty for one without a query.
        choice: which candidates of which queries it is made of.
        prompts, segmentation: what was asked for the masks that are kept, and all that was answered; one
            row per query of every example's last accepted round.
        rounds: each example was asked so many times.
        round_ious: the IoU of each example's mask after every round, of one that is asked no more its last; only
            where a strategy asks several times and looks at the true masks.
    """

    masks: Bool[Tensor, "batch height width"]
    choice: Choice
    prompts: Prompts
    segmentation: Segmentation
    rounds: Int[Tensor, " batch"]
    round_ious: Float[Tensor, "batch rounds"] | None = None

    @property
    def predicted_iou(self) -> Float[Tensor, " batch"]:
        """Returns the segmenter's estimate of each kept mask's IoU; the largest of those united, 0 without any."""
        return _largest(self.choice, self.choice.predicted_iou, len(self.masks))

    @property
    def candidates(self) -> Int[Tensor, " batch"]:
        """Returns the kept candidate of each example; the first of several, 0 without any."""
        found = torch.zeros(len(self.masks), dtype=torch.long)
        found[self.choice.example_index.flip(0)] = self.choice.candidate.flip(0)
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
        """Segments a batch of examples in images of one size; ``embeddings`` are these images'."""
        return self.together([(ctx, embeddings)])[0]

    def together(self, batches: Sequence[tuple[PromptContext, Embeddings]]) -> list[PipelineResult]:
        """Segments several batches, each of one image size; what they ask in one round is decoded together."""
        results: dict[int, PipelineResult] = {}
        going = {place: self._rounds(ctx, embeddings) for place, (ctx, embeddings) in enumerate(batches)}
        answers: dict[int, Segmentation | None] = dict.fromkeys(going)
        while going:
            asked: dict[int, Prompts] = {}
            for place, rounds in list(going.items()):
                try:
                    asked[place] = rounds.send(answers[place])
                except StopIteration as done:
                    results[place] = done.value
                    del going[place]
            answers = dict(self._decoded([(place, batches[place][1], one) for place, one in asked.items()]))
        return [results[place] for place in range(len(batches))]

    def _rounds(
        self, ctx: PromptContext, embeddings: Embeddings
    ) -> Generator[Prompts, Segmentation | None, PipelineResult]:
        """Asks round by round: yields prompts, is sent the segmenter's answer, and returns what is kept."""
        asker = f"the strategy {type(self.strategy).__name__}"
        if "classifier" in self.strategy.needs and ctx.explain is None:
            raise ValueError(f"{asker} asks the classifier again: set PromptContext.explain")
        ctx = replace(
            ctx,
            frames=_Frames(self.segmenter, embeddings),
            features=embeddings.features if "embeddings" in self.strategy.needs else None,
            everything=ctx.everything or self._everything(embeddings),
        )
        prompts = self.strategy.propose(ctx)
        check_prompts(prompts, embeddings, asker)
        kept = self._answered(ctx, embeddings, prompts, (yield prompts))
        ious = [_ious(ctx, kept)]
        going = torch.ones(len(ctx), dtype=torch.bool)
        for _ in range(self.strategy.max_rounds - 1):
            chosen = _chosen(kept)
            prompts, active = self.strategy.revise(ctx, kept.prompts, kept.segmentation, kept.masks, chosen)
            active &= going
            if not active.any():
                break
            check_prompts(prompts, embeddings, asker)
            prompts = prompts[active[prompts.example_index]]
            revised = self._answered(ctx, embeddings, prompts, (yield prompts))
            # What was turned down would be asked the same again.
            going = active & self.strategy.better(ctx, revised.masks, kept.masks)
            kept = _merged(kept, revised, going, active)
            ious.append(_ious(ctx, kept))
        known = [values for values in ious if values is not None]
        return replace(kept, round_ious=torch.stack(known, 1)) if known and self.strategy.max_rounds > 1 else kept

    def _everything(self, embeddings: Embeddings) -> list[MaskSet]:
        """Finds what the strategy needs in each example's image, where that was not prepared."""
        mode = self.strategy.everything
        if mode is None:
            return []
        images = [embeddings.of_images(slice(row, row + 1)) for row in range(len(embeddings))]
        found = [everything(self.segmenter, image, mode) for image in images]
        return [found[image] for image in embeddings.image_of.tolist()]

    def _decoded(self, asked: Sequence[tuple[int, Embeddings, Prompts]]) -> Iterator[tuple[int, Segmentation]]:
        """Decodes the prompts of several batches: together those of the same kinds, on embeddings of one shape."""
        for _, alike in groupby(sorted(asked, key=_alike), key=_alike):
            places, embeddings, prompts = zip(*alike, strict=True)
            if len(places) == 1:
                yield places[0], self.segmenter.decode(embeddings[0], prompts[0])
                continue
            examples = np.cumsum([0, *(len(one.image_of) for one in embeddings)])
            queries = np.cumsum([0, *map(len, prompts)])
            moved = [
                replace(one, example_index=one.example_index + int(start))
                for one, start in zip(prompts, examples[:-1], strict=True)
            ]
            answer = self.segmenter.decode(Embeddings.joined(embeddings), Prompts.joined(moved))
            for place, one, start, end in zip(places, prompts, queries[:-1], queries[1:], strict=True):
                yield place, replace(answer[int(start) : int(end)], example_index=one.example_index)

    def _answered(
        self, ctx: PromptContext, embeddings: Embeddings, prompts: Prompts, segmentation: Segmentation | None
    ) -> PipelineResult:
        """Brings the masks that are kept, and no others, to the original frame; unites those of one example."""
        assert segmentation is not None
        choice = self.strategy.choose(ctx, prompts, segmentation, self.selector)
        masks = torch.zeros(len(ctx), *embeddings.original_size, dtype=torch.bool)
        if len(choice):
            kept = segmentation.logits[choice.query, choice.candidate]
            given = [kept, *([choice.predicted_iou] if "predicted_iou" in self.segmenter.provides else [])]
            if any((~values.isfinite()).any() for values in given):
                raise InputError("the segmenter gives masks that are NaN or infinite: check the weights of sam")
            originals = self.segmenter.to_original(kept, embeddings).cpu()
            for example, mask in zip(choice.example_index, originals, strict=True):
                masks[example] |= mask
        masks = self.strategy.complete(ctx, masks)
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
    """Brings maps of one batch to the segmenter's grid, and masks back."""

    segmenter: Segmenter
    embeddings: Embeddings

    def to_low_res(self, values: Float[Tensor, "maps height width"]) -> Float[Tensor, "maps rows columns"]:
        return self.segmenter.to_low_res(values, self.embeddings)

    def to_original(self, logits: Float[Tensor, "masks rows columns"]) -> Bool[Tensor, "masks height width"]:
        return self.segmenter.to_original(logits, self.embeddings)


def _ious(ctx: PromptContext, result: PipelineResult) -> Float[Tensor, " batch"] | None:
    """Returns the IoU of each mask, on the pixels that count; None without true masks."""
    if ctx.masks is None:
        return None
    return iou(*only_counted(result.masks, ctx.masks, counted=ctx.counted))


def _alike(asked: tuple[int, Embeddings, Prompts]) -> tuple[bool, bool, list[tuple[int, ...]]]:
    """What a batch's prompts have besides points (boxes, masks), and the shapes of its images' embeddings.

    Networks resize images to one size; segmenters that do not have embeddings of the images' own.
    """
    _, embeddings, prompts = asked
    shapes = [tuple(level.shape[1:]) for level in embeddings.levels]
    return prompts.boxes is not None, prompts.mask_logits is not None, shapes


def _chosen(result: PipelineResult) -> Float[Tensor, "batch rows columns"]:
    """Returns the logits of the masks kept, on the CPU; the largest of those united, 0 without any."""
    kept = result.segmentation.logits[result.choice.query, result.choice.candidate].cpu()
    return _largest(result.choice, kept, len(result.masks))


def _largest(choice: Choice, values: Float[Tensor, rows * shape], count: int) -> Float[Tensor, batch * shape]:
    """Returns the elementwise maximum of the rows of each of ``count`` images; 0 for an image without any."""
    found = values.new_full((count, *values.shape[1:]), -torch.inf)
    for image, own in zip(choice.example_index, values, strict=True):
        found[image] = torch.maximum(found[image], own)
    return torch.where(found == -torch.inf, 0.0, found)


def _merged(old: PipelineResult, new: PipelineResult, accepted: Tensor, active: Tensor) -> PipelineResult:
    """Takes the new round's rows for the images that accept it, the old rows for all others."""
    keep = torch.nonzero(~accepted[old.prompts.example_index]).flatten()
    take = torch.nonzero(accepted[new.prompts.example_index]).flatten()
    kept_choice = _renumbered(old.choice[~accepted[old.choice.example_index]], keep, len(old.prompts), start=0)
    new_choice = _renumbered(
        new.choice[accepted[new.choice.example_index]], take, len(new.prompts), start=len(keep)
    )
    choice = Choice.joined([kept_choice, new_choice])
    return PipelineResult(
        masks=torch.where(accepted[:, None, None], new.masks, old.masks),
        choice=choice[choice.example_index.argsort(stable=True)],
        prompts=Prompts.joined([old.prompts[keep], new.prompts[take]]),
        segmentation=Segmentation.joined([old.segmentation[keep], new.segmentation[take]]),
        rounds=old.rounds + active.long(),
    )


def _renumbered(choice: Choice, rows: Tensor, count: int, *, start: int) -> Choice:
    """Renumbers the choice among ``rows`` of ``count`` queries, which become rows ``start``, ``start + 1``, …."""
    place = torch.full((count,), -1)
    place[rows] = start + torch.arange(len(rows))
    return replace(choice, query=place[choice.query])
