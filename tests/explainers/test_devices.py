"""Explainers work on an accelerator, shown on PyTorch's ``meta`` device: its tensors have shapes but no values.

FakeTensorMode's pretended CUDA device would be nearer, but where there is no GPU it has no backward pass.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.data.shapes import SHAPES
from gradsam_exp.explainers.base import EXPLAINERS
from gradsam_exp.explainers.several import Mirrored

pytestmark = pytest.mark.slow  # whole networks, many times

ATTENTION = ["attention_relevance", "attention_rollout"]
INPUT = ["fullgrad", "gradient_x_input", "integrated_gradients", "rise", "smoothgrad"]
FEW = {"integrated_gradients": {"steps": 2}, "rise": {"masks": 8}, "smoothgrad": {"samples": 2},
       "smoothgradcam++": {"samples": 2}}  # fmt: skip


class OneDevice(TorchDispatchMode):
    """Every operation has all its tensors on one device, but for copies and single numbers, as on a GPU.

    Questions for values are answered: no condition holds, and no element is zero.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.ndim]
        devices = {tensor.device for tensor in tensors}
        if len(devices) > 1 and func is not torch.ops.aten.copy_.default:
            raise RuntimeError(f"{func} on tensors of several devices: {devices}")
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return False
        if func is torch.ops.aten.nonzero.default and args[0].is_meta:
            return torch.arange(args[0].numel(), device="meta")[:, None]
        return func(*args, **kwargs or {})


def node(name: str) -> dict:
    if name == "ensemble":
        return {"name": name, "of": [node("gradcam"), node("eigencam")]}
    if name in INPUT + ATTENTION:
        return {"name": name, **FEW.get(name, {})}
    layers = ["layer4.-1"] if name == "cam" else ["layer4.-1", "layer3.-1"]
    return {"name": name, "target_layers": layers, **FEW.get(name, {})}


def network(name: str) -> nn.Module:
    if name in ATTENTION:
        return torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5)
    return ImageClassifier("resnet18", SHAPES)


@pytest.mark.parametrize("name", EXPLAINERS.names())
def test_heatmaps_are_on_the_images_device(name: str):
    with torch.device("meta"):
        model, images = network(name), torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    pixels = images.float() if name in ATTENTION else images
    explainer = EXPLAINERS.build(node(name), model=model)
    with OneDevice():
        for found in (explainer(pixels), Mirrored(explainer)(pixels, torch.tensor([1, 3]))):
            devices = {key: tensor.device.type for key, tensor in found.as_tensors().items()}
            assert devices == dict.fromkeys(["values", "empty", "targets", "logits"], "meta")
            assert found.values.shape == (2, 32, 32)


def test_a_mixture_of_devices_is_an_error_there():
    one, other = torch.rand(2, 2, device="meta"), torch.rand(2, 2)
    with OneDevice(), pytest.raises(RuntimeError, match="several devices"):
        one @ other
