from __future__ import annotations
import torch
from jaxtyping import Float
from segment_anything.modeling import Sam
from torch import Tensor


def predict_masks(
    sam: Sam,
    embeddings: Float[Tensor, "queries channels rows columns"],
    sparse: Float[Tensor, "queries tokens channels"],
    dense: Float[Tensor, "queries channels rows columns"],
) -> tuple[Float[Tensor, "queries 4 low low"], Float[Tensor, "queries 4"]]:
    """`MaskDecoder.predict_masks` for queries of *different* images: one image embedding per query.

    Upstream repeats one embedding for all its prompts; here every row brings its own.
    """
    decoder = sam.mask_decoder
    count, channels, rows, columns = embeddings.shape
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(count, -1, -1), sparse], 1)
    position = sam.prompt_encoder.get_dense_pe().expand(count, -1, -1, -1)
    hidden, source = decoder.transformer(embeddings + dense, position, tokens)
    source = decoder.output_upscaling(source.transpose(1, 2).reshape(count, channels, rows, columns))
    weights = torch.stack(
        [mlp(hidden[:, 1 + token]) for token, mlp in enumerate(decoder.output_hypernetworks_mlps)], 1
    )
    logits = (weights @ source.flatten(2)).unflatten(2, source.shape[-2:])
    return logits, decoder.iou_prediction_head(hidden[:, 0])
