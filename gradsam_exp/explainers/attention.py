"""Explanations of vision transformers from their attention matrices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gradsam_exp.errors import InputError
from gradsam_exp.explainers.base import (
    EXPLAINERS,
    Upsample,
    checked_targets,
    combine_layers,
    evaluation_mode,
    network_input,
)
from gradsam_exp.explainers.layers import as_maps, frame_of
from gradsam_exp.explainers.scores import Score, class_score
from gradsam_exp.types import Heatmaps

Attention = Float[Tensor, "batch heads tokens tokens"]
Relation = Float[Tensor, "batch tokens tokens"]
Fusion = Literal["mean", "max", "min"]


class AttentionExplainer(ABC):
    """Base of the explainers that multiply attention matrices from layer to layer.

    For networks built of `nn.MultiheadAttention`, such as torchvision's ViT. The map is the class token's
    row of the result; without a class token, the mean over all rows.

    Args:
        model: see `GradientCAM`.
        upsample: interpolation from the grid of patches to the image.

    Raises:
        InputError: if the network has no `nn.MultiheadAttention`.
    """

    def __init__(self, model: nn.Module, *, upsample: Upsample = "bilinear") -> None:
        self.model, self.upsample = model, upsample
        if not any(isinstance(module, nn.MultiheadAttention) for module in model.modules()):
            network = getattr(model, "backbone_name", type(model).__name__)
            raise InputError(
                f"this explainer needs attention (nn.MultiheadAttention), which {network} has not: use it with a "
                "classifier that was trained with model=vit_b_16, or choose explainer=gradcam"
            )

    def __call__(self, images: Tensor, targets: Int[Tensor, " batch"] | None = None) -> Heatmaps:
        """See `Explainer.__call__`."""
        pixels = network_input(self.model, images)
        with evaluation_mode(self.model), attention_matrices(self.model) as matrices:
            relation, targets, logits = self.relate(pixels, targets, matrices)
        maps = token_map(relation.detach(), frame_of(pixels))
        return combine_layers([maps], frame_of(images), targets, logits.detach(), self.upsample)

    @abstractmethod
    def relate(
        self, pixels: Tensor, targets: Tensor | None, matrices: list[Attention]
    ) -> tuple[Relation, Tensor, Tensor]:
        """How much each token owes to each patch; runs the network, which fills ``matrices``."""


@EXPLAINERS.register("attention_rollout")
class AttentionRollout(AttentionExplainer):
    """Attention rollout (Abnar and Zuidema, ACL 2020, section 3): no gradient, no class.

    ``R = Π (½A + ½I)`` over the layers, ``A`` fused over the heads, rows normalised.

    Args:
        model, upsample: see `AttentionExplainer`.
        fusion: of the heads: ``mean`` (the paper's), ``max`` or ``min``.
    """

    def __init__(self, model: nn.Module, *, fusion: Fusion = "mean", upsample: Upsample = "bilinear") -> None:
        super().__init__(model, upsample=upsample)
        self.fusion = fusion

    def relate(
        self, pixels: Tensor, targets: Tensor | None, matrices: list[Attention]
    ) -> tuple[Relation, Tensor, Tensor]:
        """See `AttentionExplainer.relate`."""
        with torch.no_grad():
            logits = self.model(pixels)
        relation: Tensor | None = None
        for matrix in matrices:
            heads = matrix.mean(1) if self.fusion == "mean" else getattr(matrix, f"a{self.fusion}")(1)
            mixed = heads + torch.eye(heads.shape[-1], device=heads.device)
            mixed = mixed / mixed.sum(-1, keepdim=True)
            relation = mixed if relation is None else mixed @ relation
        assert relation is not None
        return relation, checked_targets(targets, logits), logits


@EXPLAINERS.register("attention_relevance")
class AttentionRelevance(AttentionExplainer):
    """Gradient-weighted attention relevance (Chefer et al., ICCV 2021, eq. 5 and 6, self-attention only).

    ``R ← R + mean_h(ReLU(∇A ⊙ A))·R`` from layer to layer, starting from the identity.

    Args:
        model, upsample: see `AttentionExplainer`.
        score: what is explained; see `class_score`.
    """

    def __init__(self, model: nn.Module, *, score: Score = "logit", upsample: Upsample = "bilinear") -> None:
        super().__init__(model, upsample=upsample)
        self.score = score

    def relate(
        self, pixels: Tensor, targets: Tensor | None, matrices: list[Attention]
    ) -> tuple[Relation, Tensor, Tensor]:
        """See `AttentionExplainer.relate`."""
        with torch.enable_grad():
            logits = self.model(pixels)
            targets = checked_targets(targets, logits)
            score = class_score(self.score, logits, targets).sum()
            gradients = torch.autograd.grad(score, matrices)
        relation = torch.eye(matrices[0].shape[-1], device=pixels.device).expand(len(pixels), -1, -1)
        for matrix, gradient in zip(matrices, gradients, strict=True):
            relation = relation + (gradient * matrix.detach()).relu().mean(1) @ relation
        return relation, targets, logits


def token_map(relation: Relation, frame: tuple[int, int]) -> Float[Tensor, "batch h w"]:
    """What the output owes to each patch: the class token's row without itself, or the mean of all rows.

    Args:
        frame: ``(height, width)`` of the network's input, whose aspect tells whether there is a class token.
    """
    everywhere = as_maps(relation.mean(1)[..., None], nn.Identity(), frame)[:, 0]
    if everywhere[0].numel() == relation.shape[1]:
        return everywhere
    return as_maps(relation[:, 0, :, None], nn.Identity(), frame)[:, 0]


@contextmanager
def attention_matrices(model: nn.Module) -> Iterator[list[Attention]]:
    """Collect the softmax of every self-attention in the order of their calls, as part of the graph.

    While inside, `nn.MultiheadAttention` is computed step by step instead of by its fused kernel.
    """
    matrices: list[Tensor] = []
    with ExitStack() as patches:
        for module in model.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.forward = _step_by_step(module, matrices)  # type: ignore[method-assign]
                patches.callback(module.__dict__.pop, "forward")
        yield matrices


def _step_by_step(module: nn.MultiheadAttention, matrices: list[Tensor]) -> Any:
    def forward(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> tuple[Tensor, None]:
        if query is not key or key is not value or not module.batch_first:
            raise InputError("only self-attention with batch_first=True can be explained")
        queries, keys, values = (
            part.unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
            for part in F.linear(query, module.in_proj_weight, module.in_proj_bias).chunk(3, -1)
        )
        matrix = (queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5).softmax(-1)
        if torch.is_grad_enabled() and not matrix.requires_grad:
            matrix.requires_grad_()  # the graph starts here if the weights are frozen
        matrices.append(matrix)
        mixed = (matrix @ values).transpose(1, 2).flatten(2)
        return module.out_proj(mixed), None

    return forward
