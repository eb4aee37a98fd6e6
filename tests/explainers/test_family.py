"""What holds for every explainer by name, and what only some can do."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from gradsam_exp.classifiers.transform import Transform
from gradsam_exp.errors import InputError
from gradsam_exp.explainers.activation import CAM, FEM
from gradsam_exp.explainers.base import EXPLAINERS, scale_to_unit
from gradsam_exp.explainers.gradient import FinerCAM, GradCAM, GradCAMPlusPlus, RefineCAM
from gradsam_exp.explainers.layers import as_maps
from gradsam_exp.explainers.perturbation import RISE
from gradsam_exp.explainers.projection import first_component
from gradsam_exp.explainers.scores import class_score
from gradsam_exp.explainers.several import together
from gradsam_exp.explainers.suffix import Suffix
from gradsam_exp.types import ExampleBatch, Heatmaps
from tests.networks import held

INPUT = {"gradient_x_input", "smoothgrad", "integrated_gradients", "fullgrad", "rise"}


ATTENTION = {"attention_rollout", "attention_relevance"}


def node(name: str) -> dict:
    few = {"rise": {"masks": 20}, "smoothgrad": {"samples": 2}, "integrated_gradients": {"steps": 3},
           "smoothgradcam++": {"samples": 2}}  # fmt: skip
    if name == "ensemble":
        return {"name": name, "of": [node("gradcam"), node("eigencam")]}
    layers = {} if name in INPUT else {"target_layers": ["layer4.-1" if name == "cam" else "layer3.-1"]}
    return {"name": name, **layers, **few.get(name, {})}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in {"ablationcam", "fullgrad", "scorecam"} else [])
        for name in sorted(set(EXPLAINERS.names()) - ATTENTION)
    ],
)
def test_heatmaps_are_in_range_and_do_not_depend_on_the_batch(name: str, classifier, batch: ExampleBatch):
    explainer, before = EXPLAINERS.build(node(name), model=classifier), held(classifier)
    together = explainer(batch.images, batch.labels)
    assert together.values.shape == (8, 48, 64)
    assert together.values.min() >= 0
    assert together.values.max() == 1
    assert torch.equal(together.empty, ~together.values.flatten(1).any(1))
    assert not together.values.requires_grad
    assert torch.equal(together.targets, batch.labels)
    alone = explainer(batch.images[4:5], batch.labels[4:5])
    assert torch.allclose(alone.values[0], together.values[4], atol=1e-3)
    assert held(classifier) == before, "no hooks, no other forward methods"


def test_scores_worked_out_by_hand():
    logits, target = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([1])
    assert class_score("logit", logits, target).tolist() == [3.0]
    assert class_score("margin", logits, target).tolist() == [1.0]
    probability = F.softmax(logits, 1)[0, 1]
    assert class_score("softmax", logits, target)[0] == pytest.approx(float(probability))
    assert class_score("rest", logits, target)[0] == pytest.approx(3 + float(probability.log()))


def test_the_softmax_score_has_a_gradient_where_the_network_is_sure():
    """p(1 − p) with 1 − p = e⁻³⁰, which float32 rounds away."""
    logits = torch.tensor([[30.0, 0.0]], requires_grad=True)
    score = class_score("softmax", logits, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(score.sum(), logits)
    assert gradient[0].tolist() == pytest.approx([np.exp(-30), -np.exp(-30)], rel=1e-2)


def test_a_score_changes_what_is_explained(classifier, batch: ExampleBatch):
    logit, margin = (GradCAM(classifier, ["layer2.-1"], score=s)(batch.images).values for s in ("logit", "margin"))
    assert not torch.allclose(logit, margin, atol=1e-2)


def test_all_that_explain_a_class_have_a_choice_of_scores():
    """But for the one whose score is the method, and for what is made of other explainers."""
    no_class, own = {"eigencam", "kpcacam", "fem", "attention_rollout"}, {"finercam", "ensemble"}
    without = {n for n in EXPLAINERS.names() if "score" not in inspect.signature(EXPLAINERS.get(n)).parameters}
    assert without == no_class | own


def test_finercam_without_comparison_is_gradcam(classifier, batch: ExampleBatch):
    plain, finer = GradCAM(classifier, ["layer2.-1"]), FinerCAM(classifier, ["layer2.-1"], alpha=0.0)
    assert torch.allclose(plain(batch.images).values, finer(batch.images).values, atol=1e-3)


def test_layers_can_be_combined_by_their_maximum(classifier, batch: ExampleBatch):
    one, other, both = (
        GradCAM(classifier, paths, combine="max")(batch.images, batch.labels).values
        for paths in (["layer2.-1"], ["layer3.-1"], ["layer2.-1", "layer3.-1"])
    )
    assert torch.allclose(both, scale_to_unit(torch.maximum(one, other))[0], atol=1e-6)


def test_refinecam_is_the_product_of_the_layers_maps(classifier, batch: ExampleBatch):
    paths = ["layer1.-1", "layer3.-1"]
    one, other = (GradCAMPlusPlus(classifier, [path])(batch.images, batch.labels).values for path in paths)
    refined = RefineCAM(classifier, paths)
    assert refined.caveat is None
    assert torch.allclose(refined(batch.images, batch.labels).values, scale_to_unit(one * other)[0], atol=1e-5)
    assert "one layer is gradcam++" in str(RefineCAM(classifier, paths[:1]).caveat)


def test_an_ensemble_can_multiply_and_its_empty_members_do_not_vote():
    one, other, empty = (
        Heatmaps(values[None, None], torch.tensor([not values.any()]), torch.tensor([0]))
        for values in torch.tensor([[1.0, 0.5, 0.0, 0.8], [1.0, 0.5, 0.4, 0.0], [0.0, 0.0, 0.0, 0.0]])
    )
    assert together([one, other], "product").values.tolist() == [[[1.0, 0.25, 0.0, 0.0]]]
    assert torch.equal(together([one, empty], "product").values, one.values)
    assert together([empty, empty], "product").empty.tolist() == [True]


def test_fem_worked_out_by_hand():
    """Of 16 pixels: one 4 (μ = 0.25, σ = 0.97) stands out, eight 1 (0.5, 0.5) do not, two 2 (0.25, 0.66) do."""

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Identity()

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.features(pixels).mean((2, 3))

    pixels = torch.zeros(1, 3, 4, 4)
    pixels[0, 0, 1, 2], pixels[0, 1, :2], pixels[0, 2, 3, :2] = 4.0, 1.0, 2.0
    expected = torch.zeros(4, 4)
    expected[1, 2], expected[3, :2] = 4 * 1 / 16, 2 * 2 / 16
    layout = {"layout": "channels_first"}
    assert torch.equal(FEM(Pooled(), ["features"], **layout).layer_maps(pixels).maps[0][0], expected)
    assert not FEM(Pooled(), ["features"], k=4.0, **layout).layer_maps(pixels).maps[0].any()


def test_cam_says_where_it_can_be_used(classifier, batch: ExampleBatch):
    with pytest.raises(InputError, match=r"pools the target layer \(128 channels\).*layer4\.-1"):
        CAM(classifier, ["layer2.-1"])(batch.images)


def test_the_suffix_gives_the_networks_logits(classifier, batch: ExampleBatch):
    pixels = classifier.transform(batch.images)
    for path in ("conv1", "relu", "layer2.0.conv1", "layer2.0.bn2", "layer2.0", "layer4.-1"):
        layer = GradCAM(classifier, [path]).layers[0]
        suffix = Suffix(classifier, layer, pixels)
        rows = suffix.activations[[3, 3]].clone()
        torch.testing.assert_close(suffix(rows, 3), suffix.logits[[3, 3]], atol=1e-4, rtol=1e-4)
        changed = suffix(torch.zeros_like(rows), 3)
        assert not torch.allclose(changed, suffix.logits[[3, 3]], atol=1e-3)


def test_the_suffix_runs_nothing_before_the_layer(classifier, batch: ExampleBatch, monkeypatch):
    suffix = Suffix(classifier, classifier.backbone.layer3, classifier.transform(batch.images))
    ran: list[nn.Module] = []
    compute = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda m, *a: ran.append(m) or compute(m, *a))
    suffix(suffix.activations[:1].clone(), 0)
    assert len(ran) == 5
    assert set(ran) == {m for m in classifier.backbone.layer4.modules() if isinstance(m, nn.Conv2d)}


def test_a_layer_used_twice_is_refused(classifier, batch: ExampleBatch):
    with pytest.raises(InputError, match="ReLU was used 2 times"):
        Suffix(classifier, classifier.backbone.layer1[0].relu, classifier.transform(batch.images))


def test_rise_finds_the_only_pixel_that_matters():
    class Corner(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen = x[:, 0, 4:8, 4:8].mean((1, 2))
            return torch.stack([10 * seen, torch.zeros_like(seen)], 1)

    values = RISE(Corner(), masks=400)(torch.ones(1, 3, 32, 32), torch.tensor([0])).values[0]
    y, x = divmod(int(values.argmax()), 32)
    assert abs(x - 5.5) <= 3
    assert abs(y - 5.5) <= 3


def test_the_first_component_follows_the_bright_blob():
    values = torch.zeros(1, 3, 5, 5)
    values[0, :, 2, 3] = torch.tensor([1.0, 2.0, 3.0])
    component = first_component(values)[0]
    assert int(component.argmax()) == 13
    assert component[2, 3] == pytest.approx(float(torch.tensor([1.0, 2.0, 3.0]).norm()) * 24 / 25, rel=1e-5)


def test_tokens_become_maps():
    tokens = torch.arange(2 * 13 * 4).float().reshape(2, 13, 4)  # a class token and 3 × 4 patches
    maps = as_maps(tokens, "tokens", (48, 64))
    assert maps.shape == (2, 4, 3, 4)
    assert torch.equal(maps[1, :, 2, 3], tokens[1, 12])
    with pytest.raises(ValueError, match="31 tokens do not form a grid"):
        as_maps(torch.zeros(1, 31, 4), "tokens", (48, 64))
    with pytest.raises(ValueError, match="no rows and columns"):
        as_maps(torch.zeros(1, 4), "tokens", (48, 64))


def test_tokens_are_laid_out_by_the_networks_input_not_by_the_image():
    """A 64×48 image that the transform makes square gives a square grid of tokens."""

    class Resized(torchvision.models.VisionTransformer):
        transform = Transform(size=(32, 32))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images if images.is_floating_point() else self.transform(images))

    torch.manual_seed(0)
    model = Resized(32, 8, 2, 2, 16, 32, num_classes=5)
    nn.init.normal_(model.heads.head.weight)
    images = torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8)
    explainer, targets = GradCAM(model, ["encoder.layers.-1.ln_1"]), torch.tensor([1, 3])
    found = explainer(images, targets).values
    square = explainer(model.transform(images), targets).values
    assert (found.shape, square.shape) == ((2, 48, 64), (2, 32, 32))
    resized = F.interpolate(square[:, None], (48, 64), mode="bilinear")
    assert F.cosine_similarity(found.flatten(1), resized.flatten(1)).min() > 0.99
