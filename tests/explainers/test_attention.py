"""Attention explainers on a small ViT, against the definitions written out."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from gradsam_exp.errors import InputError
from gradsam_exp.explainers.attention import AttentionRelevance, AttentionRollout, attention_matrices, token_map


@pytest.fixture
def vit() -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5).eval()
    nn.init.normal_(model.heads.head.weight, std=0.3)
    return model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_network_is_the_same_while_its_attention_is_read(vit: nn.Module, images: torch.Tensor):
    expected = vit(images)
    with attention_matrices(vit) as matrices:
        found = vit(images)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert [tuple(m.shape) for m in matrices] == [(3, 2, 17, 17)] * 2
    torch.testing.assert_close(matrices[0].sum(-1), torch.ones(3, 2, 17))
    assert all("forward" not in module.__dict__ for module in vit.modules())
    attention = vit.encoder.layers[0].self_attention
    tokens = vit.encoder.layers[0].ln_1(torch.randn(3, 17, 16, generator=torch.Generator().manual_seed(2)))
    _, theirs = attention(tokens, tokens, tokens, average_attn_weights=False)
    with attention_matrices(vit) as matrices:
        attention(tokens, tokens, tokens)
    torch.testing.assert_close(matrices[0], theirs)


def test_rollout_written_out(vit: nn.Module, images: torch.Tensor):
    with attention_matrices(vit) as matrices, torch.no_grad():
        vit(images)
    first, second = ((m.mean(1) + torch.eye(17)) / 2 for m in matrices)
    expected = (second @ first)[:, 0, 1:].reshape(3, 4, 4)
    with attention_matrices(vit) as matrices:
        relation, _, _ = AttentionRollout(vit).relate(images, None, matrices)
    torch.testing.assert_close(token_map(relation, (32, 32)), expected, atol=1e-6, rtol=1e-4)


def test_relevance_written_out_with_frozen_weights(vit: nn.Module, images: torch.Tensor):
    targets = torch.tensor([0, 1, 2])
    with attention_matrices(vit) as matrices:
        gradients = torch.autograd.grad(vit(images).gather(1, targets[:, None]).sum(), matrices)
        relation = torch.eye(17).repeat(3, 1, 1)
        for matrix, gradient in zip(matrices, gradients, strict=True):
            relation = relation + (gradient * matrix).clamp(min=0).mean(1) @ relation
    vit.requires_grad_(False)
    with attention_matrices(vit) as matrices:
        found, _, _ = AttentionRelevance(vit).relate(images, targets, matrices)
    torch.testing.assert_close(found, relation.detach(), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("method", [AttentionRollout, AttentionRelevance])
def test_heatmaps_of_a_vit(method, vit: nn.Module, images: torch.Tensor):
    maps = method(vit)(images)
    assert maps.values.shape == (3, 32, 32)
    assert maps.values.amax((1, 2)).tolist() == [1, 1, 1]
    alone = method(vit)(images[1:2])
    assert torch.allclose(alone.values[0], maps.values[1], atol=1e-4)


def test_a_network_without_attention_is_refused(classifier):
    with pytest.raises(InputError, match=r"which resnet18 has not.*: use it with .* trained with model=vit_b_16"):
        AttentionRollout(classifier.to("meta")).check((32, 32))
    with pytest.raises(InputError, match=r"which ResNet has not"):
        AttentionRelevance(torchvision.models.resnet18())(torch.zeros(2, 3, 32, 32))


def test_without_a_class_token_all_rows_count():
    relation = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(token_map(relation, (32, 32)), relation.mean(1).reshape(2, 4, 4))
