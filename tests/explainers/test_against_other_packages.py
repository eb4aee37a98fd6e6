"""Our explainers against grad-cam, torchcam and captum: same network, same images, raw maps of the layer.

Maps are compared after min–max scaling, at the layer's own resolution.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import captum.attr
import numpy as np
import pytest
import pytorch_grad_cam as other
import torch
import torchcam.methods
from pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputReST,
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
)
from torch import Tensor, nn

from gradsam_exp.explainers.activation import CAM, FEM, KPCACAM, EigenCAM
from gradsam_exp.explainers.attribution import FullGrad, GradientXInput, IntegratedGradients, SmoothGrad
from gradsam_exp.explainers.base import LayerExplainer, scale_to_unit
from gradsam_exp.explainers.gradient import (
    EigenGradCAM,
    ElementWiseGradCAM,
    FinerCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    RefineCAM,
    SegEigenCAM,
    ShapleyCAM,
    SmoothGradCAMPlusPlus,
    XGradCAM,
)
from gradsam_exp.explainers.perturbation import AblationCAM, ScoreCAM
from gradsam_exp.types import ExampleBatch
from tests.faults.counts import only_soaking

pytestmark = pytest.mark.slow  # whole networks, and their other implementations

TARGETS = torch.tensor([0, 1, 2, 3, 4, 0])
LAYERS = ["layer2.-1", "layer4.-1"]


@pytest.fixture
def network(classifier) -> nn.Module:
    """ResNet-18 with random weights whose logits are large, so that others' ε in denominators do not count."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in classifier.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.normal_(std=0.3)
                module.running_mean.normal_(std=0.3)
        classifier.backbone.fc.weight.mul_(1000)
        classifier.backbone.fc.bias.normal_()
    return classifier.eval()


@pytest.fixture
def pixels(network, batch: ExampleBatch) -> Tensor:
    return network.transform(batch.images[: len(TARGETS)])


def layer_of(network, path: str) -> nn.Module:
    return getattr(network.backbone, path.split(".", maxsplit=1)[0])[-1]


def same(ours: Tensor, theirs: Any) -> None:
    theirs = torch.as_tensor(np.asarray(theirs)).clamp(min=0)
    assert ours.shape == theirs.shape
    assert (scale_to_unit(ours)[0] - scale_to_unit(theirs)[0]).abs().max() <= 1e-4
    assert (ours.amax((1, 2)) > 0).sum() >= 4, "mostly empty maps would prove little"


def grad_cam_package(
    method: Any, network, path: str, pixels: Tensor, targets: list[Any] | None = None
) -> np.ndarray:
    """The raw map, before that package resizes it."""
    layer = layer_of(network, path)
    targets = targets or [ClassifierOutputTarget(int(t)) for t in TARGETS]
    with method(network, [layer]) as cam:
        raw: list[np.ndarray] = []
        inner = getattr(cam, "base_cam", cam)
        original = inner.get_cam_image
        inner.get_cam_image = lambda *a, **k: raw.append(original(*a, **k)) or raw[-1]
        cam(pixels, targets)
    return raw[0]


WANTED = [ClassifierOutputTarget(int(t)) for t in TARGETS]


@pytest.mark.parametrize("path", LAYERS)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (GradCAM, other.GradCAM),
        (GradCAMPlusPlus, other.GradCAMPlusPlus),
        (HiResCAM, other.HiResCAM),
        (XGradCAM, other.XGradCAM),
        (LayerCAM, other.LayerCAM),
        (ElementWiseGradCAM, other.GradCAMElementWise),
        (SegEigenCAM, other.SegEigenCAM),
    ],
)
def test_equals_the_grad_cam_package(ours: type[LayerExplainer], theirs, network, pixels: Tensor, path: str):
    found = ours(network, [path]).layer_maps(pixels, TARGETS).maps[0]
    same(found, grad_cam_package(theirs, network, path, pixels, WANTED))


@pytest.mark.parametrize(("path", "k"), [("layer2.-1", 2.0), ("layer4.-1", 1.0)])
def test_fem_equals_the_grad_cam_package(network, pixels: Tensor, path: str, k: float):
    """Of the four pixels of layer4 none can lie two standard deviations above the mean."""
    expected = grad_cam_package(partial(other.FEM, k=k), network, path, pixels, WANTED)
    same(FEM(network, [path], k=k).layer_maps(pixels, TARGETS).maps[0], expected)


def test_refinecam_equals_the_grad_cam_package(network, pixels: Tensor):
    paths = ["layer1.-1", "layer2.-1", "layer4.-1"]
    expected = other.RefineCAM(network, [layer_of(network, path) for path in paths])(pixels, WANTED)
    explainer = RefineCAM(network, paths)
    found = explainer.combined(explainer.layer_maps(pixels, TARGETS), (48, 64))
    same(found.values, expected)


def soften(network) -> None:
    """Logits of ordinary size, or a softmax over them picks a single channel."""
    with torch.no_grad():
        network.backbone.fc.weight.div_(1000)


@pytest.mark.slow
def test_scorecam_equals_the_grad_cam_package(network, pixels: Tensor, monkeypatch):
    """But for how channels are upsampled: pixel centres stay in place in ours, image corners in theirs."""
    soften(network)
    monkeypatch.setattr(nn, "UpsamplingBilinear2d", lambda size: nn.Upsample(size, mode="bilinear"))
    found = ScoreCAM(network, ["layer2.-1"]).layer_maps(pixels, TARGETS).maps[0]
    same(found, grad_cam_package(other.ScoreCAM, network, "layer2.-1", pixels, WANTED))


@pytest.mark.parametrize("path", ["layer2.-1", pytest.param("layer4.-1", marks=only_soaking)])
def test_ablationcam_equals_the_grad_cam_package(network, pixels: Tensor, path: str):
    found = AblationCAM(network, [path]).layer_maps(pixels, TARGETS).maps[0]
    same(found, grad_cam_package(other.AblationCAM, network, path, pixels, WANTED))


@pytest.mark.parametrize("path", LAYERS)
def test_shapleycam_equals_the_grad_cam_package(network, pixels: Tensor, path: str):
    soften(network)
    found = ShapleyCAM(network, [path]).layer_maps(pixels, TARGETS).maps[0]
    targets = [ClassifierOutputReST(int(t)) for t in TARGETS]
    same(found, grad_cam_package(other.ShapleyCAM, network, path, pixels, targets))
    plain = GradCAM(network, [path], score="rest").layer_maps(pixels, TARGETS).maps[0]
    assert not torch.allclose(scale_to_unit(found)[0], scale_to_unit(plain)[0], atol=1e-4), "second order counts"


@pytest.mark.parametrize("path", LAYERS)
@pytest.mark.parametrize(
    ("ours", "theirs"), [(GradCAM, other.GradCAM), (HiResCAM, other.HiResCAM), (LayerCAM, other.LayerCAM)]
)
def test_the_softmax_score_equals_the_grad_cam_package(ours, theirs, network, pixels: Tensor, path: str):
    soften(network)
    targets = [ClassifierOutputSoftmaxTarget(int(t)) for t in TARGETS]
    found = ours(network, [path], score="softmax").layer_maps(pixels, TARGETS).maps[0]
    same(found, grad_cam_package(theirs, network, path, pixels, targets))


@pytest.mark.parametrize("path", LAYERS)
def test_finercam_equals_the_grad_cam_package(network, pixels: Tensor, path: str):
    """Theirs explains the arg-max. Probabilities that weigh the comparisons are part of the score, as there."""
    soften(network)
    cam = other.FinerCAM(network, [layer_of(network, path)])
    raw: list[np.ndarray] = []
    original = cam.base_cam.get_cam_image
    cam.base_cam.get_cam_image = lambda *a, **k: raw.append(original(*a, **k)) or raw[-1]
    cam(pixels)
    same(FinerCAM(network, [path]).layer_maps(pixels).maps[0], raw[0])


@pytest.mark.parametrize("path", LAYERS)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(EigenCAM, other.EigenCAM), (EigenGradCAM, other.EigenGradCAM), (KPCACAM, other.KPCA_CAM)],
)
def test_projections_equal_the_grad_cam_package_up_to_sign(ours, theirs, network, pixels: Tensor, path: str):
    expected = torch.as_tensor(grad_cam_package(theirs, network, path, pixels))
    found = ours(network, [path]).layer_maps(pixels, TARGETS).maps[0]
    for mine, their in zip(found, expected, strict=True):
        candidates = [scale_to_unit(v.relu()[None])[0] for v in (their, -their)]
        assert min((scale_to_unit(mine[None])[0] - c).abs().max() for c in candidates) <= 1e-4


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(GradCAM, "GradCAM"), (XGradCAM, "XGradCAM"), (LayerCAM, "LayerCAM")],
)
def test_equals_torchcam(ours, theirs: str, network, pixels: Tensor):
    with getattr(torchcam.methods, theirs)(network, layer_of(network, "layer4.-1")) as extractor:
        scores = network(pixels)
        (expected,) = extractor(TARGETS.tolist(), scores, normalized=False)
    same(ours(network, ["layer4.-1"]).layer_maps(pixels, TARGETS).maps[0], expected.detach())


def test_cam_equals_torchcam(network, pixels: Tensor):
    """On maps of 5 × 6, negative values included: neither has a ReLU."""
    pixels = nn.functional.interpolate(pixels, (144, 192), mode="bilinear")
    layer = layer_of(network, "layer4.-1")
    with torchcam.methods.CAM(network, layer, fc_layer=network.backbone.fc) as extractor:
        scores = network(pixels)
        (expected,) = extractor(TARGETS.tolist(), scores, normalized=False)
    found = CAM(network, ["layer4.-1"]).layer_maps(pixels, TARGETS).maps[0]
    assert found.shape == (6, 5, 6)
    assert (found < 0).any()
    torch.testing.assert_close(found, expected.detach(), atol=1e-2, rtol=1e-4)


def test_gradcam_equals_captum(network, pixels: Tensor):
    cam = captum.attr.LayerGradCam(network, layer_of(network, "layer2.-1"))
    expected = cam.attribute(pixels, TARGETS, relu_attributions=True)[:, 0]
    same(GradCAM(network, ["layer2.-1"]).layer_maps(pixels, TARGETS).maps[0], expected.detach())


def test_gradient_x_input_equals_captum(network, pixels: Tensor):
    expected = captum.attr.InputXGradient(network).attribute(pixels.clone().requires_grad_(), TARGETS)
    found = GradientXInput(network, smoothing=0.0).input_maps(pixels, TARGETS)[0]
    same(found, expected.detach().abs().sum(1))


def test_integrated_gradients_equal_captum(network, pixels: Tensor):
    expected = captum.attr.IntegratedGradients(network).attribute(
        pixels, target=TARGETS, n_steps=20, method="gausslegendre"
    )
    found = IntegratedGradients(network, steps=20, smoothing=0.0).input_maps(pixels, TARGETS)[0]
    same(found, expected.detach().abs().sum(1))


def test_smoothgrad_equals_captum_with_the_same_noise(network, pixels: Tensor, monkeypatch):
    from gradsam_exp.explainers import attribution

    noise = [torch.randn(1, *pixels.shape[1:], generator=torch.Generator().manual_seed(k)) for k in range(3)]
    monkeypatch.setattr(attribution, "noisy_copies", lambda x, *_: [x + n for n in noise])
    saliency = captum.attr.Saliency(network)
    expected = torch.stack([saliency.attribute(pixels + n, TARGETS, abs=False) for n in noise]).mean(0)
    same(SmoothGrad(network, smoothing=0.0).input_maps(pixels, TARGETS)[0], expected.detach().abs().sum(1))


@pytest.mark.parametrize("scaling", ["channel", "none"])
def test_fullgrad_equals_the_grad_cam_package(network, pixels: Tensor, monkeypatch, scaling: str):
    """As that package is, which scales each channel; and with its scaling taken out."""
    if scaling == "none":
        monkeypatch.setattr(
            "pytorch_grad_cam.fullgrad_cam.scale_accross_batch_and_channels",
            lambda values, size: nn.functional.interpolate(
                torch.as_tensor(values), (size[1], size[0]), mode="bilinear"
            ).numpy(),
        )
    with other.FullGrad(network, []) as cam:
        expected = cam(pixels.clone(), WANTED)
    assert len(cam.bias_data) == 20, "every batch norm"
    same(FullGrad(network, scaling=scaling).input_maps(pixels, TARGETS)[0], expected)


def test_without_noise_smoothgradcam_is_gradcam_plus_plus(network, pixels: Tensor):
    smooth = SmoothGradCAMPlusPlus(network, ["layer2.-1"], samples=2, noise=0.0)
    expected = GradCAMPlusPlus(network, ["layer2.-1"]).layer_maps(pixels, TARGETS).maps[0]
    same(smooth.layer_maps(pixels, TARGETS).maps[0], expected)
