"""Layers of transformers: their maps against the grad-cam package, and what is said where there are none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import pytorch_grad_cam as other
import torch
import torchvision
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

from gradsam_exp.classifiers.classifier import without_weights
from gradsam_exp.errors import InputError
from gradsam_exp.explainers.activation import EigenCAM
from gradsam_exp.explainers.attribution import FullGrad
from gradsam_exp.explainers.base import LayerExplainer, scale_to_unit
from gradsam_exp.explainers.gradient import ElementWiseGradCAM, GradCAM, LayerCAM, ShapleyCAM
from gradsam_exp.explainers.layers import find_layer
from gradsam_exp.explainers.perturbation import AblationCAM, ScoreCAM

TARGETS = torch.tensor([0, 1, 2])
# Not HiResCAM: before a LayerNorm, gradient × activation adds up to nothing but rounding.
METHODS = [
    (GradCAM, other.GradCAM), (ElementWiseGradCAM, other.GradCAMElementWise), (LayerCAM, other.LayerCAM),
]  # fmt: skip


def vit() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5)


def swin() -> nn.Module:
    return torchvision.models.SwinTransformer([2, 2], 8, [1, 1], [2, 2], [4, 4], num_classes=5)


def swin_v2() -> nn.Module:
    return torchvision.models.SwinTransformer(
        [2, 2], 8, [1, 1], [2, 2], [4, 4], num_classes=5, block=SwinTransformerBlockV2,
        downsample_layer=PatchMergingV2,
    )  # fmt: skip


def convnext() -> nn.Module:
    return torchvision.models.ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=5)


def resnet() -> nn.Module:
    return torchvision.models.resnet18(num_classes=5)


def random(build: Callable[[], nn.Module]) -> nn.Module:
    """With weights that let every layer count."""
    torch.manual_seed(0)
    model = build().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def pictures(height: int, width: int) -> Tensor:
    return torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(1))


def grad_cam_package(method, model: nn.Module, path: str, pixels: Tensor, reshape) -> Tensor:
    """The raw map, before that package resizes it."""
    with method(model, [find_layer(model, path)], reshape_transform=reshape) as cam:
        raw: list[np.ndarray] = []
        original = cam.get_cam_image
        cam.get_cam_image = lambda *a, **k: raw.append(original(*a, **k)) or raw[-1]
        cam(pixels, [ClassifierOutputTarget(int(t)) for t in TARGETS])
    return torch.as_tensor(raw[0]).clamp(min=0)


def same(found: Tensor, expected: Tensor, grid: tuple[int, int]) -> None:
    assert tuple(found.shape) == tuple(expected.shape) == (3, *grid)
    assert (scale_to_unit(found)[0] - scale_to_unit(expected)[0]).abs().max() <= 1e-4
    assert (found.amax((1, 2)) > 0).any(), "empty maps would prove little"


def turned(values: Tensor) -> Tensor:
    return values.permute(0, 3, 1, 2)


@pytest.mark.parametrize(("ours", "theirs"), METHODS)
@pytest.mark.parametrize(
    ("path", "reshape", "grid"),
    [
        ("features.0.0", None, (16, 24)),
        ("features.0", turned, (16, 24)),
        ("features.0.-1", turned, (16, 24)),
        ("features.1", turned, (16, 24)),
        ("features.1.-1", turned, (16, 24)),
        ("features.1.-1.norm1", turned, (16, 24)),
        ("features.1.-1.mlp", turned, (16, 24)),
        ("features.1.-1.mlp.0", turned, (16, 24)),
        ("features.2", turned, (8, 12)),
        ("features.2.reduction", turned, (8, 12)),
        ("features.3.-1.attn", turned, (8, 12)),
        ("features", turned, (8, 12)),
        ("norm", turned, (8, 12)),
        ("permute", None, (8, 12)),
    ],
)
@pytest.mark.parametrize("build", [swin, swin_v2])
def test_layers_of_a_swin_equal_the_grad_cam_package(ours, theirs, build, path: str, reshape, grid):
    model, pixels = random(build), pictures(32, 48)
    expected = grad_cam_package(theirs, model, path, pixels, reshape)
    same(ours(model, [path]).layer_maps(pixels, TARGETS).maps[0], expected, grid)


@pytest.mark.parametrize(("ours", "theirs"), METHODS)
@pytest.mark.parametrize(
    "path", ["encoder.layers.encoder_layer_1.ln_1", "encoder.layers.0", "encoder.layers.0.mlp"]
)
def test_layers_of_a_vit_equal_the_grad_cam_package(ours, theirs, path: str):
    model, pixels = random(vit), pictures(32, 32)

    def grid(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].reshape(3, 4, 4, 16).permute(0, 3, 1, 2)

    expected = grad_cam_package(theirs, model, path, pixels, grid)
    same(ours(model, [path]).layer_maps(pixels, TARGETS).maps[0], expected, (4, 4))


@pytest.mark.parametrize(
    ("path", "reshape"),
    [("features.1.0", None), ("features.1.0.block.0", None), ("features.1.0.block.2", turned),
     ("features.1.0.block.5", turned), ("features.1.0.block.6", None), ("features.2.0", None)],
)  # fmt: skip
def test_layers_of_a_convnext_equal_the_grad_cam_package(path: str, reshape):
    model, pixels = random(convnext), pictures(32, 48)
    expected = grad_cam_package(other.GradCAM, model, path, pixels, reshape)
    same(GradCAM(model, [path]).layer_maps(pixels, TARGETS).maps[0], expected, (8, 12))


@pytest.mark.parametrize("method", [EigenCAM, AblationCAM, ScoreCAM, ShapleyCAM])
@pytest.mark.parametrize(
    ("build", "path", "grid"), [(vit, "encoder.layers.-1.ln_1", (4, 4)), (swin, "features.1.-1", (16, 16))]
)
def test_other_explainers_of_transformers(method: type[LayerExplainer], build, path: str, grid):
    explainer = method(random(build), [path])
    found = explainer.layer_maps(pictures(32, 32), TARGETS).maps[0]
    assert tuple(found.shape) == (3, *grid)
    assert explainer(pictures(32, 32)).values.amax((1, 2)).tolist() == [1, 1, 1]


def test_shapleycam_of_a_vit_written_out():
    """The second derivative goes through attention, where the fast kernels have none."""
    model, pixels = random(vit), pictures(32, 32)
    layer = model.encoder.layers[1].ln_1
    attention = model.encoder.layers[1].self_attention
    found = ShapleyCAM(model, ["encoder.layers.-1.ln_1"], score="logit").layer_maps(pixels, TARGETS).maps[0]
    plain = GradCAM(model, ["encoder.layers.-1.ln_1"]).layer_maps(pixels, TARGETS).maps[0]
    assert not torch.allclose(scale_to_unit(found)[0], scale_to_unit(plain)[0], atol=1e-4), "second order counts"

    kept: list[Tensor] = []
    layer.register_forward_hook(lambda *args: kept.append(args[2]))
    step_by_step = type(attention).forward
    attention.forward = lambda q, k, v, **_: step_by_step(attention, q, k, v, need_weights=True)
    score = model(pixels).gather(1, TARGETS[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, kept[0], create_graph=True)
    (product,) = torch.autograd.grad(gradient, kept[0], grad_outputs=kept[0])
    tokens, weights = kept[0].detach()[:, 1:], (gradient - product / 2).detach()[:, 1:].mean(1)
    expected = torch.einsum("btc,bc->bt", tokens, weights).relu().reshape(3, 4, 4)
    same(found, expected, (4, 4))


@pytest.mark.parametrize(
    ("method", "build", "path", "message"),
    [
        (GradCAM, vit, "heads", r"heads \(Sequential\) gives 5 numbers.* no rows and columns; take one that"),
        (EigenCAM, swin, "head", r"head \(Linear\) gives 5 numbers.* no rows and columns"),
        (GradCAM, vit, "encoder.layers.-1.self_attention", r"self_attention gives a tuple, which has no rows"),
        (EigenCAM, swin_v2, "features.1.-1.attn.cpb_mlp", r"cpb_mlp does not give one map for each image"),
        (EigenCAM, swin, "features.1.-1.attn.qkv", r"qkv is not used when the network runs"),
        (GradCAM, vit, "encoder.layers.-1", r"only the class token goes on.*such as encoder\.layers\.-1\.ln_1"),
        (AblationCAM, vit, "encoder.layers.-1.mlp", r"only the class token goes on"),
        (ShapleyCAM, vit, "encoder.ln", r"only the class token goes on"),
        (AblationCAM, resnet, "layer1.0.relu", r"relu is used 2 times"),
    ],
)  # fmt: skip
def test_layers_without_maps_are_refused_before_an_image_is_explained(method, build, path: str, message: str):
    explainer = method(without_weights(build).eval(), [path])
    with pytest.raises(InputError, match=rf"^explainer\.target_layers=.*{message}"):
        explainer.check((32, 32))


@pytest.mark.parametrize("method", [GradCAM, EigenCAM, AblationCAM])
def test_a_layer_that_gives_no_tensor_is_named(method: type[LayerExplainer]):
    explainer = method(random(vit), ["encoder.layers.-1.self_attention"])
    with pytest.raises(InputError, match="target layer MultiheadAttention gives a tuple, not a tensor"):
        explainer(pictures(32, 32))


@pytest.mark.parametrize(
    ("method", "build", "path"),
    [
        (GradCAM, vit, "encoder.layers.-1.ln_1"),
        (GradCAM, vit, "encoder.layers.0"),
        (GradCAM, vit, "conv_proj"),
        (EigenCAM, vit, "encoder.layers.-1"),
        (ScoreCAM, vit, "encoder.layers.-1"),
        (GradCAM, swin, "norm"),
        (GradCAM, resnet, "layer1.0.relu"),
        (AblationCAM, resnet, "layer2.-1"),
    ],
)
def test_layers_with_maps_are_not_refused(method, build, path: str):
    method(without_weights(build).eval(), [path]).check((32, 32))


def test_the_layers_that_are_refused_give_empty_heatmaps():
    model, pixels = random(vit), pictures(32, 32)
    for path in ("encoder.layers.-1", "encoder.layers.-1.mlp", "encoder.ln"):
        assert GradCAM(model, [path])(pixels).empty.all()
    assert not GradCAM(model, ["encoder.layers.-1.ln_1"])(pixels).empty.all()


def test_one_layer_needs_no_list():
    model, pixels = random(swin), pictures(32, 32)
    alone, listed = (GradCAM(model, layers)(pixels).values for layers in ("features.1.-1", ["features.1.-1"]))
    assert torch.equal(alone, listed)


def test_a_network_that_calculates_while_it_is_built_has_an_outline():
    network = without_weights(lambda: torchvision.models.regnet_y_400mf(num_classes=5))
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}


def test_fullgrad_says_that_it_leaves_biases_out():
    assert FullGrad(resnet()).caveat is None
    caveat = FullGrad(vit()).caveat
    assert caveat is not None
    assert caveat.endswith("leaves out the biases of the layer norms and linear layers of VisionTransformer")
