"""This module holds what segmenters without a network share: they work on the image's own pixels."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gradsam_exp.segmenters.base import Embeddings, check_prompts
from gradsam_exp.segmenters.batched import check_images
from gradsam_exp.types import LowRes, Maps, Masks, Prompts, Segmentation

LOGIT = 4.0
"""Logit of pixels in a mask that has no probabilities, its negative outside: fed back, they are not sure."""


class PixelSegmenter(ABC):
    """PixelSegmenter answers queries one by one, at the image's own resolution, without a network; on the CPU.

    Masks and mask prompts have a logit for every pixel of the image. A query has one answer, which is its single
    mask and the only alternative to that; there is no estimate of its IoU.

    Args:
        digest: identifies what computes the masks.
    """

    accepts: frozenset[str]
    cell = 1.0
    provides: frozenset[str] = frozenset()
    device = torch.device("cpu")

    def __init__(self, digest: str) -> None:
        self.digest = digest

    def load(self, device: torch.device) -> None:
        """Do nothing: there are no weights."""
        del device

    def encode(self, images: Tensor) -> Embeddings:
        """Keep the images as they are.

        Raises:
            ValueError: images that are not uint8.
        """
        check_images(images)
        size = (images.shape[-2], images.shape[-1])
        return Embeddings.of_one_size([images.cpu()], size, size)

    def decode(self, embeddings: Embeddings, prompts: Prompts) -> Segmentation:
        """Answer every query, see `Segmenter.decode`; of images of one size.

        Raises:
            InputError: prompts that cannot be meant, see `check_prompts`.
            ValueError: mask logits of another size than the images.
        """
        check_prompts(prompts, embeddings, "a caller of decode")
        height, width = embeddings.original_size
        asked = prompts.mask_logits
        if asked is not None and tuple(asked.shape[-2:]) != (height, width):
            sides = [f"{side[1]}×{side[0]}" for side in (tuple(asked.shape[-2:]), (height, width))]
            raise ValueError(f"mask logits of {sides[0]} px do not belong to images of {sides[1]} px")
        logits = torch.zeros(len(prompts), 1, height, width)
        for row, image in enumerate(embeddings.images_asked(prompts).tolist()):
            logits[row] = self.answer(embeddings.levels[0][image], prompts[row : row + 1])
        unknown = torch.full((len(prompts), 2), torch.nan)
        return Segmentation(logits.expand(-1, 2, -1, -1), unknown, prompts.example_index)

    @abstractmethod
    def answer(
        self, image: UInt8[Tensor, "channels height width"], query: Prompts
    ) -> Float[Tensor, "1 height width"]:
        """Compute the mask's logits for one query about an image."""

    def to_original(self, logits: LowRes, embeddings: Embeddings) -> Masks:
        """Make masks of the pixels whose logits are positive."""
        del embeddings
        return logits > 0

    def to_low_res(self, values: Maps, embeddings: Embeddings) -> LowRes:
        """Give back the maps: the grid is the image's."""
        del embeddings
        return values.float()


def inside(boxes: Float[Tensor, "boxes 4"], size: tuple[int, int]) -> Masks:
    """Find the pixels whose centres lie in each box ``x0, y0, x1, y1`` px; ``size`` is (height, width)."""
    x0, y0, x1, y1 = boxes.T[..., None]
    y, x = (torch.arange(side) for side in size)
    return ((y >= y0) & (y <= y1))[:, :, None] & ((x >= x0) & (x <= x1))[:, None]
