"""This module runs Segment Anything through the official package, batched over images as well as prompts.

For the same weights and the same coordinates in the input frame the results are `SamPredictor`'s.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from gradsam_exp.segmenters.base import Embeddings
from gradsam_exp.segmenters.batched import BatchedSegmenter, Coordinates, Precision, check_images
from gradsam_exp.segmenters.decoder import predict_masks
from gradsam_exp.segmenters.encoder import encode_frames


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
    def _size(self) -> int:
        return self._decoding.image_encoder.img_size

    @property
    def _grid(self) -> tuple[int, int, int]:
        rows, columns = self._decoding.prompt_encoder.image_embedding_size
        return rows, columns, self._decoding.prompt_encoder.embed_dim

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
        check_images(images)
        resize = ResizeLongestSide(self._size)
        frames = [
            torch.from_numpy(resize.apply_image(np.ascontiguousarray(image.permute(1, 2, 0).numpy())))
            for image in images.cpu()
        ]
        frame = torch.stack(frames).permute(0, 3, 1, 2)
        parts = [self._embedded(some) for some in frame.split(self._images_at_once(len(images)))]
        levels = [torch.cat(level) for level in zip(*parts, strict=True)]
        sizes = [(pixels.shape[-2], pixels.shape[-1]) for pixels in (frame, images)]
        return Embeddings.of_one_size(levels, *sizes)

    def _embedded(self, frame: Tensor) -> list[Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            pixels = self.model.preprocess(frame.to(self.device).float())
            return [level.float() for level in self._encode_frames(self.model.image_encoder, pixels)]

    def _predict(
        self,
        levels: list[Tensor],
        points: tuple[Tensor, Tensor] | None,
        boxes: Float[Tensor, "queries 4"] | None,
        masks: Float[Tensor, "queries 1 low low"] | None,
    ) -> tuple[Tensor, Tensor]:
        """See `BatchedSegmenter._predict`."""
        sparse, dense = self._decoding.prompt_encoder(points=points, boxes=boxes, masks=masks)
        return predict_masks(self._decoding, levels, sparse, dense)
