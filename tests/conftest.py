"""Shared pieces: small data, small networks, and a folder of files in the reference layout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.data.backgrounds import Mixed
from gradsam_exp.data.base import collate
from gradsam_exp.data.shapes import SHAPES, Shapes
from gradsam_exp.data.synthetic_shapes import export
from gradsam_exp.segmenters.compact import build_compact
from gradsam_exp.segmenters.sam import SamSegmenter
from gradsam_exp.types import ImageBatch

os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"


@pytest.fixture(scope="session")
def shapes() -> Shapes:
    return Shapes("test", Mixed("test"), length=8)


@pytest.fixture(scope="session")
def batch(shapes: Shapes) -> ImageBatch:
    return collate([shapes[k] for k in range(8)])


@pytest.fixture
def classifier() -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier("resnet18", SHAPES).eval()


@pytest.fixture(scope="session")
def segmenter() -> SamSegmenter:
    """The compact architecture with random weights, loaded."""
    torch.manual_seed(0)
    segmenter = SamSegmenter(build_compact, "random")
    segmenter.load(torch.device("cpu"))
    return segmenter


@pytest.fixture
def shape_files(tmp_path: Path) -> Path:
    """Ten images of each split in the layout of ``data=synthetic_shapes``."""
    root = tmp_path / "synthetic shapes"
    for split in ("train", "val", "test"):
        export(Shapes(split, Mixed(split), length=10), root)
    return root
