"""`Transform` says what happens to an image before the classifier sees it; it is kept with the weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Transform:
    """A transform resizes images (if asked) and normalises them.

    The resize fills the whole input, without cropping or padding: a heatmap of any resolution goes back
    to the original frame by interpolation alone.

    Attributes:
        size: ``(height, width)`` of the network's input in pixels; None keeps the image's own.
        mean, std: per channel, for pixels scaled to [0, 1].
    """

    size: Sequence[int] | None = None
    mean: Sequence[float] = (0.485, 0.456, 0.406)
    std: Sequence[float] = (0.229, 0.224, 0.225)

    def __call__(self, images: UInt8[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 3 height width"]:
        """Make the network's input from a batch of images of one size, on their device."""
        pixels = images.float() / 255
        if self.size is not None and tuple(pixels.shape[-2:]) != tuple(self.size):
            pixels = F.interpolate(pixels, tuple(self.size), mode="bilinear", antialias=True, align_corners=False)
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        return (pixels - mean) / std
