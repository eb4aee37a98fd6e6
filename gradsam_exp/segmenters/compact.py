"""This module builds the architecture of ``sam=compact``: Segment Anything at 3 M parameters and 256-pixel input.

SAM's own image encoder, prompt encoder and two-way mask decoder (`segment_anything.modeling`), narrowed, with one
change: the 16-pixel patch embedding is strided convolutions, with which small vision transformers learn faster
(Xiao et al.: *Early Convolutions Help Transformers See Better*, NeurIPS 2021). Knows nothing of training or files.
"""

from functools import partial

from jaxtyping import Float
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

INPUT_SIZE = 256
PATCH = 16
EMBED_DIM = 160
DEPTH = 6
HEADS = 5
PROMPT_DIM = 128


class ConvStem(nn.Module):
    """ConvStem replaces ViT's patch embedding by strided convolutions of the same input and output shapes."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 48, kernel_size=4, stride=4),
            nn.GELU(),
            nn.Conv2d(48, 96, kernel_size=3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(96, out_channels, kernel_size=3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(out_channels, out_channels, kernel_size=1),
        )
        self.norm = nn.LayerNorm(out_channels, eps=1e-6)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch rows columns channels"]:
        """Compute tokens, channels last, one for every 16×16 pixels."""
        return self.norm(self.layers(x).permute(0, 2, 3, 1))


def build_compact() -> Sam:
    """Build a `Sam` with fresh random weights; ``SamPredictor(build_compact())`` works as with any other."""
    grid = INPUT_SIZE // PATCH
    encoder = ImageEncoderViT(
        img_size=INPUT_SIZE,
        patch_size=PATCH,
        embed_dim=EMBED_DIM,
        depth=DEPTH,
        num_heads=HEADS,
        out_chans=PROMPT_DIM,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
    )
    encoder.patch_embed = ConvStem(EMBED_DIM)
    for name, parameter in encoder.named_parameters():
        if "pos_embed" in name or "rel_pos" in name:  # segment-anything leaves these at zero
            nn.init.trunc_normal_(parameter, std=0.02)
    sam = Sam(
        image_encoder=encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=PROMPT_DIM,
            image_embedding_size=(grid, grid),
            input_image_size=(INPUT_SIZE, INPUT_SIZE),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=PROMPT_DIM, mlp_dim=512, num_heads=8),
            transformer_dim=PROMPT_DIM,
            iou_head_depth=3,
            iou_head_hidden_dim=128,
        ),
    )
    return sam.eval()
