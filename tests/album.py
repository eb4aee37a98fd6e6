"""A segmenter whose answers are pictures that a test can draw as well: squares around what it is asked about."""

from __future__ import annotations

import torch
from torch import Tensor

from gradsam_exp.segmenters.base import Embeddings, Segmenter
from gradsam_exp.types import FOREGROUND, Prompts, Segmentation

SIDE = 64
RADII = (3, 2, 5, 9)  # px of the four candidates


class Album(Segmenter):
    """Answers each query with four squares around its middle: that of its foreground points, else of its box.

    The low-resolution grid is the original frame of at most 64×64 px, padded at the right and at the bottom, where
    candidates go on. Background points and a mask prompt make the squares 1 px smaller each, so that later rounds
    show. The predicted IoU depends on place and candidate.
    """

    accepts = frozenset({"points", "boxes", "masks"})
    digest = "album"
    device = torch.device("cpu")

    def load(self, device: torch.device) -> None:
        """Answers come from ``device``."""
        self.device = device

    def encode(self, images: Tensor) -> Embeddings:
        """Two levels: red at full, green at half resolution."""
        size = (images.shape[-2], images.shape[-1])
        red, green = (images[:, channel : channel + 1].to(self.device).float() for channel in (0, 1))
        return Embeddings.of_one_size(
            [red, green[..., ::2, ::2]], (4 * size[0], 4 * size[1]), size
        )  # as SAM: 4 px a cell

    def decode(self, embeddings: Embeddings, prompts: Prompts) -> Segmentation:
        """See the class."""
        foreground = prompts.labels == FOREGROUND
        middle = (prompts.points * foreground[..., None]).sum(1) / foreground.sum(1, keepdim=True).clamp(min=1)
        if prompts.boxes is not None:
            boxed = prompts.boxes.unflatten(1, (2, 2)).mean(1)
            middle = torch.where(foreground.any(1, keepdim=True), middle, boxed)
        smaller = (prompts.labels == 0).any(1).float() + (prompts.mask_logits is not None)
        radii = torch.tensor(RADII) - smaller[:, None]
        middle, radii = middle.to(self.device), radii.to(self.device)
        along = torch.arange(SIDE, device=self.device)
        away = torch.maximum(
            (along[:, None] - middle[:, 1, None, None]).abs(), (along - middle[:, 0, None, None]).abs()
        )
        inside = away[:, None] <= radii[..., None, None]
        predicted_iou = (0.5 + 0.4 * torch.sin(middle.sum(1, keepdim=True) + 2 * radii)).clamp(0, 1)
        return Segmentation(torch.where(inside, 4.0, -4.0), predicted_iou, prompts.example_index)

    def to_original(self, logits: Tensor, embeddings: Embeddings) -> Tensor:
        """Without the padding."""
        height, width = embeddings.original_size
        return logits[..., :height, :width] > 0

    def to_low_res(self, values: Tensor, embeddings: Embeddings) -> Tensor:
        """With padding."""
        height, width = embeddings.original_size
        return torch.nn.functional.pad(values, (0, SIDE - width, 0, SIDE - height))
