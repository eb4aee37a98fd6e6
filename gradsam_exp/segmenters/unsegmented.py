"""This module holds ``sam=none``: no segmenter at all, which says whether one earns its cost."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gradsam_exp.errors import InputError
from gradsam_exp.segmenters.base import SEGMENTERS, Embeddings
from gradsam_exp.segmenters.pixelwise import LOGIT, PixelSegmenter, inside
from gradsam_exp.types import Prompts


@SEGMENTERS.register("none")
class Unsegmented(PixelSegmenter):
    """Unsegmented answers with the mask that the prompt itself says, without a look at the image.

    That is the pixels of the mask prompt whose logits are positive, or else those in the box; those in both if
    there are both. Points say nothing of an extent: beside a mask or a box they have no effect.
    """

    accepts = frozenset({"boxes", "masks"})

    def __init__(self) -> None:
        super().__init__("none")

    def encode(self, images: Tensor) -> Embeddings:
        """Keep the images' size alone."""
        return super().encode(images[:, :0])

    def answer(
        self, image: UInt8[Tensor, "channels height width"], query: Prompts
    ) -> Float[Tensor, "1 height width"]:
        """Give back the mask prompt, and what is outside of the box as background.

        Raises:
            InputError: neither a box nor a mask.
        """
        if query.boxes is None and query.mask_logits is None:
            raise InputError("sam=none masks what a box or a mask prompt says, and was asked with neither")
        size = (image.shape[-2], image.shape[-1])
        logits = torch.full((1, *size), LOGIT) if query.mask_logits is None else query.mask_logits[0]
        return logits if query.boxes is None else torch.where(inside(query.boxes, size), logits, -LOGIT)
