"""This module builds the architecture of ``sam=compact`` for photographs: SAM on EfficientNet-Lite0's features.

Features of strides 8, 16 and 32 are added up at stride 16 and pass two attention blocks; those of strides 8 and 4
are added, with the pixels themselves, while the mask decoder scales up, as in SAM 2 (Ravi et al.: *SAM 2*, 2024).
Prompt encoder and mask decoder are `compact`'s. Knows nothing of training or files.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from gradsam_exp.segmenters.compact import INPUT_SIZE, PATCH, PROMPT_DIM, build_compact
from gradsam_exp.weights.imagenet import NAME, imagenet_state

CHANNELS = (24, 40, 112, 320)  # of Lite0's features at strides 4, 8, 16, 32
STAGES = (1, 2, 4, 6)  # whose outputs these are
FIXED = 2  # stages that are not trained
Levels = tuple[
    Float[Tensor, "batch channels rows columns"],
    Float[Tensor, "batch channels2 rows2 columns2"],
    Float[Tensor, "batch channels4 rows4 columns4"],
]


class AttentionBlock(nn.Module):
    """AttentionBlock is a pre-norm transformer block (self-attention, then an MLP) with fused attention."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """Compute new tokens."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class FineFeatures(nn.Module):
    """FineFeatures computes what is added while masks grow, from features and the pixels below them.

    A linear part, and a non-linear one that starts at nothing and sees the pixels of each cell and its neighbours.
    """

    def __init__(self, channels: int, stride: int, out: int, hidden: int = 48) -> None:
        super().__init__()
        self.stride = stride
        self.linear = nn.Conv2d(channels, out, 1)
        self.detail = nn.Sequential(
            nn.Conv2d(channels + 3 * stride**2, hidden, 1),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            nn.GELU(),
            nn.Conv2d(hidden, out, 1),
        )
        nn.init.normal_(self.linear.weight, std=0.01)  # the mask decoder starts as it is without them, nearly
        for zero in (self.linear.bias, self.detail[-1].weight, self.detail[-1].bias):
            nn.init.zeros_(zero)  # type: ignore[arg-type]

    def forward(
        self, features: Float[Tensor, "batch channels rows columns"], frames: Float[Tensor, "batch 3 size size"]
    ) -> Float[Tensor, "batch out rows columns"]:
        """Compute one level; ``frames`` are the pixels, ``stride`` times as wide and high as the features."""
        below = F.pixel_unshuffle(frames, self.stride)
        return self.linear(features) + self.detail(torch.cat([features, below.to(features.dtype)], 1))


class LiteEncoder(nn.Module):
    """LiteEncoder computes embeddings at strides 16, 8 and 4 from frames as `Sam.preprocess` leaves them.

    Its batch norms keep their statistics; its stem and first two stages are never trained.

    Attributes:
        img_size: the side of the square frames, in pixels.
        pretrained: what has ImageNet weights; all else is new.
    """

    def __init__(self) -> None:
        super().__init__()
        import timm  # noqa: PLC0415  (slow to import)

        self.img_size = INPUT_SIZE
        network: Any = timm.create_model(NAME)
        self.pretrained = nn.ModuleDict(
            {"stem": nn.Sequential(network.conv_stem, network.bn1), "stages": network.blocks}
        )
        width, (at4, at8, at16, at32) = PROMPT_DIM, CHANNELS
        self.from8, self.from16, self.from32 = (nn.Conv2d(own, width, 1) for own in (at8, at16, at32))
        self.mix = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.Conv2d(width, width, 1),
            nn.GELU(),
            nn.Conv2d(width, width, 1),
        )
        self.position = nn.Parameter(torch.randn(1, (INPUT_SIZE // PATCH) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(AttentionBlock(width), AttentionBlock(width))
        self.norm = nn.LayerNorm(width)
        self.fine8 = FineFeatures(at8, 8, width // 4)
        self.fine4 = FineFeatures(at4, 4, width // 8)

    def train(self, mode: bool = True) -> "LiteEncoder":
        """Set the mode of all but the batch norms."""
        super().train(mode)
        self.pretrained.eval()
        return self

    def fuse(self) -> None:
        """Fold batch norms into convolutions: outputs are the same but for rounding; no longer to be trained."""
        for parent in self.pretrained.modules():
            convolution = None
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Conv2d):
                    convolution = child
                elif isinstance(child, nn.BatchNorm2d):
                    assert convolution is not None
                    norm: Any = child
                    convolution.weight, convolution.bias = fuse_conv_bn_weights(
                        convolution.weight,
                        None,
                        norm.running_mean,
                        norm.running_var,
                        norm.eps,
                        norm.weight,
                        norm.bias,
                    )
                    setattr(parent, name, norm.act)

    def forward(self, frames: Float[Tensor, "batch 3 size size"]) -> Levels:
        """Compute what prompts look at, at stride 16, and what is added at strides 8 and 4 when masks grow."""
        features = []
        with torch.no_grad():
            x = self.pretrained["stem"](_as_lite0(frames))
        stages: Any = self.pretrained["stages"]
        for number, stage in enumerate(stages):
            with torch.set_grad_enabled(torch.is_grad_enabled() and number >= FIXED):
                x = stage(x)
            if number in STAGES:
                features.append(x)
        at4, at8, at16, at32 = features
        coarse = F.interpolate(self.from32(at32), scale_factor=2.0, mode="bilinear", align_corners=False)
        x = self.from16(at16) + F.avg_pool2d(self.from8(at8), 2) + coarse
        x = x + self.mix(x)
        tokens = self.norm(self.blocks(x.flatten(2).mT + self.position))
        return tokens.mT.unflatten(2, x.shape[2:]), self.fine8(at8, frames), self.fine4(at4, frames)


def build_compact_lite(*, pretrained: bool = False) -> Sam:
    """Build a `Sam` whose image encoder returns several levels, so that `SamPredictor` does not take it.

    Args:
        pretrained: give the encoder its ImageNet weights; all others are random.

    Raises:
        InputError: the package of these weights is not installed.
    """
    sam = build_compact()
    sam.image_encoder = LiteEncoder()
    if pretrained:
        import timm  # noqa: PLC0415

        network: Any = timm.create_model(NAME)
        network.load_state_dict(imagenet_state(network.state_dict()), strict=False)
        own = sam.image_encoder.pretrained
        own["stem"].load_state_dict(nn.Sequential(network.conv_stem, network.bn1).state_dict())
        own["stages"].load_state_dict(network.blocks.state_dict())
    return sam.eval()


def _as_lite0(frames: Tensor) -> Tensor:
    """Change the normalisation of pixels from SAM's (mean and standard deviation of ImageNet) to ±1."""
    mean, std = (frames.new_tensor(given).view(-1, 1, 1) for given in (_SAM_MEAN, _SAM_STD))
    return (frames * std + mean - 127.5) / 127.5


_SAM_MEAN, _SAM_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
