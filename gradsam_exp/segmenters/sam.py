"""This module runs Segment Anything through the official package, batched over images as well as prompts.

For the same weights and the same coordinates in the input frame the results are `SamPredictor`'s.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from gradsam_exp.segmenters.base import CELL, Embeddings
from gradsam_exp.segmenters.batched import BatchedSegmenter, Coordinates, Precision
from gradsam_exp.segmenters.decoder import predict_masks
from gradsam_exp.segmenters.encoder import encode_frames
from gradsam_exp.types import LowRes, Maps, Masks

ENCODED_TOKENS = 2**13  # a CPU encodes so many image tokens together
CACHED_VALUES = 2**21  # a CPU decodes queries together whose image tokens have so many values


class SamSegmenter(BatchedSegmenter):
    """SamSegmenter puts any `segment_anything.modeling.Sam` behind the `Segmenter` interface.

    Args:
        load_model: returns the model with its weights, on the CPU; called once, by `load`.
        load_encoder: gives that model's image encoder its weights; called once, before the first image is
            encoded. None if `load_model` has done so.
        compiled: compile the image encoder with `torch.compile`: slow at the start, faster afterwards.
        digest, max_queries, precision, coordinates: see `BatchedSegmenter`.
    """

    def __init__(
        self,
        load_model: Callable[[], Sam],
        digest: str,
        *,
        load_encoder: Callable[[Sam], None] | None = None,
        max_queries: int = 256,
        precision: Precision = "fp32",
        compiled: bool = False,
        coordinates: Coordinates = "centres",
    ) -> None:
        super().__init__(digest, max_queries=max_queries, precision=precision, coordinates=coordinates)
        self._encode_frames = torch.compile(encode_frames) if compiled else encode_frames
        self._load_model, self._load_encoder = load_model, load_encoder
        self._model: Sam | None = None

    def load(self, device: torch.device) -> None:
        """Read the weights, see `Segmenter.load`; the image encoder's only when they are first needed."""
        if self._model is None:
            self._model = self._load_model().eval().requires_grad_(False)
        if self._load_encoder is None:
            self._model.to(device)
            return
        self._model.prompt_encoder.to(device)
        self._model.mask_decoder.to(device)
        self._model.pixel_mean, self._model.pixel_std = (
            value.to(device) for value in (self._model.pixel_mean, self._model.pixel_std)
        )

    @property
    def device(self) -> torch.device:
        """Return where it runs, see `Segmenter.device`."""
        return torch.device("cpu") if self._model is None else self._model.device

    @property
    def _low(self) -> int:
        return self._decoding.image_encoder.img_size // CELL

    @property
    def model(self) -> Sam:
        """Return the loaded model, image encoder included."""
        model = self._decoding
        if self._load_encoder is not None:
            self._load_encoder(model)
            model.image_encoder.eval().requires_grad_(False).to(model.device)
            self._load_encoder = None
        return model

    @property
    def _decoding(self) -> Sam:
        """Return the model, of which the image encoder may be missing."""
        if self._model is None:
            raise RuntimeError("the segmenter's weights are not loaded yet: call load(device) first")
        return self._model

    @torch.no_grad()
    def encode(self, images: Tensor) -> Embeddings:
        """Encode images, resized exactly as upstream does, by Pillow's bilinear filter on uint8.

        Raises:
            ValueError: images that are not uint8: what is white would have to be guessed.
        """
        if images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8, 0..255, but are {images.dtype}")
        resize = ResizeLongestSide(self.model.image_encoder.img_size)
        frames = [
            torch.from_numpy(resize.apply_image(np.ascontiguousarray(image.permute(1, 2, 0).numpy())))
            for image in images.cpu()
        ]
        frame = torch.stack(frames).permute(0, 3, 1, 2)
        values = torch.cat([self._embedded(some) for some in frame.split(self._images_at_once(len(images)))])
        sizes = [(pixels.shape[-2], pixels.shape[-1]) for pixels in (frame, images)]
        return Embeddings.of_one_size([values], *sizes)

    def _embedded(self, frame: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            pixels = self.model.preprocess(frame.to(self.device).float())
            return self._encode_frames(self.model.image_encoder, pixels).float()

    def _images_at_once(self, count: int) -> int:
        """Bound memory on a CPU, where large inputs gain nothing from being encoded together."""
        if self.device.type != "cpu":
            return count
        rows, columns = self._decoding.prompt_encoder.image_embedding_size
        return max(1, ENCODED_TOKENS // (rows * columns))

    def _rows_at_once(self) -> int:
        """Compute how many queries fit a CPU's cache: 64 of ``compact`` are twice as fast as 256."""
        if self.device.type != "cpu":
            return self.max_queries
        rows, columns = self._decoding.prompt_encoder.image_embedding_size
        fitting = CACHED_VALUES // (rows * columns * self._decoding.prompt_encoder.embed_dim)
        return min(self.max_queries, max(8, fitting))

    def _predict(
        self,
        levels: list[Tensor],
        points: tuple[Tensor, Tensor] | None,
        boxes: Float[Tensor, "queries 4"] | None,
        masks: Float[Tensor, "queries 1 low low"] | None,
    ) -> tuple[Tensor, Tensor]:
        """See `BatchedSegmenter._predict`."""
        sparse, dense = self._decoding.prompt_encoder(points=points, boxes=boxes, masks=masks)
        (values,) = levels
        return predict_masks(self._decoding, values, sparse, dense)

    @torch.no_grad()
    def to_original(self, logits: LowRes, embeddings: Embeddings) -> Masks:
        """Make masks as upstream does, its two bilinear resizings being one matrix product an axis."""
        sizes = zip(embeddings.input_size, embeddings.original_size, strict=True)
        size = self._decoding.image_encoder.img_size
        down, across = (_resizing(size, *side).to(logits.device) for side in sizes)
        return down @ logits @ across.T > self._decoding.mask_threshold

    def to_low_res(self, values: Maps, embeddings: Embeddings) -> LowRes:
        """Resize bilinearly to the low-resolution grid; pixel centres stay in place."""
        rows, columns = (-(-side // CELL) for side in embeddings.input_size)
        inside = F.interpolate(values[:, None].float(), (rows, columns), mode="bilinear", align_corners=False)
        return F.pad(inside[:, 0], (0, self._low - columns, 0, self._low - rows))


@lru_cache(maxsize=64)
def _resizing(size: int, input_side: int, original_side: int) -> Float[Tensor, "original low"]:
    """Compute what `Sam.postprocess_masks` does to an axis: to SAM's input, padding cut off, to the original."""
    wide = _enlarging(size)[..., :input_side]
    return F.interpolate(wide, original_side, mode="linear", align_corners=False)[0].T.contiguous()


@lru_cache
def _enlarging(size: int) -> Float[Tensor, "1 low input"]:
    """Compute what enlarging low-resolution logits to SAM's square input does to an axis."""
    return F.interpolate(torch.eye(size // CELL)[None], size, mode="linear", align_corners=False)
