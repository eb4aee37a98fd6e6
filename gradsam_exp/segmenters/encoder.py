"""This module runs Segment Anything's image encoder with fused attention, on upstream's own modules and weights.

`encode_frames` computes what `ImageEncoderViT.forward` computes, which it leaves as it is. Three things make it
faster: attention is one fused kernel that takes the decomposed relative positions as a bias, so that the attention
matrix is never read back; the bias is made for a few heads at a time and stays in the processor's cache; the neck
works channels-last, as the blocks before it do.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import (
    Attention,
    Block,
    get_rel_pos,
    window_partition,
    window_unpartition,
)
from torch import Tensor, nn

BIAS_ELEMENTS = 2**22  # of one attention bias on a CPU: what stays in its cache
GPU_BIAS_ELEMENTS = 2**28  # bounds memory
Grid = Float[Tensor, "batch rows columns channels"]
Heads = Float[Tensor, "heads tokens width"]
Bias = Float[Tensor, "heads tokens tokens"]


def encode_frames(
    encoder: nn.Module, frames: Float[Tensor, "batch 3 size size"]
) -> tuple[Float[Tensor, "batch _ _ _"], ...]:
    """Compute image embeddings of preprocessed frames, equal to ``encoder(frames)`` up to rounding.

    An encoder other than Segment Anything's, such as MobileSAM's, computes them itself; it may return several
    levels, see `predict_masks`.
    """
    if not isinstance(encoder, ImageEncoderViT):
        levels = encoder(frames)
        return levels if isinstance(levels, tuple) else (levels,)
    x = encoder.patch_embed(frames)
    if encoder.pos_embed is not None:
        x = x + encoder.pos_embed
    for block in encoder.blocks:
        x = _block(block, x)
    reduce, norm, smooth, last_norm = encoder.neck
    x = _norm(norm, F.linear(x, reduce.weight.flatten(1)))
    x = smooth(x.permute(0, 3, 1, 2))  # channels-last in memory
    return (_norm(last_norm, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),)


def _block(block: Block, x: Grid) -> Grid:
    y = block.norm1(x)
    if block.window_size:
        windows, padded = window_partition(y, block.window_size)
        windows = _attend(block.attn, windows)
        y = window_unpartition(windows, block.window_size, padded, (x.shape[1], x.shape[2]))
    else:
        y = _attend(block.attn, y)
    x = x + y
    return x + block.mlp(block.norm2(x))


def _attend(attention: Attention, x: Grid) -> Grid:
    """Compute multi-head attention; SAM's bias is ``q·R_h + q·R_w``, of the unscaled queries."""
    count, rows, columns, _ = x.shape
    heads, tokens = attention.num_heads, rows * columns
    qkv = attention.qkv(x).reshape(count, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.reshape(3, count * heads, tokens, -1).unbind(0)
    if attention.use_rel_pos:
        vertical = get_rel_pos(rows, rows, attention.rel_pos_h).mT.to(q.dtype)  # (rows, width, rows)
        horizontal = get_rel_pos(columns, columns, attention.rel_pos_w).mT.to(q.dtype)
        few = max(1, (BIAS_ELEMENTS if x.device.type == "cpu" else GPU_BIAS_ELEMENTS) // tokens**2)
        parts = zip(q.split(few), k.split(few), v.split(few), strict=True)
        attended = torch.cat([_fused(*part, _bias(part[0], vertical, horizontal)) for part in parts])
    else:
        attended = _fused(q, k, v, None)
    attended = attended.view(count, heads, tokens, -1).transpose(1, 2)
    return attention.proj(attended.reshape(count, rows, columns, -1))


def _fused(q: Heads, k: Heads, v: Heads, bias: Bias | None) -> Heads:
    mask = None if bias is None else bias[None]
    return F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask)[0]


def _bias(
    q: Heads, vertical: Float[Tensor, "rows width rows"], horizontal: Float[Tensor, "columns width columns"]
) -> Bias:
    """Decompose relative positions (Li et al.: *MViTv2*, CVPR 2022, equation 4), one matrix product an axis."""
    count, tokens, width = q.shape
    rows, columns = len(vertical), len(horizontal)
    grid = q.view(count, rows, columns, width)
    by_row = grid.transpose(0, 1).reshape(rows, -1, width) @ vertical
    by_column = grid.permute(2, 0, 1, 3).reshape(columns, -1, width) @ horizontal
    to_rows = by_row.view(rows, count, columns, rows, 1).transpose(0, 1).contiguous()
    to_columns = by_column.view(columns, count, rows, 1, columns).permute(1, 2, 0, 3, 4).contiguous()
    return (to_rows + to_columns).view(count, tokens, tokens)


def _norm(norm: LayerNorm2d, x: Grid) -> Grid:
    return F.layer_norm(x, (x.shape[-1],), norm.weight, norm.bias, norm.eps)
