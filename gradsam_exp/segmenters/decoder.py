"""This module runs Segment Anything's mask decoder for queries of different images, on upstream's own weights.

`predict_masks` computes what `MaskDecoder.predict_masks` computes, but every query brings its own image. It is
faster because image tokens stay channels-last; keys, values and queries of the same image tokens are one matrix
product, to which the constant positional part is added; attention of the many image tokens to the few prompt
tokens is computed transposed, its softmax along contiguous memory; transposed convolutions, whose kernels do not
overlap, are matrix products.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from segment_anything.modeling import MaskDecoder, Sam
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer
from torch import Tensor, nn

Tokens = Float[Tensor, "queries tokens _"]
Cells = Float[Tensor, "queries cells _"]
Grid = Float[Tensor, "queries channels rows columns"]
Level = Float[Tensor, "queries _ _ _"]
Position = Float[Tensor, "1 cells channels"]


def predict_masks(
    sam: Sam, levels: Sequence[Level], sparse: Tokens, dense: Grid
) -> tuple[Float[Tensor, "queries 4 low low"], Float[Tensor, "queries 4"]]:
    """Compute low-resolution logits and predicted IoU of all four mask tokens; one image embedding per query.

    Args:
        levels: the embedding that prompts look at; then, if there are, features of twice and four times its
            resolution, which are added while the masks are scaled up (Ravi et al.: *SAM 2*, 2024).
        sparse, dense: from the prompt encoder.
    """
    decoder = sam.mask_decoder
    embeddings, *finer = levels
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(len(sparse), -1, -1), sparse], 1)
    cells = (embeddings + dense).flatten(2).mT.contiguous()
    position = dense_position(sam).flatten(2).mT
    hidden, cells = _two_way(decoder.transformer, tokens, cells, position)
    features = _upscaled(decoder, cells, embeddings.shape[-2:], finer)
    mlps = enumerate(decoder.output_hypernetworks_mlps, 1)
    weights = torch.stack([mlp(hidden[:, token]) for token, mlp in mlps], 1)
    return torch.einsum("qtc,qyxc->qtyx", weights, features), decoder.iou_prediction_head(hidden[:, 0])


def dense_position(sam: Sam) -> Float[Tensor, "1 channels rows columns"]:
    """Compute the image's positional encoding, in fp32: half precision would blur where a pixel is."""
    with torch.autocast(sam.device.type, enabled=False):
        return sam.prompt_encoder.get_dense_pe()


def _two_way(model: TwoWayTransformer, prompts: Tokens, cells: Cells, position: Position) -> tuple[Tokens, Cells]:
    """Compute `TwoWayTransformer.forward`; ``prompts`` are their own positional encoding, as upstream."""
    tokens = prompts
    for layer in model.layers:
        tokens, cells = _layer(layer, tokens, cells, prompts, position)
    last = model.final_attn_token_to_image
    keys, values = _from_cells(cells, position, (last.k_proj, True), (last.v_proj, False))
    attended = _tokens_to_cells(last, tokens + prompts, keys, values)
    return model.norm_final_attn(tokens + attended), cells


def _layer(
    layer: TwoWayAttentionBlock, tokens: Tokens, cells: Cells, prompts: Tokens, position: Tensor
) -> tuple[Tokens, Cells]:
    if layer.skip_first_layer_pe:
        tokens = layer.self_attn(q=tokens, k=tokens, v=tokens)
    else:
        located = tokens + prompts
        tokens = tokens + layer.self_attn(q=located, k=located, v=tokens)
    tokens = layer.norm1(tokens)
    look, reply = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
    keys, values, queries = _from_cells(
        cells, position, (look.k_proj, True), (look.v_proj, False), (reply.q_proj, True)
    )
    tokens = layer.norm2(tokens + _tokens_to_cells(look, tokens + prompts, keys, values))
    tokens = layer.norm3(tokens + layer.mlp(tokens))
    cells = layer.norm4(cells + _cells_to_tokens(reply, queries, tokens + prompts, tokens))
    return tokens, cells


def _from_cells(cells: Cells, position: Tensor, *projections: tuple[nn.Linear, bool]) -> tuple[Tensor, ...]:
    """Compute several projections of the image tokens; True for those that see their position as well."""
    weight = torch.cat([linear.weight for linear, _ in projections])
    constants = [
        linear(position) if located else linear.bias.expand(*position.shape[:2], -1)
        for linear, located in projections
    ]
    projected = F.linear(cells, weight) + torch.cat(constants, -1)
    return projected.split([len(linear.weight) for linear, _ in projections], -1)


def _heads(x: Tensor, attention: Attention) -> Float[Tensor, "queries heads length width"]:
    return x.unflatten(-1, (attention.num_heads, x.shape[-1] // attention.num_heads)).transpose(1, 2)


def _tokens_to_cells(attention: Attention, located: Tokens, keys: Cells, values: Cells) -> Tokens:
    q = _heads(attention.q_proj(located), attention)
    out = F.scaled_dot_product_attention(q, _heads(keys, attention), _heads(values, attention))
    return attention.out_proj(out.transpose(1, 2).flatten(2))


def _cells_to_tokens(attention: Attention, queries: Cells, located: Tokens, tokens: Tokens) -> Cells:
    """Compute attention with its matrix transposed: (tokens, cells), softmax over the tokens."""
    keys, values = _heads(attention.k_proj(located), attention), _heads(attention.v_proj(tokens), attention)
    scaled = keys / math.sqrt(keys.shape[-1])
    weights = (scaled @ _heads(queries, attention).mT).softmax(-2)
    return attention.out_proj((values.mT @ weights).flatten(1, 2).mT)


def _upscaled(
    decoder: MaskDecoder, cells: Cells, grid: tuple[int, ...], finer: Sequence[Level]
) -> Float[Tensor, "queries low_rows low_columns features"]:
    """Compute `MaskDecoder.output_upscaling`, channels last; ``finer`` levels are added, see `predict_masks`."""
    first, norm, activation, second, last_activation = decoder.output_upscaling
    twice, four_times = (level.permute(0, 2, 3, 1) for level in finer) if finer else (0, 0)
    x = _doubled(first, cells.unflatten(1, grid)) + twice
    x = activation(F.layer_norm(x, (x.shape[-1],), norm.weight, norm.bias, norm.eps))
    return last_activation(_doubled(second, x) + four_times)


def _doubled(
    convolution: nn.ConvTranspose2d, x: Float[Tensor, "queries rows columns channels"]
) -> Float[Tensor, "queries rows2 columns2 out_channels"]:
    """Compute a transposed convolution of kernel 2 and stride 2: every cell becomes its own 2×2 cells."""
    count, rows, columns, _ = x.shape
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2·2·out, in)
    channels = convolution.out_channels
    blocks = F.linear(x, weight).view(count, rows, columns, 2, 2, channels)
    doubled = blocks.permute(0, 1, 3, 2, 4, 5).reshape(count, 2 * rows, 2 * columns, channels)
    return doubled if convolution.bias is None else doubled + convolution.bias
