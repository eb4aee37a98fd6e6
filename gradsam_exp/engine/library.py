"""`explain` and `segment` take single pictures and any network through the chain, without a configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor, nn

from gradsam_exp.classifiers.base import CLASSIFIERS
from gradsam_exp.classifiers.sources import timm_transform
from gradsam_exp.classifiers.transform import Transform
from gradsam_exp.data.base import match_classes
from gradsam_exp.data.pictures import rgb_of
from gradsam_exp.engine.pipeline import Pipeline
from gradsam_exp.engine.suitability import check_strategy
from gradsam_exp.errors import InputError, did_you_mean
from gradsam_exp.explainers.base import EXPLAINERS
from gradsam_exp.prompts.base import STRATEGIES
from gradsam_exp.segmenters.base import SEGMENTERS, Segmenter
from gradsam_exp.selectors.base import SELECTORS
from gradsam_exp.types import Heatmaps, PromptContext, Prompts

Picture = str | Path | Image.Image | np.ndarray
Described = str | Mapping[str, Any]
"""The name of a plug-in, or its parameters with ``name``: ``{"name": "fgbg", "bg_threshold": 0.2}``."""


@dataclass(frozen=True)
class Explanation:
    """An explanation says what a classifier sees in a picture, and where.

    Attributes:
        image: the picture, RGB.
        heatmap: how much each pixel speaks for the class, in [0, 1].
        class_id, class_name: the class that the heatmap explains.
        probability: of this class, by a softmax over all.
        empty: nothing in the picture speaks for the class; the heatmap is 0 everywhere.
    """

    image: UInt8[np.ndarray, "height width 3"]
    heatmap: Float[np.ndarray, "height width"]
    class_id: int
    class_name: str
    probability: float
    empty: bool


@dataclass(frozen=True)
class Segmented(Explanation):
    """A segmented picture has been explained, and its heatmap has been turned into prompts and a mask.

    Attributes:
        prompts: what the segmenter was asked; coordinates are ``(x, y)`` px of the picture.
        mask: the answer that was kept; nothing if no prompt was found.
        predicted_iou: the segmenter's own estimate of the mask's quality; 0 without a mask, NaN if it makes none.
    """

    prompts: Prompts
    mask: Bool[np.ndarray, "height width"]
    predicted_iou: float


def explain(
    model: nn.Module | Described,
    picture: Picture,
    target: int | str | None = None,
    *,
    explainer: Described = "gradcam",
    layers: str | Sequence[str | nn.Module] = "auto",
    class_names: Sequence[str] | None = None,
    transform: Transform | Callable[[Tensor], Tensor] | None = None,
) -> Explanation:
    """Explain where a classifier sees a class in a picture.

    Args:
        model: any network that maps images to logits; or the name of a source (``imagenet``), or its parameters:
            ``{"source": "timm", "name": "resnet50.a1_in1k"}``.
        picture: a file's path, a Pillow image, or an array ``(H, W, 3)``; see `rgb_of`.
        target: the class to explain, by id or name; None: the one with the largest logit.
        explainer: how.
        layers: the target layers, for explainers that have some; ``auto``: the last layer that has a map.
        class_names: what the outputs mean; None: the model's own ``class_names``, else numbers.
        transform: makes network input of a uint8 batch ``(1, 3, H, W)``, showing all of it (no crop); None: the
            model's own ``transform``, or what timm says of its networks.

    Raises:
        InputError: something that is not known or does not fit; names it, and says what to do.
    """
    if not isinstance(model, nn.Module):
        source = CLASSIFIERS.build({"source": model} if isinstance(model, str) else model)
        source.check_ready()
        model = source.load()
    image = rgb_of(picture)
    names = class_names if class_names is not None else getattr(model, "class_names", None)
    ready = transform is None and getattr(model, "transform", None) is not None
    network = model if ready else _Prepared(model, _transform_of(model, transform))
    device = next(model.parameters(), torch.zeros(())).device
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(device)
    node: dict[str, Any] = dict(_node(explainer))
    factory: Any = EXPLAINERS.get(str(node["name"]))
    if "target_layers" in getattr(factory, "__dataclass_fields__", {}):
        node.setdefault("target_layers", layers)
    targets = None if target is None else torch.tensor([_class_id(target, names)])
    found: Heatmaps = EXPLAINERS.build(node, model=network)(pixels, targets).to("cpu")
    class_id = int(found.targets[0])
    share = float("nan") if found.logits is None else float(found.logits[0].float().softmax(0)[class_id])
    return Explanation(
        image,
        found.values[0].numpy(),
        class_id,
        str(class_id) if names is None else str(names[class_id]),
        share,
        bool(found.empty[0]),
    )


def segment(
    explanation: Explanation,
    *,
    sam: Segmenter | Described = "compact",
    pipeline: Described = "fg",
    selector: Described = "predicted_iou",
    seed: int = 0,
) -> Segmented:
    """Turn an explanation's heatmap into prompts, and these into a mask.

    Args:
        explanation: of `explain`, or made of a heatmap of one's own.
        sam: the segmenter; one that was loaded is not loaded again.
        pipeline: the prompt strategy.
        selector: which of the segmenter's masks is kept.
        seed: of random strategies.

    Raises:
        InputError: something that is not known or does not fit; or what looks at true masks.
        ValueError: a heatmap of another size than its image.
    """
    strategy, chosen = STRATEGIES.build(_node(pipeline)), SELECTORS.build(_node(selector))
    segmenter: Segmenter = SEGMENTERS.build(_node(sam)) if isinstance(sam, str | Mapping) else sam
    check_strategy(
        strategy,
        segmenter,
        str(_node(pipeline)["name"]),
        str(_node(sam)["name"]) if isinstance(sam, str | Mapping) else type(sam).__name__,
    )
    chain = Pipeline(strategy, segmenter, chosen)
    if chain.needs_truth:
        raise InputError(
            f"pipeline={pipeline} with selector={selector} looks at true masks, and there is none here"
        )
    if "classifier" in strategy.needs:
        raise InputError(f"pipeline={pipeline} asks the classifier again, and here is only its heatmap")
    segmenter.load(segmenter.device)
    images = torch.from_numpy(explanation.image.copy()).permute(2, 0, 1)[None]
    heatmaps = Heatmaps(
        torch.from_numpy(explanation.heatmap)[None],
        torch.tensor([explanation.empty]),
        torch.tensor([explanation.class_id]),
    )
    result = chain(PromptContext(images, heatmaps, seed=seed), segmenter.encode(images))
    return Segmented(
        **vars(explanation),
        prompts=result.prompts,
        mask=result.masks[0].numpy(),
        predicted_iou=float(result.predicted_iou[0]),
    )


def _node(given: Described) -> Mapping[str, Any]:
    return {"name": given} if isinstance(given, str) else given


def _class_id(target: int | str, names: Sequence[str] | None) -> int:
    """Find a class by id or name."""
    if isinstance(target, int):
        return target
    if names is None:
        raise InputError(f"target={target!r}: the model has no class_names; give them, or a class id")
    (found,) = match_classes([target], list(map(str, names)))
    if found is None:
        raise InputError(f"target={target!r} is not a class{did_you_mean(target, map(str, names))}")
    return found


class _Prepared(nn.Module):
    """A network together with what a picture goes through before it."""

    def __init__(self, network: nn.Module, transform: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.backbone, self.transform = network, transform

    def forward(self, pixels: Tensor) -> Any:
        return self.backbone(pixels)


def _transform_of(model: nn.Module, given: Callable[[Tensor], Tensor] | None) -> Callable[[Tensor], Tensor]:
    """Find what makes network input of pictures."""
    if given is not None:
        return given
    if not getattr(model, "pretrained_cfg", None):
        raise InputError(
            f"how pictures become input of {type(model).__name__} is not known: give transform=Transform(size=…, "
            "mean=…, std=…), or any function of a uint8 batch (1, 3, height, width)"
        )
    return timm_transform(model)
