"""This module runs Segment Anything's descendants through transformers: ``sam=hf`` and its presets.

For the same weights and the same coordinates in the input frame the results are those of a model's own processor
and class in transformers. Weights come from a folder, or from the Hugging Face hub's cache, into which they are
downloaded first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gradsam_exp.digest import digest
from gradsam_exp.errors import InputError, first_line, some
from gradsam_exp.segmenters.base import SEGMENTERS, Embeddings, Segmenter
from gradsam_exp.segmenters.batched import (
    ACCEPTED,
    BatchedSegmenter,
    Coordinates,
    MaxQueries,
    Precision,
    check_images,
)
from gradsam_exp.segmenters.tta import Tta, augmented
from gradsam_exp.types import LowRes, Masks
from gradsam_exp.weights import file_digest
from gradsam_exp.weights.hub import find_folder, load_pretrained, needed

Accepts = Sequence[Literal["points", "boxes", "masks"]]
FAMILIES = {
    "sam": "SamModel",
    "sam_hq": "SamHQModel",
    "sam2": "Sam2Model",
    "sam2_video": "Sam2Model",
    "edgetam": "EdgeTamModel",
    "edgetam_video": "EdgeTamModel",
    "sam3_tracker": "Sam3TrackerModel",
    "sam3_tracker_video": "Sam3TrackerModel",
    "sam3_video": "Sam3TrackerModel",
}
"""The class of transformers that answers single images, by a checkpoint's ``model_type``."""
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint is a folder as `save_pretrained` writes it, of a model that can be asked with points or boxes.

    Attributes:
        folder: where it lies.
        model: its class in transformers.
        size, patch, channels: side of its square input and of a patch, in pixels; channels of its embedding.
        candidates: masks for each query, the single one included.
        digest: of the content of its weights and configuration, and the versions of the libraries that run them.
    """

    folder: Path
    model: str
    size: int
    patch: int
    channels: int
    candidates: int
    digest: str

    @classmethod
    def of(cls, id: str, revision: str | None) -> Checkpoint:
        """Find a checkpoint in a folder, or by its id in the hub's cache, else on the hub.

        Raises:
            InputError: it is in none of them, of another kind, or incomplete.
        """
        transformers = needed("transformers", "hf")
        find = partial(find_folder, id, key="sam.id", instead="sam=compact", revision=revision)
        model = _model_of(find(["config.json"]), id)
        folder = find(["*.json", _WEIGHTS[0]])
        if not list(folder.glob(_WEIGHTS[0])):
            folder = find(["*.json", _WEIGHTS[1]])
        weights = sorted(path for ending in _WEIGHTS for path in folder.glob(ending))
        settings = sorted(path for name in ("config.json", *_PROCESSORS) if (path := folder / name).is_file())
        if not weights or len(settings) < 2:
            lacking = _WEIGHTS[0] if not weights else _PROCESSORS[0]
            raise InputError(f"sam.id={id} holds no {lacking}: give a folder as save_pretrained writes it")
        content = {path.name: file_digest(path, key="sam.id") for path in (*weights, *settings)}
        config = transformers.AutoConfig.from_pretrained(folder)
        config = getattr(config, "tracker_config", config)
        prompts = config.prompt_encoder_config
        return cls(
            folder,
            model,
            prompts.image_size,
            prompts.patch_size,
            prompts.hidden_size,
            config.mask_decoder_config.num_multimask_outputs + 1,
            digest([content, version("transformers"), version("timm")], size=32),
        )


class HfSegmenter(BatchedSegmenter):
    """HfSegmenter puts the promptable segmentation models of transformers behind the `Segmenter` interface.

    Candidate 0 is what a model answers when it is asked for a single mask (SAM: its first token's; SAM 2, EdgeTAM
    and SAM 3: that, or the best other if it is not stable; SAM-HQ: the first token's, made high-quality), the
    others are what it answers when it is asked for several.

    Args:
        checkpoint: the weights.
        accepts: kinds of prompts it is for; None stands for all.
        compiled: compile the image encoder with `torch.compile`.
        max_queries, precision, coordinates: see `BatchedSegmenter`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        accepts: Accepts | None = None,
        max_queries: int = 64,
        precision: Precision = "fp32",
        compiled: bool = False,
        coordinates: Coordinates = "centres",
    ) -> None:
        super().__init__(checkpoint.digest, max_queries=max_queries, precision=precision, coordinates=coordinates)
        self.checkpoint, self.compiled = checkpoint, compiled
        self.accepts = ACCEPTED if accepts is None else frozenset(accepts)
        self.candidates, self.cell = checkpoint.candidates, checkpoint.patch / 4
        self._model: Any = None
        self._processor: Any = None

    def load(self, device: torch.device) -> None:
        """Read the weights, see `Segmenter.load`.

        Raises:
            InputError: weights that are damaged, or lack some of the model's.
        """
        if self._model is None:
            self._processor, self._model = _read(self.checkpoint)
            if self.compiled:
                self._model.vision_encoder.compile()
        self._model.to(device)

    @property
    def device(self) -> torch.device:
        """Return where it runs, see `Segmenter.device`."""
        return torch.device("cpu") if self._model is None else self._model.device

    @property
    def model(self) -> nn.Module:
        """Return the loaded model of transformers."""
        if self._model is None:
            raise RuntimeError("the segmenter's weights are not loaded yet: call load(device) first")
        return self._model

    @property
    def _size(self) -> int:
        return self.checkpoint.size

    @property
    def _grid(self) -> tuple[int, int, int]:
        side = self.checkpoint.size // self.checkpoint.patch
        return side, side, self.checkpoint.channels

    @property
    def _padded(self) -> bool:
        """Say whether images keep their shape and are padded; else they are stretched to a square."""
        return self.checkpoint.model in {"SamModel", "SamHQModel"}

    @torch.no_grad()
    def encode(self, images: Tensor) -> Embeddings:
        """Encode images, resized and normalised by the model's own image processor.

        Raises:
            ValueError: images that are not uint8: what is white would have to be guessed.
        """
        check_images(images)
        parts = [self._encoded(some) for some in images.split(self._images_at_once(len(images)))]
        size = parts[0][1]
        levels = [torch.cat(level) for level in zip(*(levels for levels, _ in parts), strict=True)]
        return Embeddings.of_one_size(levels, size, (images.shape[-2], images.shape[-1]))

    def _encoded(self, images: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
        """Encode some images; returns levels, and the height and width of the resized images in px."""
        model: Any = self.model
        inputs = self._processor(list(images), input_data_format="channels_first", return_tensors="pt")
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            answer = model.get_image_embeddings(inputs["pixel_values"].to(self.device))
        if self.checkpoint.model == "SamHQModel":
            answer = [answer[0], answer[1][0]]  # the only intermediate one that the decoder looks at
        levels = [answer] if isinstance(answer, Tensor) else list(answer)
        height, width = inputs["reshaped_input_sizes"][0].tolist() if self._padded else (self._size, self._size)
        return [level.float() for level in levels], (height, width)

    def _predict(
        self,
        levels: list[Tensor],
        points: tuple[Tensor, Tensor] | None,
        boxes: Float[Tensor, "queries 4"] | None,
        masks: Float[Tensor, "queries 1 low low"] | None,
    ) -> tuple[Tensor, Tensor]:
        """See `BatchedSegmenter._predict`."""
        model: Any = self.model
        asked: dict[str, Any] = {
            "image_embeddings": levels if len(levels) > 2 else levels[0],
            "input_masks": masks,
        }
        if len(levels) == 2:
            asked["intermediate_embeddings"] = levels[1:]
        if points is not None:
            asked |= {"input_points": points[0][:, None], "input_labels": points[1][:, None].long()}
        if boxes is not None:
            asked["input_boxes"] = boxes[:, None]
        with _computed_once(model.mask_decoder.transformer):
            answers = [model(**asked, multimask_output=several) for several in (False, True)]
        logits = torch.cat([answer.pred_masks[:, 0] for answer in answers], 1)
        return logits, torch.cat([answer.iou_scores[:, 0] for answer in answers], 1)

    @torch.no_grad()
    def to_original(self, logits: LowRes, embeddings: Embeddings) -> Masks:
        """Make masks as the model's own processor does."""
        if self._padded:
            return super().to_original(logits, embeddings)
        size = embeddings.original_size
        return F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0] > 0


@SEGMENTERS.register("hf")
def hf(
    *,
    id: str,
    revision: str | None = None,
    accepts: Accepts | None = None,
    max_queries: MaxQueries = 64,
    precision: Precision = "fp32",
    compile: bool = False,
    coordinates: Coordinates = "centres",
    tta: Tta = 1,
) -> Segmenter:
    """Build a promptable segmentation model of transformers.

    Args:
        id: a model of the Hugging Face hub, such as ``facebook/sam2.1-hiera-tiny``, or a folder.
        revision: of the hub's model: a branch, tag or commit.
        accepts: which of points, boxes, masks it was trained for; None: all.
        max_queries, precision, compile, coordinates: see `HfSegmenter`.
        tta: see `Augmented`.
    """
    segmenter = HfSegmenter(
        Checkpoint.of(id, revision),
        accepts=accepts,
        max_queries=max_queries,
        precision=precision,
        compiled=compile,
        coordinates=coordinates,
    )
    return augmented(segmenter, tta)


def _model_of(folder: Path, id: str) -> str:
    """Read which class of transformers a checkpoint is for; `InputError` if it is none of `FAMILIES`."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"sam.id={id} holds no config.json of a model of transformers ({first_line(error)})"
        ) from error
    if kind in {"sam3", "sam3_lite_text"}:
        raise InputError(f"sam.id={id} is asked with text only, not with points or boxes: use sam=sam3")
    if kind not in FAMILIES:
        known = some(sorted(FAMILIES), len(FAMILIES))
        raise InputError(f"sam.id={id} is a {kind!r}, which is no promptable segmenter; known are {known}")
    return FAMILIES[kind]


def _read(checkpoint: Checkpoint) -> tuple[Any, Any]:
    """Read image processor and model; `InputError` if weights are missing or damaged."""
    transformers, place = needed("transformers", "hf"), f"sam.id={checkpoint.folder}"
    with _quiet(transformers.logging):
        processor = transformers.AutoImageProcessor.from_pretrained(checkpoint.folder)
        model, missing = load_pretrained(getattr(transformers, checkpoint.model), checkpoint.folder, place)
    if missing:
        raise InputError(f"the weights of {place} lack {len(missing)} tensors, such as {missing[0]}")
    return processor, model.eval().requires_grad_(False)


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Keep transformers from telling what is checked here: progress of reading, and that video models are more."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _computed_once(module: nn.Module) -> Iterator[None]:
    """Let a module answer all calls with the answer to the first.

    A mask decoder gives the single mask or the others, never both; its transformer, which is the same for both,
    takes 80 % of the time.
    """
    forward, answers = module.forward, list[Any]()

    def once(*args: Any, **kwargs: Any) -> Any:
        if not answers:
            answers.append(forward(*args, **kwargs))
        return answers[0]

    module.forward = once
    try:
        yield
    finally:
        del module.forward
