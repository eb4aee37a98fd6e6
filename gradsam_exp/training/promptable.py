"""This module trains a promptable segmenter by Segment Anything's interactive recipe, such as ``sam=compact``.

Kirillov et al.: *Segment Anything* (ICCV 2023), section 3 and appendix A. A first prompt (one click, now
and then several clicks or a jittered box) is answered by three candidate masks of which only the best is
trained; then corrective clicks are drawn from the *error region* of the last answer, which is fed back as
mask prompt. Loss: focal and dice 20:1, and mean squared error of the predicted IoU.

The single-mask token learns from prompts that are not ambiguous alone (boxes, several points, corrections), as
in SAM: for a click it would learn the mean of what the click can mean. Two deviations: the three candidates are
trained in all rounds (SAM: on the first prompt), and the IoU head is supervised for all four masks.
"""

import random
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchmetrics import MeanMetric
from torchvision.ops import sigmoid_focal_loss

from gradsam_exp.overlap import iou
from gradsam_exp.segmenters.compact_lite import LiteEncoder
from gradsam_exp.segmenters.decoder import predict_masks
from gradsam_exp.training.queries import (
    Queries,
    SceneBatch,
    corrected,
    first_prompts,
    innermost_cells,
    single_clicks,
)

Levels = tuple[Tensor, ...]
Weights = tuple[Tensor, ...] | list[Tensor]
FOCAL_WEIGHT = 20.0
ROUNDS = (0.35, 0.35, 0.15, 0.15)  # chances of 0, 1, 2 and 3 corrective rounds


class PromptableTraining(pl.LightningModule):
    """PromptableTraining trains a `Sam`; the averaged weights in ``self.averaged`` are the ones to keep.

    Muon (Jordan et al. 2024) for the matrices of the transformers, AdamW for everything else; the rate
    rises for ``warmup`` steps, stays, and falls linearly to zero over the last ``decay_share`` of the steps.

    Args:
        sam: the model to train, in place.
        steps: length of the whole schedule.
        learning_rate: its peak.
        average_decay: of the weights' exponential moving average; less in its first steps.
        click_share: share of the targets asked by a single click; the rest by several or by a box.
        box_share: share of the steps whose other targets are asked by boxes; else by two to nine points each.
        frozen_encoder: train the prompt encoder and the mask decoder only.
        pretrained_rate: the rate of what has learned before, as a share of ``learning_rate``: all but the new
            layers of `LiteEncoder`. Another architecture learns at the full rate.
        idle_background: share of the steps whose first prompts also have one to eight background points anywhere
            off the target. SAM's recipe has none: there a background click always corrects something.
        idle_foreground: share of the steps whose first prompts also have one to eight points anywhere on the
            target; of two equal shares the same steps have both.
        tight_clusters: share of the steps whose single clicks are grids of 3×3 points, 1 to 8 px apart, instead.
    """

    def __init__(
        self,
        sam: Sam,
        *,
        steps: int,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        warmup: int = 200,
        decay_share: float = 0.3,
        average_decay: float = 0.999,
        click_share: float = 0.75,
        box_share: float = 0.5,
        pretrained_rate: float = 0.35,
        frozen_encoder: bool = False,
        idle_background: float = 0.0,
        idle_foreground: float = 0.0,
        tight_clusters: float = 0.0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # two optimizers
        self.sam = sam
        if isinstance(sam.image_encoder, LiteEncoder):
            _train_faster(sam.image_encoder)
        self.sam.image_encoder.requires_grad_(not frozen_encoder)
        self.idle_background, self.idle_foreground = idle_background, idle_foreground
        self.tight_clusters = tight_clusters
        self.averaged = AveragedModel(sam, multi_avg_fn=_moving_average(average_decay))
        self.averaged.requires_grad_(False)
        self.steps, self.learning_rate, self.weight_decay = steps, learning_rate, weight_decay
        self.warmup, self.decay_share = warmup, decay_share
        self.click_share, self.box_share, self.pretrained_rate = click_share, box_share, pretrained_rate
        self.val_iou = MeanMetric(nan_strategy="disable")  # looking for NaN would wait for the device

    def training_step(self, batch: SceneBatch, batch_index: int) -> None:
        """Take one step on one batch of scenes; gradients are clipped to norm 1."""
        loss = self.loss(batch)
        optimizers, schedules = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizers, list)
        assert isinstance(schedules, list)
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        torch.nn.utils.clip_grad_norm_(self.sam.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            assert isinstance(schedule, torch.optim.lr_scheduler.LRScheduler)
            schedule.step()
        self.averaged.update_parameters(self.sam)

    def loss(self, batch: SceneBatch) -> Tensor:
        """Compute the mean loss of first prompts, and of up to three corrective rounds on half of them."""
        embeddings = self._embed(self.sam, batch)
        asked = first_prompts(
            batch,
            click_share=self.click_share,
            box_share=self.box_share,
            tight_clusters=self.tight_clusters,
            idle_background=self.idle_background,
            idle_foreground=self.idle_foreground,
        )
        total, count = torch.zeros((), device=batch.masks.device), 0
        answered = []
        for name, queries in zip(("loss/click", "loss/other"), asked, strict=True):
            if len(queries):
                loss, logits = self._answer(embeddings, queries, ambiguous=name == "loss/click")
                self.log(name, loss, prog_bar=True)
                total, count = total + loss * len(queries), count + len(queries)
                answered.append((queries, logits))

        rounds = random.choices(range(len(ROUNDS)), ROUNDS)[0]
        queries, logits = answered[0] if random.random() < 0.75 else answered[-1]
        kept = torch.randperm(len(queries), device=logits.device)[: (len(queries) + 1) // 2]
        queries, logits = queries[kept], logits[kept]
        for _ in range(rounds):
            queries = corrected(queries, logits)
            loss, logits = self._answer(embeddings, queries)
            total, count = total + loss * len(queries), count + len(queries)
        return total / count

    def validation_step(self, batch: SceneBatch, batch_index: int) -> None:
        """Measure the IoU for one click at each target's innermost cell; predicted IoU chooses the mask."""
        logits, predicted_iou, clicks = self.one_click(self.averaged.module, batch)
        chosen = _row_by_row(logits, 1 + predicted_iou[:, 1:].argmax(1))
        self.val_iou.update(iou(chosen > 0, clicks.truth).float())
        self.log("val/one_click_iou", self.val_iou, prog_bar=True)

    def one_click(self, sam: Sam, batch: SceneBatch) -> tuple[Tensor, Tensor, Queries]:
        """Ask a model for each target by its innermost cell; return mask logits, predicted IoUs and prompts."""
        clicks = single_clicks(batch, innermost_cells)
        return *_ask(sam, self._embed(sam, batch), clicks), clicks

    def configure_optimizers(self) -> Any:
        """Build Muon and AdamW under one schedule; see the class."""
        rates: dict[bool, list[list[nn.Parameter]]] = {True: [[], []], False: [[], []]}
        lite = isinstance(self.sam.image_encoder, LiteEncoder)
        for name, parameter in self.sam.named_parameters():
            if parameter.requires_grad:
                inside = parameter.ndim == 2 and any(part in name for part in (".blocks.", ".transformer."))
                new = not lite or (name.startswith("image_encoder.") and ".pretrained." not in name)
                rates[new][inside and "rel_pos" not in name].append(parameter)

        def groups(matrices: bool) -> list[dict[str, Any]]:
            known = [(kept[matrices], 1.0 if new else self.pretrained_rate) for new, kept in rates.items()]
            return [{"params": own, "lr": self.learning_rate * share} for own, share in known if own]

        optimizers = [
            torch.optim.Muon(groups(True), weight_decay=self.weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(groups(False), weight_decay=0.0, betas=(0.9, 0.98)),
        ]

        def rate(step: int) -> float:  # a function, not a method: its state is then left out of checkpoints
            left = (self.steps - step) / max(1.0, self.steps * self.decay_share)
            return max(0.0, min(1.0, (step + 1) / self.warmup, left))

        return optimizers, [torch.optim.lr_scheduler.LambdaLR(o, rate) for o in optimizers]

    def _embed(self, sam: Sam, batch: SceneBatch) -> Levels:
        pixels = (batch.images - sam.pixel_mean) / sam.pixel_std
        levels = sam.image_encoder(pixels * batch.inside[:, None])
        return levels if isinstance(levels, tuple) else (levels,)

    def _answer(self, embeddings: Levels, queries: Queries, *, ambiguous: bool = False) -> tuple[Tensor, Tensor]:
        """Compute the mean loss of one round, and the logits to correct next."""
        logits, predicted_iou = _ask(self.sam, embeddings, queries)
        logits, predicted_iou = logits.float(), predicted_iou.float()
        truth = queries.truth[:, None].expand_as(logits)
        masks = mask_loss(logits, truth.float())  # (Q, 4)
        iou_error = (predicted_iou - iou(logits.detach() > 0, truth).float()).square()
        loss = masks[:, 1:].amin(1) + iou_error.sum(1)
        if not ambiguous:
            loss = loss + masks[:, 0]
        best = 1 + predicted_iou[:, 1:].argmax(1)
        if queries.masks is not None:  # the single-mask token answers a correction
            best = torch.zeros_like(best)
        return loss.mean(), _row_by_row(logits.detach(), best)


def mask_loss(
    logits: Float[Tensor, "queries masks low low"], truth: Float[Tensor, "queries masks low low"]
) -> Float[Tensor, "queries masks"]:
    """Compute SAM's loss of each mask: 20 times the focal loss and once the dice loss."""
    focal = sigmoid_focal_loss(logits, truth, alpha=0.25, gamma=2).mean((-2, -1))
    probability = logits.sigmoid()
    overlap = (probability * truth).sum((-2, -1))
    dice = 1 - (2 * overlap + 1) / (probability.sum((-2, -1)) + truth.sum((-2, -1)) + 1)
    return FOCAL_WEIGHT * focal + dice


def _ask(sam: Sam, embeddings: Levels, queries: Queries) -> tuple[Tensor, Tensor]:
    points = None if queries.points is None else (queries.points, queries.labels)
    with torch.autocast(queries.truth.device.type, enabled=False):  # half precision would blur where a click is
        sparse, dense = sam.prompt_encoder(points=points, boxes=queries.boxes, masks=queries.masks)
    return predict_masks(sam, [level[queries.image_index] for level in embeddings], sparse, dense)


def _train_faster(encoder: LiteEncoder) -> None:
    """Lay out convolutions channels-last, and let a CPU train depthwise ones in single precision.

    Half of their bf16 backward pass is conversion; a step takes three quarters of the time.
    """
    encoder.to(memory_format=torch.channels_last)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            setattr(module, "forward", MethodType(_in_fp32_on_a_cpu, module))  # noqa: B010  (mypy)


def _in_fp32_on_a_cpu(self: nn.Conv2d, x: Tensor) -> Tensor:
    if x.device.type != "cpu":
        return type(self).forward(self, x)
    with torch.autocast("cpu", enabled=False):
        return type(self).forward(self, x.float())


def _moving_average(decay: float) -> Callable[[Weights, Weights, Tensor | int], None]:
    """Make the update of an exponential moving average that remembers no more than there has been."""

    @torch.no_grad()
    def update(averaged: Weights, current: Weights, count: Tensor | int) -> None:
        done = int(count)
        torch._foreach_lerp_(list(averaged), list(current), 1 - min(decay, (1 + done) / (10 + done)))

    return update


def _row_by_row(logits: Float[Tensor, "queries masks low low"], masks: Tensor) -> Float[Tensor, "queries low low"]:
    """Take each query's mask of the given number."""
    return logits[torch.arange(len(masks), device=masks.device), masks]
