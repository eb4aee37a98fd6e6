"""These explainers explain vision transformers by their attention matrices."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradsam_exp.errors import InputError
from gradsam_exp.explainers.base import EXPLAINERS, MapExplainer, Recorded, checked_targets
from gradsam_exp.explainers.dry_run import is_softmax
from gradsam_exp.explainers.layers import Frame, Map, frame_of, prefix_tokens, token_grid
from gradsam_exp.explainers.network import (
    Pixels,
    evaluation_mode,
    gradients,
    network_input,
    run,
    unwrapped,
    widened,
)
from gradsam_exp.explainers.scores import Logits, Score, Targets, class_score

Attention = Float[Tensor, "batch heads tokens tokens"]
Relation = Float[Tensor, "batch tokens tokens"]
Related = tuple[Relation, Targets, Logits]
Fusion = Literal["mean", "max", "min"]


@dataclass(frozen=True)
class AttentionExplainer(MapExplainer):
    """An attention explainer multiplies attention matrices from layer to layer.

    For networks whose attention is over all tokens and computed by PyTorch's functions or modules, as in the ViTs
    of torchvision, timm and transformers. The map is the mean of the result's rows of those tokens that the logits
    are made of: the class token (and a distilled network's second one), or all patches where they are averaged.

    Raises:
        InputError: when it is called or checked, if the network has no such attention.
    """

    def check(self, frame: tuple[int, int]) -> None:
        """Refuse a network without attention over all patches; only for a model on the meta device."""
        try:
            with evaluation_mode(self.model), attention_matrices(self.model) as matrices, torch.no_grad():
                run(self.model, torch.empty(2, 3, *frame, device="meta"))
        except InputError:
            raise
        except Exception:  # of many kinds; whether the network runs is not the question here
            return
        _grid(self.whole(matrices, 2)[0].shape[-1], frame, prefix_tokens(self.model))

    def explain(self, pixels: Pixels, targets: Tensor | None) -> Recorded:
        """See `MapExplainer.explain`."""
        with attention_matrices(self.model) as matrices:
            relation, targets, logits = self.relate(pixels, targets, matrices)
        if "rows" not in self.known:
            self.known["rows"] = self._rows(pixels)
        maps = token_map(relation.detach(), frame_of(pixels), prefix_tokens(self.model), self.known["rows"])
        return Recorded([maps], targets, logits.detach())

    @torch.no_grad()
    def patch_attention(self, images: Tensor, layers: int) -> Float[Tensor, "batch rows columns rows columns"]:
        """Average the attention between the patches of images, over all heads and so many last layers.

        Args:
            images: as those that are explained, on the model's device.
            layers: all, if the network has fewer.

        Returns:
            How much each patch, by row and column, attends to each, in float32.

        Raises:
            InputError: see the class.
        """
        with evaluation_mode(self.model), attention_matrices(self.model) as matrices:
            pixels = widened(network_input(self.model, images))
            self.run(pixels)
        last = self.whole(matrices, len(pixels))[-layers:]
        mean = torch.stack([widened(matrix).mean(1) for matrix in last]).mean(0)
        skipped, grid = _grid(mean.shape[-1], frame_of(pixels), prefix_tokens(self.model))
        return mean[:, skipped:, skipped:].unflatten(2, grid).unflatten(1, grid)

    def _rows(self, pixels: Pixels) -> Tensor | None:
        """Find the tokens that the logits are made of, by the last attention's gradient; None if that has none."""
        of = torch.zeros(1, dtype=torch.long, device=pixels.device)
        with torch.enable_grad(), attention_matrices(self.model) as matrices:
            score = self.run(pixels[:1], of).amax()
            gradient = torch.autograd.grad(score, matrices[-1])[0] if score.requires_grad else matrices[-1] * 0
        rows = (gradient != 0).any(-1).any(1)[0]
        return rows.nonzero()[:, 0] if rows.any() else None

    def whole(self, matrices: list[Attention], images: int) -> list[Attention]:
        """Check that all matrices are of the same tokens, and those of whole images.

        Raises:
            InputError: if they are not, as where attention stays within windows, or there are none.
        """
        if not matrices:
            raise self._without_attention()
        sizes = {(len(matrix), matrix.shape[-1]) for matrix in matrices}
        if len(sizes) > 1 or next(iter(sizes))[0] != images:
            shapes = ", ".join(f"{rows} of {tokens} tokens" for rows, tokens in sorted(sizes))
            raise InputError(
                f"this explainer needs attention over all tokens of an image, but for {images} images this "
                f"network has {shapes}, as with windows, or a text in the same pass: choose explainer=gradcam"
            )
        return matrices

    def _without_attention(self) -> InputError:
        network = getattr(self.model, "backbone_name", type(unwrapped(self.model)).__name__)
        return InputError(
            f"this explainer needs attention, which {network} has not: use it with a classifier that was trained "
            "with model=vit_b_16, or choose explainer=gradcam. Only attention by PyTorch's own functions is seen; "
            "of transformers, network.set_attn_implementation('sdpa') gives that"
        )

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
            logits = self.run(pixels)
        relation: Tensor | None = None
        for matrix in self.whole(matrices, len(pixels)):
            heads = getattr(widened(matrix), "mean" if self.fusion == "mean" else f"a{self.fusion}")(1)
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
            logits = self.run(pixels)
            targets = checked_targets(targets, logits)
            matrices = self.whole(matrices, len(pixels))
            found = gradients(class_score(self.score, logits, targets).sum(), matrices)
        relation = torch.eye(matrices[0].shape[-1], device=pixels.device).expand(len(pixels), -1, -1)
        for matrix, gradient in zip(matrices, found, strict=True):
            relation = relation + widened(gradient * matrix.detach()).relu().mean(1) @ relation
        return relation, targets, logits


def token_map(relation: Relation, frame: Frame, prefix: int | None = None, rows: Tensor | None = None) -> Map:
    """Tell what the output owes to each patch: the mean of some tokens' rows.

    Args:
        frame: ``(height, width)`` of the network's input, whose aspect tells how many tokens are patches.
        prefix: how many are not, if that is known; see `gradsam_exp.explainers.layers.prefix_tokens`.
        rows: the tokens; None: the first one if it is no patch, else all.
    """
    skipped, grid = _grid(relation.shape[1], frame, prefix)
    if rows is not None:
        relation = relation[:, rows]
    owed = relation[:, 0] if skipped and rows is None else relation.mean(1)
    return owed[:, skipped:].unflatten(1, grid)


def _grid(tokens: int, frame: Frame, prefix: int | None) -> tuple[int, tuple[int, int]]:
    try:
        return token_grid(tokens, frame, prefix)
    except ValueError as error:
        raise InputError(f"this explainer needs a token for each patch: {error}") from error


@contextmanager
def attention_matrices(model: nn.Module) -> Iterator[list[Attention]]:
    """Collect the softmax of every self-attention in the order of their calls, as part of the graph.

    While inside, fused attention is computed step by step.
    """
    matrices: list[Tensor] = []
    with ExitStack() as patches:
        for module in model.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.forward = partial(_step_by_step, module)  # type: ignore[method-assign]
                patches.callback(module.__dict__.pop, "forward")
        patches.enter_context(_Unfused(matrices))
        yield matrices


class _Unfused(TorchFunctionMode):
    """Computes fused attention step by step and keeps the matrices, in the graph even if weights are frozen."""

    def __init__(self, matrices: list[Tensor]) -> None:
        super().__init__()
        self.matrices = matrices

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of PyTorch."""
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        return self._kept(result) if is_softmax(func, result) else result

    def _kept(self, matrix: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not matrix.requires_grad:
            matrix.requires_grad_()
        self.matrices.append(matrix)
        return matrix

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Compute what `torch.nn.functional.scaled_dot_product_attention` says that it does."""
        del dropout_p  # in eval mode there is none
        if query.ndim != 4 or query.shape[-2] != key.shape[-2]:
            raise InputError(
                "this explainer needs self-attention: as many keys as queries; choose explainer=gradcam"
            )
        if enable_gqa:
            key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
        products = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(products.shape[-2:], dtype=torch.bool, device=query.device).tril()
        if attn_mask is not None:
            masked = attn_mask.dtype == torch.bool
            products = products.masked_fill(~attn_mask, -torch.inf) if masked else products + attn_mask
        return self._kept(products.softmax(-1)) @ value


def _step_by_step(
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    attn_mask: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Compute self-attention as `nn.MultiheadAttention` does, by `F.scaled_dot_product_attention`."""
    plain = module.in_proj_weight is not None and module.bias_k is None and not module.add_zero_attn
    if query is not key or key is not value or query.ndim != 3 or not plain:
        raise InputError("only plain self-attention of a batch can be explained; choose explainer=gradcam")
    query = query if module.batch_first else query.transpose(0, 1)
    queries, keys, values = (
        part.unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for part in F.linear(query, module.in_proj_weight, module.in_proj_bias).chunk(3, -1)
    )
    if attn_mask is not None and attn_mask.ndim == 3:
        attn_mask = attn_mask.unflatten(0, (len(query), -1))
    padding = None if key_padding_mask is None else key_padding_mask[:, None, None]
    mask: Tensor | None = None
    for one in (attn_mask, padding):  # those that are true say what does not count
        if one is not None:
            added = (
                torch.zeros_like(one, dtype=query.dtype).masked_fill(one, -torch.inf)
                if one.dtype == torch.bool
                else one
            )
            mask = added if mask is None else mask + added
    mixed = module.out_proj(F.scaled_dot_product_attention(queries, keys, values, mask).transpose(1, 2).flatten(2))
    return mixed if module.batch_first else mixed.transpose(0, 1), None
