"""Explainers against their definitions written out here, where no other package has the same one.

Written plainly, image by image, with ordinary backward passes through the whole network.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchcam.methods
from torch import Tensor, nn

from gradsam_exp.explainers.activation import CAM, EigenCAM
from gradsam_exp.explainers.attribution import FullGrad
from gradsam_exp.explainers.base import scale_to_unit
from gradsam_exp.explainers.gradient import SmoothGradCAMPlusPlus, noisy_copies
from gradsam_exp.explainers.perturbation import RISE, AblationCAM
from gradsam_exp.explainers.projection import first_component

TARGETS = torch.tensor([0, 1, 2, 1])


class Small(nn.Module):
    """Biases in convolutions and batch norms, negative evidence, and maps of 10 × 12 in ``features``."""

    def __init__(self) -> None:
        super().__init__()
        first, norm = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
        second = nn.Conv2d(5, 8, 3, padding=1, bias=False)
        self.features = nn.Sequential(first, norm, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU())
        self.head = nn.Linear(8, 4)
        for parameter in self.parameters():
            nn.init.normal_(parameter)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(3)
    return Small().eval()


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(len(TARGETS), 3, 20, 24, generator=torch.Generator().manual_seed(4))


def full_gradients(network: nn.Module, image: Tensor, target: int) -> list[Tensor]:
    """``x·∂y_c/∂x``, then ``b·∂y_c/∂z`` of each convolution and batch norm, each ``(channels, h, w)``.

    The gradient is that of zeros added to a layer's output; the bias is what the layer makes of zeros.
    """
    probes, biases = [], []

    def add_probe(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        biases.append(layer.forward(torch.zeros_like(inputs[0])).detach()[0])
        probes.append(torch.zeros_like(output, requires_grad=True))
        return output + probes[-1]

    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
    handles = [layer.register_forward_hook(add_probe) for layer in layers]
    leaf = image[None].clone().requires_grad_()
    own, *gradients = torch.autograd.grad(network(leaf)[0, target], [leaf, *probes])
    for handle in handles:
        handle.remove()
    return [image * own[0], *(bias * gradient[0] for bias, gradient in zip(biases, gradients, strict=True))]


def authors_psi(term: np.ndarray) -> np.ndarray:
    """All channels of a layer share one minimum and one maximum."""
    size = np.abs(term)
    return (size - size.min()) / (size.max() - size.min())


def psi_of_each_channel(term: np.ndarray) -> np.ndarray:
    return np.stack([authors_psi(channel) if np.ptp(np.abs(channel)) > 0 else 0 * channel for channel in term])


@pytest.mark.parametrize(
    ("scaling", "psi"),
    [("layer", authors_psi), ("channel", psi_of_each_channel), ("none", np.abs)],
)
def test_fullgrad_written_out(network, pixels: Tensor, scaling: str, psi: Callable[[np.ndarray], np.ndarray]):
    found = FullGrad(network, scaling=scaling).input_maps(pixels, TARGETS)[0]
    for image, target, values in zip(pixels, TARGETS.tolist(), found, strict=True):
        expected = torch.zeros(20, 24)
        for term in full_gradients(network, image, target):
            if term.any():  # the convolution without a bias has no term
                scaled = torch.from_numpy(psi(term.numpy()))[None]
                expected += F.interpolate(scaled, (20, 24), mode="bilinear", align_corners=False)[0].sum(0)
        torch.testing.assert_close(values, expected, atol=1e-4, rtol=1e-4)


def test_the_full_gradients_above_add_up_to_the_score(network, pixels: Tensor):
    """The paper's completeness, with the last layer's bias: a check of what FullGrad is compared with."""
    for image, target in zip(pixels, TARGETS.tolist(), strict=True):
        total = sum(term.sum() for term in full_gradients(network, image, target)) + network.head.bias[target]
        torch.testing.assert_close(total, network(image[None])[0, target], atol=1e-4, rtol=1e-4)


def test_fullgrad_scales_as_its_authors_do_unless_told_otherwise(network, pixels: Tensor):
    """And the three definitions are three maps."""
    maps = {s: FullGrad(network, scaling=s)(pixels, TARGETS).values for s in ("layer", "channel", "none")}
    assert torch.equal(FullGrad(network)(pixels, TARGETS).values, maps["layer"])
    for one, other in (("layer", "channel"), ("layer", "none"), ("channel", "none")):
        assert (maps[one] - maps[other]).abs().amax((1, 2)).min() > 0.1


@pytest.mark.parametrize("score", ["probability", "logit", "margin"])
def test_rise_written_out(network, pixels: Tensor, score: str):
    """Eq. 6: Σ s_i M_i / (keep·N); for scores that are no probabilities their mean is taken off first."""
    explainer = RISE(network, score=score, masks=30, cells=4, keep=0.4, chunk=7)
    found = explainer.input_maps(pixels, TARGETS)[0]
    masks = explainer.random_masks((20, 24))
    for image, target, values in zip(pixels, TARGETS.tolist(), found, strict=True):
        scores = []
        for mask in masks:
            logits = network((image * mask)[None])[0].detach().double().numpy()
            if score == "probability":
                scores.append(np.exp(logits[target]) / np.exp(logits).sum())
            elif score == "logit":
                scores.append(logits[target])
            else:
                scores.append(logits[target] - np.delete(logits, target).max())
        offset = 0 if score == "probability" else np.mean(scores)
        expected = sum((s - offset) * mask.double().numpy() for s, mask in zip(scores, masks, strict=True))
        np.testing.assert_allclose(values.numpy(), expected / (0.4 * 30), atol=1e-4, rtol=1e-4)


def test_rise_does_not_mind_an_offset_of_the_logits(network, pixels: Tensor):
    """Otherwise negative scores would make every map empty."""
    explainer = RISE(network, score="logit", masks=50, cells=4)
    expected = explainer(pixels)
    with torch.no_grad():
        network.head.bias -= 1000
    found = explainer(pixels)
    assert not found.empty.any()
    assert torch.allclose(found.values, expected.values, atol=1e-3)


def test_the_masks_of_rise_cover_every_pixel_alike():
    masks = RISE(nn.Identity(), masks=4000, cells=4, keep=0.3).random_masks((40, 48))
    assert masks.shape == (4000, 40, 48)
    assert masks.min() == 0
    assert masks.max() == pytest.approx(1)
    assert (masks.mean(0) - 0.3).abs().max() < 5 * (0.3 * 0.7 / 4000) ** 0.5


def test_the_masks_of_rise_are_smooth():
    """Upsampled bilinearly: a cell is 12.5 px high and 15 px wide, and from 0 to 1 takes as long."""
    masks = RISE(nn.Identity(), masks=200, cells=4).random_masks((40, 48))
    assert masks.diff(dim=1).abs().max() == pytest.approx(1 / 12.5, abs=1e-5)
    assert masks.diff(dim=2).abs().max() == pytest.approx(1 / 15, abs=1e-5)


@pytest.mark.parametrize("axis", [1, 2])
def test_the_masks_of_rise_are_shifted(axis: int):
    """Unshifted masks are 0 or 1 in the middle of the cells and never between them, so ``E[M²]`` goes up and down
    by 0.083; shifted at random over most of a cell the places change roles.
    """
    masks = RISE(nn.Identity(), masks=4000, cells=4).random_masks((40, 48))
    inner = masks[:, 6:34, 8:42]  # no place in a border's half cell, whatever the shift
    moment = inner.square().mean((0, 3 - axis))
    assert moment.max() - moment.min() < 0.05


def test_the_masks_of_rise_depend_on_the_seed_alone():
    same, again, other = (RISE(nn.Identity(), masks=5, seed=s).random_masks((20, 24)) for s in (1, 1, 2))
    assert torch.equal(same, again)
    assert not torch.equal(same, other)


def derivatives(network: nn.Module, layer: nn.Module, image: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """Activations and gradient of one image, each ``(channels, h, w)``."""
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda m, i, output: kept.append(output))
    score = network(image[None])[0, target]
    handle.remove()
    return kept[0][0].detach(), torch.autograd.grad(score, kept[0])[0][0]


@pytest.mark.parametrize("whose", ["ours", "torchcam's"])
def test_smoothgradcam_written_out(network, pixels: Tensor, monkeypatch: pytest.MonkeyPatch, whose: str):
    """Ours is the paper's; torchcam's differs where the docstring says, and nowhere else.

    In float64 and with large logits, since denominators come near zero, where torchcam adds an ε.
    """
    network, pixels = network.double(), pixels.double()
    with torch.no_grad():
        network.head.weight.mul_(1000)
    copies = noisy_copies(pixels, 5, 0.2, 0)
    if whose == "ours":
        explainer = SmoothGradCAMPlusPlus(network, ["features.3"], samples=5, noise=0.2)
        found = explainer.layer_maps(pixels, TARGETS).maps[0]
    else:
        noise = iter([copy - pixels for copy in copies])
        with torchcam.methods.SmoothGradCAMpp(network, network.features[3], num_samples=5) as extractor:
            monkeypatch.setattr(torch.distributions.Normal, "sample", lambda self, size: next(noise))
            network(pixels)
            found = extractor(TARGETS.tolist(), normalized=False)[0].detach()
    for k, target in enumerate(TARGETS.tolist()):
        activation, _ = derivatives(network, network.features[3], pixels[k], target)
        gradients = [derivatives(network, network.features[3], copy[k], target)[1] for copy in copies]
        first, second, third = (torch.stack([g**power for g in gradients]).mean(0) for power in (1, 2, 3))
        total = activation.sum((1, 2), keepdim=True) * third
        if whose != "ours":
            first, total = gradients[-1], (activation * third).sum((1, 2), keepdim=True)
            activation, _ = derivatives(network, network.features[3], copies[-1][k], target)
        alpha = second / (2 * second + total)
        weights = (torch.nan_to_num(alpha) * first.clamp(min=0)).sum((1, 2))
        expected = (weights[:, None, None] * activation).sum(0).clamp(min=0)
        torch.testing.assert_close(
            scale_to_unit(found[k][None])[0], scale_to_unit(expected[None])[0], atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("score", ["logit", "margin", "rest"])
def test_cam_written_out(network, pixels: Tensor, score: str):
    """The weights add the maps up to the score itself, but for the bias; nothing is cut off below zero."""
    found = CAM(network, ["features"], score=score).layer_maps(pixels, TARGETS).maps[0]
    assert found.shape == (4, 10, 12)
    assert (found.amin((1, 2)) < 0).any()
    rows = network.head.weight.detach()
    for image, target, values in zip(pixels, TARGETS.tolist(), found, strict=True):
        maps, logits = network.features(image[None])[0].detach(), network(image[None])[0].detach()
        weights = rows[target]
        if score == "margin":
            others = [c for c in range(4) if c != target]
            weights = weights - rows[max(others, key=lambda c: float(logits[c]))]
        elif score == "rest":
            weights = 2 * weights - logits.softmax(0) @ rows
        expected = sum(w * channel for w, channel in zip(weights, maps, strict=True))
        torch.testing.assert_close(values, expected, atol=1e-4, rtol=1e-4)


def test_ablationcam_of_a_negative_score_is_turned_round(network, pixels: Tensor):
    """The denominator's sign: with the logit made positive by the head's bias alone, the other half is seen."""
    with torch.no_grad():
        least = network(pixels).argmin(1)
        assert (network(pixels).amin(1) < 0).all()
        negative = AblationCAM(network, ["features"]).layer_maps(pixels, least).maps[0]
        network.head.bias += 1000
        positive = AblationCAM(network, ["features"]).layer_maps(pixels, least).maps[0]
    assert not ((negative > 0) & (positive > 0)).any()
    assert (negative > 0).any()
    assert (positive > 0).any()


@pytest.mark.parametrize("shape", [(3, 6, 5), (40, 4, 5), (20, 4, 5)])
def test_the_first_component_is_that_of_a_singular_value_decomposition(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
):
    """Found from the smaller of the two Gram matrices: a 64×64 map has a pixels × pixels one of 134 MB."""
    values = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sides: list[int] = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda gram: sides.append(gram.shape[-1]) or eigh(gram))
    found = first_component(values)
    assert sides == [min(shape[0], shape[1] * shape[2])]
    for image, component in zip(values, found, strict=True):
        matrix = image.flatten(1).T - image.flatten(1).T.mean(0)
        left, sizes, _ = torch.linalg.svd(matrix, full_matrices=False)
        expected = left[:, 0] * sizes[0]
        if (expected * image.sum(0).flatten()).sum() < 0:
            expected = -expected
        torch.testing.assert_close(component.flatten(), expected)


def test_eigencam_of_a_constant_map_is_empty():
    found = EigenCAM(nn.Sequential(nn.Identity(), nn.Flatten()), ["0"])(torch.ones(1, 3, 8, 8), torch.tensor([0]))
    assert found.empty.tolist() == [True]
