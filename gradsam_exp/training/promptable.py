"""How ``sam=compact`` learns: Segment Anything's interactive recipe, for any `Sam`.

Kirillov et al.: *Segment Anything* (ICCV 2023), section 3 and appendix A. A first prompt (one click, now
and then several clicks or a jittered box) is answered by three candidate masks of which only the best is
trained; then corrective clicks are drawn from the *error region* of the last answer, which is fed back as
mask prompt. Loss: focal and dice 20:1, and mean squared error of the predicted IoU.

Two deviations, both so that every output means something for every prompt: all four mask tokens are
trained in all rounds (SAM trains the single-mask token only from the second prompt on, the three
candidates only on the first), and the IoU head is supervised for all of them.

Works on tensors; where scenes come from is not its business.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Bool, Float, UInt8
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchmetrics import MeanMetric
from torchvision.ops import sigmoid_focal_loss

from gradsam_exp.overlap import iou
from gradsam_exp.segmenters.decoder import predict_masks

FOCAL_WEIGHT = 20.0


@dataclass(frozen=True)
class SceneBatch:
    """Scenes in SAM's input frame.

    Attributes:
        images: RGB 0..255, resized to the longer side and padded at the bottom and right.
        inside: 1 where there is image, 0 on padding.
        masks: ``targets`` true masks of every image on the low-resolution grid.
    """

    images: UInt8[Tensor, "batch 3 size size"]
    inside: Bool[Tensor, "batch size size"]
    masks: Bool[Tensor, "batch targets low low"]

    def to(self, device: torch.device | str) -> SceneBatch:
        """The same batch on ``device``."""
        return SceneBatch(self.images.to(device), self.inside.to(device), self.masks.to(device))


@dataclass(frozen=True)
class _Queries:
    """Equal-shaped prompts in the input frame, one row a query, and what they should give."""

    image_index: Tensor  # (Q,)
    truth: Tensor  # (Q, low, low) bool
    points: Tensor | None  # (Q, N, 2) x, y
    labels: Tensor | None  # (Q, N)
    boxes: Tensor | None = None  # (Q, 4)
    masks: Tensor | None = None  # (Q, 1, low, low) logits

    def __getitem__(self, rows: Tensor) -> _Queries:
        points, labels, boxes, masks = (
            None if v is None else v[rows] for v in (self.points, self.labels, self.boxes, self.masks)
        )
        return _Queries(self.image_index[rows], self.truth[rows], points, labels, boxes, masks)


class PromptableTraining(pl.LightningModule):
    """Trains a `Sam`; the averaged weights in ``self.averaged`` are the ones to keep.

    Muon (Jordan et al. 2024) for the matrices of the transformers, AdamW for everything else; the rate
    rises for ``warmup`` steps, stays, and falls linearly to zero over the last ``decay_share`` of the steps.

    Args:
        sam: the model to train, in place.
        steps: length of the whole schedule.
        learning_rate: its peak.
        click_share: share of the targets asked by a single click; the rest by several or by a box.
        frozen_encoder: train the prompt encoder and the mask decoder only.
        idle_background: share of the steps whose first prompts also have one to eight background points anywhere
            off the target. SAM's recipe has none: there a background click always corrects something.
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
        frozen_encoder: bool = False,
        idle_background: float = 0.0,
        tight_clusters: float = 0.0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # two optimizers
        self.sam = sam
        self.sam.image_encoder.requires_grad_(not frozen_encoder)
        self.idle_background, self.tight_clusters = idle_background, tight_clusters
        self.averaged = AveragedModel(sam, multi_avg_fn=get_ema_multi_avg_fn(average_decay))
        self.averaged.requires_grad_(False)
        self.steps, self.learning_rate, self.weight_decay = steps, learning_rate, weight_decay
        self.warmup, self.decay_share, self.click_share = warmup, decay_share, click_share
        self.val_iou = MeanMetric()

    def training_step(self, batch: SceneBatch, batch_index: int) -> None:
        """One step on one batch of scenes; gradients are clipped to norm 1."""
        del batch_index
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
        """First prompts, then up to three corrective rounds on half of the queries."""
        embeddings = self._embed(self.sam, batch)
        clicks, others = self._first_prompts(batch)
        loss, answer = self._answer(embeddings, clicks)
        loss_others, answer_others = self._answer(embeddings, others)
        total = loss * len(clicks.truth) + loss_others * len(others.truth)
        count = len(clicks.truth) + len(others.truth)
        self.log_dict({"loss/click": loss, "loss/other": loss_others}, prog_bar=True)

        rounds = int(torch.multinomial(torch.tensor([0.35, 0.35, 0.15, 0.15]), 1))
        queries, logits = (clicks, answer) if torch.rand(()) < 0.75 else (others, answer_others)
        kept = torch.randperm(len(queries.truth))[: (len(queries.truth) + 1) // 2]
        queries, logits = queries[kept], logits[kept]
        for _ in range(rounds):
            queries = _correct(queries, logits)
            loss, logits = self._answer(embeddings, queries)
            total, count = total + loss * len(queries.truth), count + len(queries.truth)
        return total / count

    def validation_step(self, batch: SceneBatch, batch_index: int) -> None:
        """One click at each target's innermost cell; the mask with the best predicted IoU counts."""
        del batch_index
        sam = self.averaged.module
        embeddings = self._embed(sam, batch)
        clicks = _single_clicks(batch, _innermost)
        logits, scores = _ask(sam, embeddings, clicks)
        best = 1 + scores[:, 1:].argmax(1)
        chosen = logits[torch.arange(len(best)), best]
        self.val_iou.update(iou(chosen > 0, clicks.truth).float())
        self.log("val/one_click_iou", self.val_iou, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """Muon and AdamW under one schedule; see the class."""
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in self.sam.named_parameters():
            if parameter.requires_grad:
                inside = parameter.ndim == 2 and any(part in name for part in (".blocks.", ".transformer."))
                (matrices if inside and "rel_pos" not in name else rest).append(parameter)
        optimizers = [
            torch.optim.Muon(
                matrices, lr=self.learning_rate, weight_decay=self.weight_decay, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(rest, lr=self.learning_rate, weight_decay=0.0, betas=(0.9, 0.98)),
        ]

        def rate(step: int) -> float:  # a function, not a method: its state is then left out of checkpoints
            left = (self.steps - step) / max(1.0, self.steps * self.decay_share)
            return max(0.0, min(1.0, (step + 1) / self.warmup, left))

        return optimizers, [torch.optim.lr_scheduler.LambdaLR(o, rate) for o in optimizers]

    def _embed(self, sam: Sam, batch: SceneBatch) -> Float[Tensor, "batch channels rows columns"]:
        pixels = (batch.images - sam.pixel_mean) / sam.pixel_std
        return sam.image_encoder(pixels * batch.inside[:, None])

    def _first_prompts(self, batch: SceneBatch) -> tuple[_Queries, _Queries]:
        every = _single_clicks(batch, _anywhere)
        targets = batch.masks.shape[1]
        by_click = max(1, round(targets * self.click_share))
        position = torch.arange(len(every.truth)) % targets
        clicks, others = every[position < by_click], every[position >= by_click]
        if torch.rand(()) < self.tight_clusters:
            clicks = _clustered(clicks)
        if torch.rand(()) < 0.5:
            others = replace(others, points=None, labels=None, boxes=_jittered_boxes(others.truth))
        else:
            count = int(torch.randint(2, 10, ()))
            points = _cells_to_pixels(_anywhere(others.truth, count))
            others = replace(others, points=points, labels=torch.ones(points.shape[:2]))
        if torch.rand(()) < self.idle_background:
            inside = batch.inside[:, 1::4, 1::4]
            clicks, others = _with_idle_background(clicks, inside), _with_idle_background(others, inside)
        return clicks, others

    def _answer(self, embeddings: Tensor, queries: _Queries) -> tuple[Tensor, Tensor]:
        """The mean loss of one round, and the logits to correct next."""
        logits, scores = _ask(self.sam, embeddings, queries)
        logits, scores = logits.float(), scores.float()
        truth = queries.truth[:, None].expand_as(logits)
        masks = _mask_loss(logits, truth.float())  # (Q, 4)
        iou_error = (scores - iou(logits.detach() > 0, truth).float()).square()
        loss = masks[:, 0] + masks[:, 1:].amin(1) + iou_error.sum(1)
        best = 1 + scores[:, 1:].argmax(1) if queries.masks is None else torch.zeros(len(scores), dtype=torch.long)
        return loss.mean(), logits.detach()[torch.arange(len(best)), best]


def _ask(sam: Sam, embeddings: Tensor, queries: _Queries) -> tuple[Tensor, Tensor]:
    points = None if queries.points is None else (queries.points, queries.labels)
    with torch.autocast(embeddings.device.type, enabled=False):  # half precision would blur where a click is
        sparse, dense = sam.prompt_encoder(points=points, boxes=queries.boxes, masks=queries.masks)
    return predict_masks(sam, embeddings[queries.image_index], sparse, dense)


def _single_clicks(batch: SceneBatch, pick: Any) -> _Queries:
    images, targets = batch.masks.shape[:2]
    truth = batch.masks.flatten(0, 1)
    points = _cells_to_pixels(pick(truth, 1))
    image_index = torch.arange(images).repeat_interleave(targets)
    return _Queries(image_index, truth, points, torch.ones(points.shape[:2]))


def _correct(queries: _Queries, logits: Float[Tensor, "queries low low"]) -> _Queries:
    """Feed the last answer back, mostly with one more click where it was wrong."""
    refined = replace(queries, masks=logits[:, None])
    if torch.rand(()) < 0.15:
        return refined
    wrong = (logits > 0) != queries.truth
    wrong |= queries.truth & ~wrong.flatten(1).any(1)[:, None, None]  # nothing wrong: confirm the object
    cells = _anywhere(wrong, 1)
    labels = queries.truth[torch.arange(len(cells))[:, None], cells[..., 1], cells[..., 0]].float()
    points = _cells_to_pixels(cells)
    if queries.points is not None and queries.labels is not None:
        points = torch.cat([queries.points, points], 1)
        labels = torch.cat([queries.labels, labels], 1)
    return replace(refined, points=points, labels=labels)


def _clustered(clicks: _Queries) -> _Queries:
    """A grid of 3×3 foreground points around each click instead of the click."""
    assert clicks.points is not None
    spacing = float(torch.empty(()).uniform_(1, 8))
    steps = torch.tensor([-spacing, 0.0, spacing])
    points = clicks.points + torch.cartesian_prod(steps, steps)
    return replace(clicks, points=points, labels=torch.ones(points.shape[:2]))


def _with_idle_background(queries: _Queries, inside: Bool[Tensor, "batch low low"]) -> _Queries:
    """One to eight background points more, anywhere ``inside`` the image off the target.

    A target that fills the image gets foreground points.
    """
    off = inside[queries.image_index] & ~queries.truth
    filled = ~off.flatten(1).any(1)
    off[filled] = queries.truth[filled]
    points = _cells_to_pixels(_anywhere(off, int(torch.randint(1, 9, ()))))
    labels = filled.float()[:, None].expand(points.shape[:2])
    if queries.points is not None and queries.labels is not None:
        points, labels = torch.cat([queries.points, points], 1), torch.cat([queries.labels, labels], 1)
    return replace(queries, points=points, labels=labels)


def _anywhere(masks: Bool[Tensor, "queries low low"], count: int) -> Tensor:
    """``count`` random set cells of every mask, with replacement: ``(Q, count, 2)`` as x, y."""
    flat = torch.multinomial(masks.flatten(1).float(), count, replacement=True)
    return torch.stack([flat % masks.shape[-1], flat // masks.shape[-1]], -1)


def _innermost(masks: Bool[Tensor, "queries low low"], count: int) -> Tensor:
    """The set cell farthest from the mask's edge: where a person would click."""
    depth = masks.float()[:, None]
    inside = depth
    for _ in range(masks.shape[-1] // 2):
        inside = -torch.nn.functional.max_pool2d(-inside, 3, stride=1, padding=1)
        depth = depth + inside
    flat = depth.flatten(1).argmax(1, keepdim=True).expand(-1, count)
    return torch.stack([flat % masks.shape[-1], flat // masks.shape[-1]], -1)


def _cells_to_pixels(cells: Tensor) -> Tensor:
    """Centres of low-resolution cells as pixel coordinates of the input frame (four pixels a cell)."""
    return (cells + 0.5) * 4 - 0.5


def _jittered_boxes(masks: Bool[Tensor, "queries low low"]) -> Float[Tensor, "queries 4"]:
    """Tight boxes in the input frame, each side moved by noise of 10 % of its length, at most 20 px."""
    across, down = masks.any(1), masks.any(2)

    def ends(line: Tensor) -> tuple[Tensor, Tensor]:
        line = line.float()
        return line.argmax(1), line.shape[1] - line.flip(1).argmax(1)

    (x0, x1), (y0, y1) = ends(across), ends(down)
    boxes = torch.stack([x0, y0, x1, y1], 1).float() * 4 - 0.5
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    noise = (torch.randn_like(boxes) * 0.1 * size).clamp(-20, 20)
    return (boxes + noise).clamp(0, masks.shape[-1] * 4 - 1)


def _mask_loss(logits: Float[Tensor, "queries masks low low"], truth: Tensor) -> Float[Tensor, "queries masks"]:
    focal = sigmoid_focal_loss(logits, truth, alpha=0.25, gamma=2).mean((-2, -1))
    probability = logits.sigmoid()
    overlap = (probability * truth).sum((-2, -1))
    dice = 1 - (2 * overlap + 1) / (probability.sum((-2, -1)) + truth.sum((-2, -1)) + 1)
    return FOCAL_WEIGHT * focal + dice
