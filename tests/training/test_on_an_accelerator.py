"""Training steps join only tensors of the accelerator: run on a CUDA device that is not there, with shapes alone.

`FakeTensorMode` computes shapes, types and devices of every operation and stops where two devices meet.
"""

import logging
import random
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.data.shapes import SHAPES
from gradsam_exp.segmenters.compact import build_compact
from gradsam_exp.training.promptable import PromptableTraining
from gradsam_exp.training.queries import SceneBatch
from gradsam_exp.types import ExampleBatch

# Of torch about fake tensors, of Lightning about a missing trainer.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
CUDA = torch.device("cuda", 0)


@pytest.fixture
def fake_cuda() -> Iterator[None]:
    """Named last among a test's fixtures: what the others make is real."""
    logging.disable(logging.INFO)  # torch tells all that it learns of shapes, which takes longer than all else
    with FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv()), torch.no_grad():
        yield  # without gradients: autograd would look for the device's driver
    logging.disable(logging.NOTSET)


def on_cuda(module: nn.Module) -> nn.Module:
    """The module with its weights and buffers on the fake device; torchmetrics' states follow by `to`."""
    for part in module.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            empty = torch.empty(weight.shape, dtype=weight.dtype, device=CUDA)
            setattr(part, name, nn.Parameter(empty, requires_grad=weight.requires_grad))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=CUDA))
    return module


def scenes() -> SceneBatch:
    return SceneBatch(
        torch.zeros(2, 3, 256, 256, dtype=torch.uint8, device=CUDA),
        torch.ones(2, 256, 256, dtype=torch.bool, device=CUDA),
        torch.ones(2, 4, 64, 64, dtype=torch.bool, device=CUDA),
    )


@pytest.fixture
def promptable() -> PromptableTraining:
    return PromptableTraining(build_compact(), steps=10)


def test_two_devices_are_told_apart(fake_cuda):
    with pytest.raises(RuntimeError, match="device"):
        torch.zeros(3) + torch.zeros(3, device=CUDA)


@pytest.mark.parametrize(
    ("extras", "seed"),
    [(0.0, 5), (0.0, 9), (1.0, 4)],
    ids=[
        "clicks, points, corrected twice",
        "clicks, boxes, corrected thrice",
        "background and clusters, corrected",
    ],
)
def test_a_step_of_a_promptable_segmenter(promptable: PromptableTraining, fake_cuda, extras: float, seed: int):
    model = on_cuda(promptable)
    model.idle_background = model.idle_foreground = model.tight_clusters = extras
    random.seed(seed)
    loss = model.loss(scenes())
    assert loss.device == CUDA
    assert loss.shape == ()


def test_validation_of_a_promptable_segmenter(promptable: PromptableTraining, fake_cuda):
    model = on_cuda(promptable)
    model.val_iou = model.val_iou.to(CUDA)
    model.validation_step(scenes(), 0)
    assert model.val_iou.compute().device == CUDA


def test_a_step_and_validation_of_a_classifier(classifier: ImageClassifier, fake_cuda):
    model = on_cuda(classifier)
    images = torch.zeros(4, 3, 48, 64, dtype=torch.uint8, device=CUDA)
    batch = ExampleBatch.one_each(
        images, None, torch.zeros(4, dtype=torch.long, device=CUDA), ("a", "b", "c", "d")
    )
    assert model.training_step(batch, 0).device == CUDA
    model.val_confusion.to(CUDA)
    model.validation_step(batch, 0)
    assert model.val_confusion.confmat.device == CUDA
    assert model.val_confusion.compute().shape == (len(SHAPES), len(SHAPES))
