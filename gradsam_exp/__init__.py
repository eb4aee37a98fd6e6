"""gradsam_exp: how well can a classifier's own attention drive the Segment Anything Model?

The pieces of the chain, usable without Hydra; each is imported when it is first asked for, so that
``python run.py --help`` need not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradsam_exp.classifiers.checkpoints import find_classifier as find_classifier
    from gradsam_exp.classifiers.classifier import ImageClassifier as ImageClassifier
    from gradsam_exp.data.backgrounds import BACKGROUNDS as BACKGROUNDS
    from gradsam_exp.data.base import DATASETS as DATASETS
    from gradsam_exp.data.base import collate as collate
    from gradsam_exp.data.shapes import Shapes as Shapes
    from gradsam_exp.errors import InputError as InputError
    from gradsam_exp.experiment import Experiment as Experiment
    from gradsam_exp.explainers.base import EXPLAINERS as EXPLAINERS
    from gradsam_exp.explainers.gradient import GradCAM as GradCAM
    from gradsam_exp.metrics.masks import MeanMaskIoU as MeanMaskIoU
    from gradsam_exp.metrics.points import PointDistance as PointDistance
    from gradsam_exp.metrics.points import PointHitRate as PointHitRate
    from gradsam_exp.pipeline import Pipeline as Pipeline
    from gradsam_exp.prompts.background import ForegroundBackground as ForegroundBackground
    from gradsam_exp.prompts.base import (
        STRATEGIES as STRATEGIES,
    )
    from gradsam_exp.prompts.base import (
        PromptStrategy as PromptStrategy,
    )
    from gradsam_exp.prompts.foreground import Foreground as Foreground
    from gradsam_exp.segmenters.base import SEGMENTERS as SEGMENTERS
    from gradsam_exp.segmenters.base import Embeddings as Embeddings
    from gradsam_exp.segmenters.checkpoints import load_segmenter as load_segmenter
    from gradsam_exp.segmenters.sam import SamSegmenter as SamSegmenter
    from gradsam_exp.selectors.base import SELECTORS as SELECTORS
    from gradsam_exp.selectors.base import Choice as Choice
    from gradsam_exp.selectors.score import PredictedIoU as PredictedIoU
    from gradsam_exp.types import (
        Heatmaps as Heatmaps,
    )
    from gradsam_exp.types import (
        ImageBatch as ImageBatch,
    )
    from gradsam_exp.types import (
        PromptContext as PromptContext,
    )
    from gradsam_exp.types import (
        Prompts as Prompts,
    )
    from gradsam_exp.types import (
        Segmentation as Segmentation,
    )

_HOME = {
    "BACKGROUNDS": "data.backgrounds",
    "Choice": "selectors.base",
    "DATASETS": "data.base",
    "EXPLAINERS": "explainers.base",
    "Embeddings": "segmenters.base",
    "Experiment": "experiment",
    "Foreground": "prompts.foreground",
    "ForegroundBackground": "prompts.background",
    "GradCAM": "explainers.gradient",
    "Heatmaps": "types",
    "ImageBatch": "types",
    "ImageClassifier": "classifiers.classifier",
    "InputError": "errors",
    "MeanMaskIoU": "metrics.masks",
    "Pipeline": "pipeline",
    "PointDistance": "metrics.points",
    "PointHitRate": "metrics.points",
    "PredictedIoU": "selectors.score",
    "PromptContext": "types",
    "PromptStrategy": "prompts.base",
    "Prompts": "types",
    "SEGMENTERS": "segmenters.base",
    "SELECTORS": "selectors.base",
    "STRATEGIES": "prompts.base",
    "SamSegmenter": "segmenters.sam",
    "Segmentation": "types",
    "Shapes": "data.shapes",
    "collate": "data.base",
    "find_classifier": "classifiers.checkpoints",
    "load_segmenter": "segmenters.checkpoints",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOME)
