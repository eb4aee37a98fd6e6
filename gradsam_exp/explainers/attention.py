"""These explainers explain vision transformers by their attention matrices."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from gradsam_exp.errors import InputError
from gradsam_exp.explainers.base import (
    EXPLAINERS,
    ModelExplainer,
    Recorded,
    Upsample,
    checked_targets,
    combine_layers,
    evaluation_mode,
    network_input,
)
from gradsam_exp.explainers.layers import Frame, Map, as_maps, frame_of
from gradsam_exp.explainers.scores import Logits, Score, Targets, class_score
from gradsam_exp.types import Heatmaps

Attention = Float[Tensor, "batch heads tokens tokens"]
Relation = Float[Tensor, "batch tokens tokens"]
Related = tuple[Relation, Targets, Logits]
Fusion = Literal["mean", "max", "min"]


@dataclass(frozen=True)
class AttentionExplainer(ModelExplainer):
    """An attention explainer multiplies attention matrices from layer to layer.

    For networks built of `nn.MultiheadAttention`, such as torchvision's ViT. The map is the class token's
    row of the result; without a class token, the mean over all rows.

    Raises:
        InputError: if the network has no `nn.MultiheadAttention`.
    """

    _: KW_ONLY
    upsample: Upsample = "bilinear"

    def __post_init__(self) -> None:
        if not any(isinstance(module, nn.MultiheadAttention) for module in self.model.modules()):
            network = getattr(self.model, "backbone_name", type(self.model).__name__)
            raise InputError(
                f"this explainer needs attention (nn.MultiheadAttention), which {network} has not: use it with a "
                "classifier that was trained with model=vit_b_16, or choose explainer=gradcam"
            )

    def __call__(self, images: Tensor, targets: Int[Tensor, " batch"] | None = None) -> Heatmaps:
        """Explain a batch of images of one size; see `Explainer`."""
        pixels = network_input(self.model, images)
        with evaluation_mode(self.model), attention_matrices(self.model) as matrices:
            relation, targets, logits = self.relate(pixels, targets, matrices)
        maps = token_map(relation.detach(), frame_of(pixels))
        return combine_layers(Recorded([maps], targets, logits.detach()), frame_of(images), self.upsample)

    @abstractmethod
    def relate(self, pixels: Tensor, targets: Tensor | None, matrices: list[Attention]) -> Related:
        """Find how much each token owes to each patch; runs the network, which fills ``matrices``."""


@EXPLAINERS.register("attention_rollout")
@dataclass(frozen=True, kw_only=True)
class AttentionRollout(AttentionExplainer):
    """AttentionRollout follows attention back through the layers, without a gradient and without a class.

    ``R = Π (½A + ½I)`` over the layers, ``A`` fused over the heads, rows normalised (Abnar and Zuidema, ACL 2020,
    section 3).

    Attributes:
        fusion: how the heads are fused: ``mean`` (the paper's), ``max`` or ``min``.
    """

    fusion: Fusion = "mean"

    def relate(self, pixels: Tensor, targets: Tensor | None, matrices: list[Attention]) -> Related:
        """Multiply the layers' matrices."""
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
@dataclass(frozen=True, kw_only=True)
class AttentionRelevance(AttentionExplainer):
    """AttentionRelevance weights attention matrices by the class score's gradient.

    ``R ← R + mean_h(ReLU(∇A ⊙ A))·R`` from layer to layer, starting from the identity (Chefer et al., ICCV 2021,
    eq. 5 and 6, self-attention only).
    """

    score: Score = "logit"

    def relate(self, pixels: Tensor, targets: Tensor | None, matrices: list[Attention]) -> Related:
        """Add up the layers' matrices, weighted by their gradients."""
        with torch.enable_grad():
            logits = self.model(pixels)
            targets = checked_targets(targets, logits)
            score = class_score(self.score, logits, targets).sum()
            gradients = torch.autograd.grad(score, matrices)
        relation = torch.eye(matrices[0].shape[-1], device=pixels.device).expand(len(pixels), -1, -1)
        for matrix, gradient in zip(matrices, gradients, strict=True):
            relation = relation + (gradient * matrix.detach()).relu().mean(1) @ relation
        return relation, targets, logits


def token_map(relation: Relation, frame: Frame) -> Map:
    """Tell what the output owes to each patch: the class token's row without itself, or the mean of all rows.

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
