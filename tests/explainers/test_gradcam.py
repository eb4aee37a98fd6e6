import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.errors import InputError
from gradsam_exp.explainers.base import EXPLAINERS, scale_to_unit, to_frame
from gradsam_exp.explainers.gradient import GradCAM
from gradsam_exp.explainers.layers import find_layer
from gradsam_exp.types import ExampleBatch
from tests.networks import held


class Tiny(nn.Module):
    """Two channels, two classes, small enough to work out by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[1.0, -2.0], [-1.0, 1.0]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x).mean((2, 3)))


def test_a_map_worked_out_by_hand():
    """α_k = w_k / 4, so the map is ReLU(A_0 − 2·A_1) / 4 before scaling."""
    image = torch.tensor([[[[4.0, 1.0], [2.0, 0.0]], [[0.0, 1.0], [0.5, 1.0]]]])
    maps = GradCAM(Tiny(), ["layer"])(image, torch.tensor([0]))
    # A_0 − 2·A_1 = [[4, −1], [1, −2]] → ReLU → [[4, 0], [1, 0]] → /4
    assert torch.equal(maps.values, torch.tensor([[[1.0, 0.0], [0.25, 0.0]]]))
    assert maps.empty.tolist() == [False]


def test_an_empty_map_is_flagged_and_zero():
    image = torch.tensor([[[[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [2.0, 1.0]]]])
    maps = GradCAM(Tiny(), ["layer"])(image, torch.tensor([0]))
    assert maps.empty.tolist() == [True]
    assert torch.equal(maps.values, torch.zeros(1, 2, 2))


def textbook_gradcam(model: ImageClassifier, layer: nn.Module, image: torch.Tensor, target: int) -> torch.Tensor:
    """Grad-CAM of one image with an ordinary backward pass through the whole network."""
    kept = {}
    handle = layer.register_forward_hook(lambda m, i, o: kept.update(a=o))
    logits = model(image[None])
    handle.remove()
    activation = kept["a"]
    gradient = torch.autograd.grad(logits[0, target], activation)[0]
    raw = (gradient.mean((2, 3), keepdim=True) * activation).sum(1, keepdim=True).relu()
    frame = F.interpolate(raw, image.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
    return ((frame - frame.min()) / (frame.max() - frame.min())).detach()


@pytest.mark.parametrize("path", ["layer1.-1", "layer2.-1", "layer3.0.conv2", "layer4.-1"])
def test_equals_the_textbook_formula(classifier: ImageClassifier, batch: ExampleBatch, path: str):
    maps = GradCAM(classifier, [path])(batch.images, batch.labels)
    layer = find_layer(classifier, path)
    for k in range(len(batch)):
        if not maps.empty[k]:
            expected = textbook_gradcam(classifier, layer, batch.images[k], int(batch.labels[k]))
            assert torch.allclose(maps.values[k], expected, atol=1e-4)
    assert (~maps.empty).sum() >= 4


def test_batches_do_not_mix_images(classifier: ImageClassifier, batch: ExampleBatch):
    together = GradCAM(classifier, ["layer2.-1"])(batch.images)
    for k in range(len(batch)):
        alone = GradCAM(classifier, ["layer2.-1"])(batch.images[k : k + 1])
        assert alone.targets[0] == together.targets[k]
        assert torch.allclose(alone.values[0], together.values[k], atol=1e-4)


def test_without_targets_the_predicted_class_is_explained(classifier: ImageClassifier, batch: ExampleBatch):
    maps = GradCAM(classifier, ["layer2.-1"])(batch.images)
    assert maps.logits is not None
    with torch.no_grad():
        assert torch.allclose(maps.logits, classifier(batch.images), atol=1e-5)
    assert torch.equal(maps.targets, maps.logits.argmax(1))


def test_layers_are_scaled_and_averaged(classifier: ImageClassifier, batch: ExampleBatch):
    one = GradCAM(classifier, ["layer2.-1"])(batch.images, batch.labels)
    other = GradCAM(classifier, ["layer3.-1"])(batch.images, batch.labels)
    both = GradCAM(classifier, ["layer2.-1", "layer3.-1"])(batch.images, batch.labels)
    mean = scale_to_unit((one.values + other.values) / 2)[0]
    assert torch.allclose(both.values, mean, atol=1e-5)


def test_nothing_is_left_behind(classifier: ImageClassifier, batch: ExampleBatch):
    """No hooks, no gradients, no changed training flags, no memory held; also after an error."""
    classifier.train()
    classifier.backbone.layer1.eval()
    flags = [m.training for m in classifier.modules()]
    explainer, before = GradCAM(classifier, ["layer2.-1"]), held(classifier)
    explainer(batch.images)
    with pytest.raises(InputError, match=r"class ids in 0\.\.4"):
        explainer(batch.images, torch.full((len(batch),), 99))
    assert [m.training for m in classifier.modules()] == flags
    assert held(classifier) == before
    assert all(p.grad is None for p in classifier.parameters())
    assert torch.is_grad_enabled()
    classifier.eval()
    images = batch.images.clone()
    alive = weakref.ref(images)
    explainer(images)
    del images
    gc.collect()
    assert alive() is None


def test_gradients_go_no_further_than_the_layer(classifier: ImageClassifier, batch: ExampleBatch):
    seen: list[bool] = []
    handle = classifier.backbone.layer1.register_forward_hook(lambda m, i, o: seen.append(o.requires_grad))
    GradCAM(classifier, ["layer2.-1"])(batch.images)
    handle.remove()
    assert seen
    assert not any(seen)


def test_works_where_gradients_are_switched_off(classifier: ImageClassifier, batch: ExampleBatch):
    expected = GradCAM(classifier, ["layer2.-1"])(batch.images)
    with torch.no_grad():
        assert torch.equal(GradCAM(classifier, ["layer2.-1"])(batch.images).values, expected.values)
        assert not torch.is_grad_enabled()
    frozen = classifier.requires_grad_(False)
    assert torch.equal(GradCAM(frozen, ["layer2.-1"])(batch.images).values, expected.values)


def test_in_place_layers_do_not_spoil_the_map(classifier: ImageClassifier, batch: ExampleBatch):
    """What follows bn1 is an in-place ReLU: the map must come from the values before it."""
    maps = GradCAM(classifier, ["bn1"])(batch.images, batch.labels)
    expected = textbook_gradcam(_out_of_place(classifier), classifier.backbone.bn1, batch.images[0], 0)
    assert torch.allclose(maps.values[0], expected, atol=1e-4)


def _out_of_place(model: ImageClassifier) -> ImageClassifier:
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("layer5.-1", r"no layer 'layer5' in ResNet; did you mean 'layer[1-4]'\? Known: .*avgpool"),
        ("layer2.7", r"no layer '7' below 'layer2'. Known: 0, 1"),
        ("layer2.-3", r"no layer '-3' below 'layer2'"),
    ],
)
def test_a_missing_layer_lists_candidates(classifier: ImageClassifier, path: str, message: str):
    with pytest.raises(InputError, match=message):
        GradCAM(classifier, [path])


def test_negative_numbers_count_from_the_end(classifier: ImageClassifier):
    assert find_layer(classifier, "layer2.-1") is classifier.backbone.layer2[-1]
    assert find_layer(classifier, "layer2.0.conv1") is classifier.backbone.layer2[0].conv1


def test_scaling():
    maps = torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]], [[-2.0, -1.0]], [[2.0, 2.0]]])
    scaled, empty = scale_to_unit(maps)
    assert scaled.tolist() == [[[0.0, 1.0]], [[0.0, 0.0]], [[0.0, 0.0]], [[1.0, 1.0]]]
    assert empty.tolist() == [False, True, True, False]


def test_upsampling_keeps_pixel_centres():
    """A map twice as coarse: its pixel k covers image pixels 2k and 2k + 1, so the peak lies between them."""
    coarse = torch.zeros(1, 4, 4)
    coarse[0, 1, 2] = 1
    fine = to_frame(coarse, (8, 8))
    ys, xs = torch.nonzero(fine[0] == fine.max()).float().mean(0)
    assert (float(xs), float(ys)) == (4.5, 2.5)


def test_registry_builds_it_from_a_config(classifier: ImageClassifier):
    built = EXPLAINERS.build(
        {"name": "gradcam", "target_layers": ["layer2.-1"], "upsample": "bicubic"}, model=classifier
    )
    assert isinstance(built, GradCAM)
    with pytest.raises(InputError, match=r"explainer.upsample='cubic'"):
        EXPLAINERS.build(
            {"name": "gradcam", "target_layers": ["layer2.-1"], "upsample": "cubic"}, model=classifier
        )
