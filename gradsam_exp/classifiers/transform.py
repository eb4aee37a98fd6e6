"""`Transform` says what happens to an image before the classifier sees it; it is kept with the weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

MAX_SIDE = 1024  # px
Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class Transform:
    """A transform resizes images (if asked) and normalises them.

    The resize fills the whole input, without cropping or padding: a heatmap of any resolution goes back
    to the original frame by interpolation alone.

    Attributes:
        size: ``(height, width)`` of the network's input in pixels; None keeps the image's own.
        max_side: px; an image that keeps its own size is made smaller if its longer side is longer.
        mean, std: per channel, for pixels scaled to [0, 1].
        interpolation: ``bilinear`` or ``bicubic``, with antialiasing.
    """

    size: Sequence[int] | None = None
    mean: Sequence[float] = (0.485, 0.456, 0.406)
    std: Sequence[float] = (0.229, 0.224, 0.225)
    max_side: int = MAX_SIDE
    interpolation: Interpolation = "bilinear"

    def __call__(self, images: UInt8[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 3 height width"]:
        """Make the network's input from a batch of images of one size, on their device."""
        frame = (images.shape[-2], images.shape[-1])
        size = input_size(self.size, frame, self.max_side)
        pixels = images.float() / 255
        if frame != size:
            pixels = F.interpolate(pixels, size, mode=self.interpolation, antialias=True, align_corners=False)
            pixels = pixels.clamp(0, 1) if self.interpolation == "bicubic" else pixels  # which can leave [0, 1]
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        return (pixels - mean) / std


def input_size(size: Sequence[int] | None, frame: tuple[int, int], max_side: int = MAX_SIDE) -> tuple[int, int]:
    """Compute the ``(height, width)`` px of the network's input from a transform's size and the image's frame."""
    if size is not None:
        return int(size[0]), int(size[1])
    scale = min(1.0, max_side / max(frame))
    return max(1, round(frame[0] * scale)), max(1, round(frame[1] * scale))
