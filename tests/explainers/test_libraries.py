"""Networks of timm and transformers: layers that are found, maps against the grad-cam package, attention."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import pytorch_grad_cam as other
import timm
import torch
import transformers as hf
from timm.models.maxxvit import MaxxVit, MaxxVitCfg
from torch import Tensor, nn

from gradsam_exp.errors import InputError
from gradsam_exp.explainers.attention import AttentionRelevance, AttentionRollout, attention_matrices, token_map
from gradsam_exp.explainers.dry_run import default_frame, find_target_layers
from gradsam_exp.explainers.gradient import ElementWiseGradCAM, GradCAM
from gradsam_exp.explainers.perturbation import AblationCAM
from tests.explainers.test_transformers import TARGETS, grad_cam_package, random, same, turned

SMALL = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32,
         "image_size": 32, "patch_size": 8}  # fmt: skip
PLAIN_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}


def timm_model(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=5, **options)


class Logits(nn.Module):
    """What the grad-cam package can explain: a network that returns logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(pixels).logits


def maxvit() -> nn.Module:
    config = MaxxVitCfg(embed_dim=(32, 32), depths=(1, 1), block_type=("M", "M"), stem_width=8)
    return MaxxVit(config, img_size=64, num_classes=5)


def hf_vit() -> nn.Module:
    return hf.ViTForImageClassification(hf.ViTConfig(**SMALL, num_labels=5))


def hf_deit() -> nn.Module:
    return hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**SMALL, num_labels=5))


def hf_registers() -> nn.Module:
    small = {key: value for key, value in SMALL.items() if key != "intermediate_size"}
    config = hf.Dinov2WithRegistersConfig(**small, num_register_tokens=4, num_labels=5)
    return hf.Dinov2WithRegistersForImageClassification(config)


def hf_resnet() -> nn.Module:
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=5)
    return hf.ResNetForImageClassification(config)


class Clip(nn.Module):
    """CLIP's image–text logits, with the texts encoded before."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**SMALL, projection_dim=8))
        self.texts = nn.Parameter(torch.zeros(5, 8))

    def forward(self, pixels: Tensor) -> SimpleNamespace:
        images = nn.functional.normalize(self.vision(pixels).image_embeds, dim=1)
        return SimpleNamespace(logits=10 * images @ nn.functional.normalize(self.texts, dim=1).T)


def clip_linear() -> nn.Module:
    return hf.CLIPForImageClassification(
        hf.CLIPConfig(vision_config=SMALL, text_config={"num_hidden_layers": 1, "vocab_size": 9}, num_labels=5)
    )


def grid(prefix: int) -> Callable[[Tensor], Tensor]:
    return lambda tokens: tokens[:, prefix:].transpose(1, 2).unflatten(2, (4, 4))


SWIN = {"img_size": 64, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
# A network, whether it returns more than logits, its input's side; the layer that is found, its reshape and side.
NETWORKS = {
    "timm ViT": (timm_model("vit_tiny_patch16_224", **PLAIN_VIT), False, 32, "blocks.1.norm1", grid(1), 4),
    "timm ViT, mean": (
        timm_model("vit_tiny_patch16_224", **PLAIN_VIT, global_pool="avg", class_token=False),
        False, 32, "blocks", grid(0), 4,
    ),
    "timm ViT, registers": (
        timm_model("vit_tiny_patch16_224", **PLAIN_VIT, reg_tokens=4), False, 32, "blocks.1.norm1", grid(5), 4,
    ),
    "timm DeiT, distilled": (
        timm_model("deit_tiny_distilled_patch16_224", **PLAIN_VIT), False, 32, "blocks.1.norm1", grid(2), 4,
    ),
    "timm Swin": (timm_model("swin_tiny_patch4_window7_224", **SWIN), False, 64, "norm", turned, 8),
    "timm ConvNeXt": (
        timm_model("convnext_tiny", depths=(1, 1, 1, 1), dims=(8, 8, 8, 16)), False, 64, "stages", None, 2,
    ),
    "timm MaxViT": (maxvit, False, 64, "norm", None, 8),
    "timm EfficientNet": (timm_model("efficientnet_b0"), False, 64, "bn2", None, 2),
    "timm MobileNetV3": (timm_model("mobilenetv3_small_050"), False, 64, "blocks", None, 2),
    "HF ViT": (hf_vit, True, 32, "vit.layers.1.layernorm_before", grid(1), 4),
    "HF DeiT, distilled": (hf_deit, True, 32, "deit.layers.1.layernorm_before", grid(2), 4),
    "HF DINOv2, registers": (
        hf_registers, True, 32, "dinov2_with_registers.encoder.layer.1.norm1", grid(5), 4,
    ),
    "HF ResNet": (hf_resnet, True, 64, "resnet.encoder.stages.1", None, 8),
    "CLIP, linear head": (clip_linear, True, 32, "vision_model.encoder.layers.1.layer_norm1", grid(1), 4),
    "CLIP, texts": (Clip, True, 32, "vision.vision_model.encoder.layers.1.layer_norm1", grid(1), 4),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_the_layer_that_is_found_gives_the_grad_cam_packages_map(name: str):
    build, wrapped, side, layer, reshape, cells = NETWORKS[name]
    model = random(build)
    pixels = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))
    assert find_target_layers(model, (side, side)) == [layer]
    shown, path = (Logits(model), f"network.{layer}") if wrapped else (model, layer)
    for ours, theirs in ((GradCAM, other.GradCAM), (ElementWiseGradCAM, other.GradCAMElementWise)):
        expected = grad_cam_package(theirs, shown, path, pixels, reshape)
        same(ours(model, "auto").layer_maps(pixels, TARGETS).maps[0], expected, (cells, cells))


@pytest.mark.parametrize("name", ["timm ViT", "timm Swin", "timm ConvNeXt", "HF ViT", "HF ResNet", "CLIP, texts"])
def test_ablation_equals_the_network_run_without_each_channel(name: str):
    build, _, side, layer, _, _ = NETWORKS[name]
    model = random(build)
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([1, 3])
    explainer = AblationCAM(model, [layer])
    found = explainer.layer_maps(pixels, targets).maps[0]
    module, whole = explainer.layers[0], explainer.run(pixels).gather(1, targets[:, None])[:, 0]
    kept: list[Tensor] = []

    def without(channel: int) -> Tensor:
        def change(_: nn.Module, __: object, output: Tensor) -> Tensor:
            kept.append(explainer.as_maps(output, module, pixels))
            changed = output.clone()
            explainer.as_maps(changed, module, pixels)[:, channel] = 0
            return changed

        handle = module.register_forward_hook(change)
        try:
            return explainer.run(pixels).gather(1, targets[:, None])[:, 0]
        finally:
            handle.remove()

    with torch.no_grad():
        without(0)
        scores = torch.stack([without(channel) for channel in range(kept[0].shape[1])], 1)
    expected = torch.einsum("bk,bkhw->bhw", (whole[:, None] - scores) / whole[:, None], kept[0]).relu()
    torch.testing.assert_close(found, expected.detach(), atol=1e-4, rtol=1e-3)


WITH_ATTENTION = {
    "timm ViT": 1, "timm ViT, registers": 5, "timm DeiT, distilled": 2, "HF ViT": 1, "HF DeiT, distilled": 2,
    "HF DINOv2, registers": 5, "CLIP, linear head": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", WITH_ATTENTION)
def test_rollout_and_relevance_of_other_libraries(name: str):
    """With the matrices that the libraries give themselves when their fused attention is off."""
    build, _, side, _, _, _ = NETWORKS[name]
    model, prefix = random(build), WITH_ATTENTION[name]
    pixels = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))
    model.requires_grad_(False)
    with attention_matrices(model) as matrices, torch.no_grad():
        rollout, _, logits = AttentionRollout(model).relate(pixels, TARGETS, matrices)
    own = _own_matrices(model, pixels)
    assert [tuple(m.shape) for m in own] == [(3, 2, 16 + prefix, 16 + prefix)] * 2
    first, second = ((m.mean(1) + torch.eye(16 + prefix)) / 2 for m in own)
    torch.testing.assert_close(rollout, second @ first, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits, AttentionRollout(model).run(pixels), atol=1e-4, rtol=1e-4)
    assert token_map(rollout, (32, 32), prefix).shape == (3, 4, 4)
    torch.testing.assert_close(token_map(rollout, (32, 32), prefix).flatten(1), rollout[:, 0, prefix:])

    with attention_matrices(model) as matrices:
        scores = AttentionRollout(model).run(pixels).gather(1, TARGETS[:, None]).sum()
        gradients = torch.autograd.grad(scores, matrices)
    expected = torch.eye(16 + prefix)
    for matrix, gradient in zip(own, gradients, strict=True):
        expected = expected + (gradient * matrix).clamp(min=0).mean(1) @ expected
    with attention_matrices(model) as matrices:
        relevance, _, _ = AttentionRelevance(model).relate(pixels, TARGETS, matrices)
    torch.testing.assert_close(relevance, expected, atol=1e-5, rtol=1e-4)
    assert AttentionRelevance(model)(pixels, TARGETS).values.shape == (3, 32, 32)


@pytest.mark.parametrize("name", WITH_ATTENTION)
def test_attention_between_patches_is_the_libraries_own(name: str):
    build, _, side, _, _, _ = NETWORKS[name]
    model, prefix = random(build), WITH_ATTENTION[name]
    pixels = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))
    first, second = (m.mean(1)[:, prefix:, prefix:].detach() for m in _own_matrices(model, pixels))
    for layers, expected in ((1, second), (2, (first + second) / 2), (8, (first + second) / 2)):
        found = AttentionRollout(model).patch_attention(pixels, layers)
        assert found.shape == (3, 4, 4, 4, 4)
        torch.testing.assert_close(found.reshape(3, 16, 16), expected, atol=1e-5, rtol=1e-4)


def _own_matrices(model: nn.Module, pixels: Tensor) -> list[Tensor]:
    if isinstance(model, hf.PreTrainedModel):
        before = model.config._attn_implementation
        model.set_attn_implementation("eager")
        found = list(model(pixels, output_attentions=True).attentions)
        model.set_attn_implementation(before)
        return found
    found, hooks = [], []
    for block in model.blocks:
        block.attn.fused_attn = False
        hooks.append(block.attn.attn_drop.register_forward_hook(lambda *args: found.append(args[2])))
    model(pixels)
    for block, hook in zip(model.blocks, hooks, strict=True):
        block.attn.fused_attn = True
        hook.remove()
    return found


def test_eager_attention_is_seen_as_well():
    model = random(hf_vit)
    pixels = torch.randn(2, 3, 32, 32)
    fused = AttentionRollout(model)(pixels).values
    model.set_attn_implementation("eager")
    torch.testing.assert_close(AttentionRollout(model)(pixels).values, fused, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "rows"),
    [("timm ViT", [0]), ("timm DeiT, distilled", [0, 1]), ("timm ViT, mean", range(16)),
     ("HF DINOv2, registers", [0, *range(5, 21)]), ("CLIP, linear head", range(1, 17))],
)  # fmt: skip
def test_the_rows_of_the_tokens_that_the_logits_are_made_of_count(name: str, rows):
    build, _, side, _, _, _ = NETWORKS[name]
    model = random(build)
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    explainer = AttentionRollout(model)
    with attention_matrices(model) as matrices:
        relation, _, _ = explainer.relate(pixels, None, matrices)
    found = explainer.explain(pixels, None).maps[0]
    expected = relation[:, list(rows), -16:].mean(1).reshape(2, 4, 4)
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize("name", ["timm Swin", "timm MaxViT"])
@pytest.mark.parametrize("method", [AttentionRollout, AttentionRelevance])
def test_attention_within_windows_is_refused(name: str, method):
    build, _, side, _, _, _ = NETWORKS[name]
    with pytest.raises(InputError, match=r"attention over all tokens.*windows.*explainer=gradcam"):
        method(build().eval())(torch.randn(2, 3, side, side))
    with pytest.raises(InputError, match=r"attention over all tokens"):
        method(build().eval().to("meta")).check((side, side))


def test_the_size_that_a_network_is_made_for():
    assert default_frame(hf_vit()) == (32, 32)
    assert default_frame(timm.create_model("swinv2_tiny_window8_256", depths=[1], num_heads=[1], embed_dim=8)) == (
        256,
        256,
    )
    assert default_frame(nn.Identity()) == (224, 224)
