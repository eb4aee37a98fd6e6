"""This module runs Segment Anything through the official package, batched over images as well as prompts.

For the same weights and the same coordinates in the input frame the results are `SamPredictor`'s.
Coordinates reach the input frame by pixel *centres*, ``(x + 0.5)·s − 0.5`` (`SamPredictor` scales pixel
corners, which on small images shifts every prompt by up to half an original pixel).
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from gradsam_exp.batching import AdaptiveBatch, filled
from gradsam_exp.segmenters.base import CELL, Embeddings, check_prompts
from gradsam_exp.segmenters.decoder import predict_masks
from gradsam_exp.segmenters.encoder import encode_frames
from gradsam_exp.types import NO_POINT, LowRes, Maps, Masks, Prompts, Segmentation

Precision = Literal["fp32", "bf16"]
ENCODED_TOKENS = 2**13  # a CPU encodes so many image tokens together
CACHED_VALUES = 2**21  # a CPU decodes queries together whose image tokens have so many values


class SamSegmenter:
    """SamSegmenter puts any `segment_anything.modeling.Sam` behind the `Segmenter` interface.

    Args:
        load_model: returns the model with its weights, on the CPU; called once, by `load`.
        load_encoder: gives that model's image encoder its weights; called once, before the first image is
            encoded. None if `load_model` has done so.
        digest: identifies the weights.
        max_queries: most queries decoded in one call; bounds memory.
        precision: ``bf16`` runs the image encoder under autocast; embeddings then differ by about 1 % of
            their standard deviation.
        compiled: compile the image encoder with `torch.compile`: slow at the start, faster afterwards.
    """

    accepts: ClassVar[frozenset[str]] = frozenset({"points", "boxes", "masks"})

    def __init__(
        self,
        load_model: Callable[[], Sam],
        digest: str,
        *,
        load_encoder: Callable[[Sam], None] | None = None,
        max_queries: int = 256,
        precision: Precision = "fp32",
        compiled: bool = False,
    ) -> None:
        self.digest = digest
        self.max_queries, self.precision = max_queries, precision
        self._encode_frames = torch.compile(encode_frames) if compiled else encode_frames
        self._load_model, self._load_encoder = load_model, load_encoder
        self._model: Sam | None = None
        self._batch = AdaptiveBatch("decode", max_queries, row="query")

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

    @torch.no_grad()
    def decode(self, embeddings: Embeddings, prompts: Prompts) -> Segmentation:
        """Answer every query, see `Segmenter.decode`; those of equally many points together.

        SAM attends to padding points, so queries are padded with nothing that upstream does not pad.

        Raises:
            InputError: prompts that cannot be meant, see `check_prompts`.
        """
        check_prompts(prompts, embeddings, "a caller of decode")
        low = self._decoding.image_encoder.img_size // CELL
        logits = torch.zeros(len(prompts), 4, low, low, device=self.device)
        scores = torch.zeros(len(prompts), 4, device=self.device)
        self._batch.fit(self._rows_at_once())
        points = (prompts.labels != NO_POINT).sum(1)
        for count in points.unique():
            group = torch.nonzero(points == count).flatten()
            decode = partial(self._decode_some, embeddings, prompts, group)
            for rows, answer_logits, answer_scores in self._batch.slices(len(group), decode):
                logits[rows], scores[rows] = answer_logits[: len(rows)], answer_scores[: len(rows)]
        return Segmentation(logits, scores, prompts.example_index)

    def _rows_at_once(self) -> int:
        """Compute how many queries fit a CPU's cache: 64 of ``compact`` are twice as fast as 256."""
        if self.device.type != "cpu":
            return self.max_queries
        rows, columns = self._decoding.prompt_encoder.image_embedding_size
        fitting = CACHED_VALUES // (rows * columns * self._decoding.prompt_encoder.embed_dim)
        return min(self.max_queries, max(8, fitting))

    def _decode_some(
        self, embeddings: Embeddings, prompts: Prompts, group: Tensor, some: slice
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode some rows of a group; repetitions of the last one may follow their masks."""
        rows = group[some]
        return rows, *self._decode_alike(embeddings, prompts[filled(rows, self._batch.most)])

    def _decode_alike(self, embeddings: Embeddings, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """Decode queries that all have the same number of real points."""
        device = self._decoding.device
        images, real = embeddings.images_asked(prompts), prompts.labels != NO_POINT
        count = int(real[0].sum())
        points = None
        if count:
            order = (~real).int().argsort(dim=1, stable=True)[:, :count]  # the real points, in their order
            xy = prompts.points.gather(1, order[..., None].expand(-1, -1, 2))
            labels = prompts.labels.gather(1, order)
            points = (self.to_input(xy, embeddings, images).to(device), labels.float().to(device))
        boxes = prompts.boxes
        if boxes is not None:
            boxes = self.to_input(boxes.unflatten(1, (2, 2)), embeddings, images).flatten(1).to(device)
        masks = None if prompts.mask_logits is None else prompts.mask_logits.to(device)
        sparse, dense = self._decoding.prompt_encoder(points=points, boxes=boxes, masks=masks)
        (values,) = embeddings.levels
        return predict_masks(self._decoding, values[images].to(device), sparse, dense)

    @staticmethod
    def to_input(
        xy: Float[Tensor, "queries points 2"], embeddings: Embeddings, images: Int[Tensor, " queries"]
    ) -> Float[Tensor, "queries points 2"]:
        """Convert coordinates of the ``images``' original frames to SAM's; pixel centres stay pixel centres."""
        scale = (embeddings.input_sizes[images].double() / embeddings.original_sizes[images]).flip(1).float()
        return (xy + 0.5) * scale[:, None].to(xy.device) - 0.5

    @torch.no_grad()
    def to_original(self, logits: LowRes, embeddings: Embeddings) -> Masks:
        """Make masks as upstream does, its two bilinear resizings being one matrix product an axis."""
        sizes = zip(embeddings.input_size, embeddings.original_size, strict=True)
        size = self._decoding.image_encoder.img_size
        down, across = (_resizing(size, *side).to(logits.device) for side in sizes)
        return down @ logits @ across.T > self._decoding.mask_threshold

    def to_low_res(self, values: Maps, embeddings: Embeddings) -> LowRes:
        """Resize bilinearly to the low-resolution grid; pixel centres stay in place."""
        low = self._decoding.image_encoder.img_size // CELL
        rows, columns = (-(-side // CELL) for side in embeddings.input_size)
        inside = F.interpolate(values[:, None].float(), (rows, columns), mode="bilinear", align_corners=False)
        return F.pad(inside[:, 0], (0, low - columns, 0, low - rows))


@lru_cache(maxsize=64)
def _resizing(size: int, input_side: int, original_side: int) -> Float[Tensor, "original low"]:
    """Compute what `Sam.postprocess_masks` does to an axis: to SAM's input, padding cut off, to the original."""
    wide = _enlarging(size)[..., :input_side]
    return F.interpolate(wide, original_side, mode="linear", align_corners=False)[0].T.contiguous()


@lru_cache
def _enlarging(size: int) -> Float[Tensor, "1 low input"]:
    """Compute what enlarging low-resolution logits to SAM's square input does to an axis."""
    return F.interpolate(torch.eye(size // CELL)[None], size, mode="linear", align_corners=False)
