"""Networks of every kind: what they return and take, in which layout and dtype, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from gradsam_exp.errors import InputError
from gradsam_exp.explainers.activation import CAM, EigenCAM
from gradsam_exp.explainers.attention import AttentionRelevance, AttentionRollout
from gradsam_exp.explainers.base import EXPLAINERS, scale_to_unit, to_frame
from gradsam_exp.explainers.dry_run import find_target_layers
from gradsam_exp.explainers.gradient import FinerCAM, GradCAM, HiResCAM
from gradsam_exp.explainers.layers import as_maps, find_layout
from gradsam_exp.explainers.perturbation import AblationCAM
from tests.networks import held

FEW = {"rise": {"masks": 20}, "smoothgrad": {"samples": 2}, "integrated_gradients": {"steps": 3},
       "smoothgradcam++": {"samples": 2}}  # fmt: skip
INPUT = {"gradient_x_input", "smoothgrad", "integrated_gradients", "fullgrad", "rise"}
ATTENTION = {"attention_rollout", "attention_relevance"}
OF_A_CNN = sorted(set(EXPLAINERS.names()) - ATTENTION - {"ensemble"})


def explainer(name: str, model: nn.Module, layer: str = "features") -> Any:
    layers = {} if name in INPUT | ATTENTION else {"target_layers": [layer]}
    return EXPLAINERS.build({"name": name, **layers, **FEW.get(name, {})}, model=model)


class Small(nn.Module):
    """A convolutional network that pools and ends in one linear layer; ``wrap`` makes its output of the logits."""

    def __init__(self, classes: int = 3, wrap: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.aux = nn.Linear(6, classes)
        self.fc = nn.Linear(6, classes)
        self.wrap = wrap
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5)

    def forward(self, pixels: Tensor) -> Any:
        return self.wrap(self.fc(self.features(pixels).mean((2, 3))))


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))


class Output:
    """As transformers' ModelOutput: an object with logits."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


@pytest.mark.parametrize("name", OF_A_CNN)
@pytest.mark.parametrize("wrap", [lambda z: (z, z * 2), lambda z: {"logits": z, "loss": None}, Output])
def test_logits_are_read_out_of_what_a_network_returns(name: str, wrap, pixels: Tensor):
    targets = torch.tensor([2, 0])
    expected = explainer(name, Small())(pixels, targets)
    found = explainer(name, Small(wrap=wrap))(pixels, targets)
    assert torch.equal(found.values, expected.values)
    assert torch.equal(found.logits, expected.logits)


@pytest.mark.parametrize("name", OF_A_CNN)
def test_both_classes_of_a_single_logit_can_be_explained(name: str, pixels: Tensor):
    """They are those of a network with the logits −z/2 and z/2."""
    one, two = Small(1), Small(2)
    with torch.no_grad():
        two.features.load_state_dict(one.features.state_dict())
        two.fc.weight.copy_(torch.cat([-one.fc.weight / 2, one.fc.weight / 2]))
        two.fc.bias.copy_(torch.cat([-one.fc.bias / 2, one.fc.bias / 2]))
    for target in (0, 1):
        expected = explainer(name, two)(pixels, target)
        found = explainer(name, one)(pixels, target)
        torch.testing.assert_close(found.values, expected.values, atol=1e-4, rtol=1e-4)
    assert found.logits.shape == (2, 2)


def test_a_single_logits_margin_and_comparison_are_not_empty(pixels: Tensor):
    for make in (FinerCAM, lambda model, layers: GradCAM(model, layers, score="margin")):
        empty = torch.stack([make(Small(1), ["features"])(pixels, target).empty for target in (0, 1)])
        assert not empty.all(0).any(), "at least one of the two classes has something"


def test_the_classes_of_a_multi_label_head_are_explained_one_by_one(pixels: Tensor):
    model = Small(4).eval()
    found = [GradCAM(model, ["features"]).layer_maps(pixels, torch.full((2,), k)).maps[0] for k in range(4)]
    activations = model.features(pixels)
    for k, maps in enumerate(found):
        expected = torch.einsum("k,bkhw->bhw", model.fc.weight[k] / activations[0, 0].numel(), activations).relu()
        torch.testing.assert_close(maps, expected.detach())


@pytest.mark.parametrize("wrap", [lambda z: z[:, :, None, None].expand(-1, -1, 4, 4), lambda z: z[:1], list])
def test_what_is_not_logits_of_each_image_is_refused(wrap, pixels: Tensor):
    with pytest.raises(InputError, match=r"the classifier gives .*logits"):
        GradCAM(Small(wrap=lambda z: wrap(z) if wrap is not list else {"scores": z}), ["features"])(pixels)


@pytest.mark.parametrize("name", ["gradcam", "eigencam", "rise", "ablationcam", "gradient_x_input"])
def test_one_target_is_for_all_images_and_any_other_number_is_refused(name: str, pixels: Tensor):
    one = explainer(name, Small())
    expected = one(pixels, torch.tensor([1, 1]))
    for target in (1, [1], torch.tensor(1), torch.tensor([1]), [1, 1]):
        assert torch.equal(one(pixels, target).values, expected.values)
        assert one(pixels, target).targets.tolist() == [1, 1]
    for wrong in ([0, 1, 2], torch.zeros(2, 1, dtype=torch.long), torch.tensor([0.0, 1.0])):
        with pytest.raises(InputError, match="one class id, or one for each of the 2 images"):
            one(pixels, wrong)


class Conditioned(Small):
    """Needs a number for each image, and takes a switch."""

    def forward(self, pixels: Tensor, meta: Tensor, *, twice: bool = False) -> Tensor:
        return super().forward(pixels) * meta[:, None] * (2 if twice else 1) + meta[:, None]


class Given(Small):
    """The same with the number built in, for one image."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels) * self.meta * 2 + self.meta


@pytest.mark.parametrize("name", sorted(set(OF_A_CNN) - {"cam"}))
def test_further_arguments_of_the_network_are_passed_on_row_by_row(name: str, pixels: Tensor):
    meta, targets = torch.tensor([0.5, -2.0]), torch.tensor([1, 2])
    model = Conditioned()
    of_all = explainer(name, model)
    before = held(model)
    found = of_all(pixels, targets, meta, twice=True)
    by_name = of_all(pixels, targets, meta=meta, twice=True)
    assert torch.equal(found.values, by_name.values)
    assert held(model) == before
    for k in range(2):
        alone = Given()
        alone.meta = float(meta[k])
        expected = explainer(name, alone)(pixels[k : k + 1], targets[k : k + 1])
        torch.testing.assert_close(found.logits[k], expected.logits[0])
        torch.testing.assert_close(found.values[k], expected.values[0], atol=1e-4, rtol=1e-4)


class WithoutGradients(Small):
    """Its backbone is frozen the thorough way."""

    def forward(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.features(pixels)
        return self.fc(features.mean((2, 3)))


@pytest.mark.parametrize("layer", ["features", "features.0"])
@pytest.mark.parametrize("name", ["gradcam", "shapleycam", "smoothgrad", "fullgrad"])
def test_a_backbone_under_no_grad_is_named(name: str, layer: str, pixels: Tensor):
    with pytest.raises(InputError, match=r"no gradient goes .*torch\.no_grad\(\)"):
        explainer(name, WithoutGradients(), layer)(pixels)


def test_a_layer_without_part_in_the_logits_is_named(pixels: Tensor):
    class Beside(Small):
        def forward(self, pixels: Tensor) -> Tensor:
            self.beside(pixels)
            return super().forward(pixels)

    model = Beside()
    model.beside = nn.Conv2d(3, 4, 1)
    with pytest.raises(InputError, match="the target layer has no part in the logits"):
        GradCAM(model, ["beside"])(pixels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", [*OF_A_CNN, "ensemble"])
def test_networks_of_other_precision_give_the_same_maps_in_float32(name: str, dtype: torch.dtype, pixels: Tensor):
    def maps(model: nn.Module) -> Any:
        if name != "ensemble":
            return explainer(name, model)(pixels, targets)
        members = [{"name": one, "target_layers": ["features"]} for one in ("gradcam", "eigencam")]
        return EXPLAINERS.build({"name": name, "of": members}, model=model)(pixels, targets)

    targets = torch.tensor([1, 2])
    expected, found = maps(Small()), maps(Small().to(dtype))
    assert (found.values.dtype, found.logits.dtype) == (torch.float32, torch.float32)
    assert torch.nn.functional.cosine_similarity(found.values.flatten(1), expected.values.flatten(1)).min() > 0.98


@pytest.mark.parametrize("name", sorted(ATTENTION))
def test_attention_of_a_network_in_half_precision(name: str):
    model = transformer().to(torch.bfloat16)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found, expected = explainer(name, model)(pixels, 1), explainer(name, transformer())(pixels, 1)
    assert found.values.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(found.values.flatten(1), expected.values.flatten(1)).min() > 0.98


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("name", ["gradcam", "eigencam", "ablationcam", "cam", "fullgrad"])
def test_compiled_networks_are_explained_as_they_were(name: str, in_place: bool, pixels: Tensor):
    expected = explainer(name, Small())(pixels, 1)
    model: Any = Small().eval()
    if in_place:
        model.compile(backend="eager")
        model.features.compile(backend="eager")
    else:
        model = torch.compile(model, backend="eager")
    model(pixels)
    assert torch.equal(explainer(name, model)(pixels, 1).values, expected.values)
    torch.testing.assert_close(model(pixels), Small().eval()(pixels))


class LastBlocks(nn.Module):
    """A block of ``(B, h, w, C)``, ``(B, T, C)`` or ``(T, B, C)`` between layers of the usual layout."""

    def __init__(self, order: tuple[int, ...], channels: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, channels, 4, 4)
        self.block = nn.Sequential(nn.Linear(channels, channels), nn.GELU())
        self.fc = nn.Linear(channels, 3)
        self.order = order
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.7)

    def forward(self, pixels: Tensor) -> Tensor:
        maps = self.stem(pixels)
        values = maps if len(self.order) == 4 else maps.flatten(2)
        values = self.block(values.permute(self.order))
        return self.fc(values.mean([axis for axis, old in enumerate(self.order) if old >= 2]))


LAYOUTS = {"channels_last": (0, 2, 3, 1), "tokens": (0, 2, 1), "tokens_first": (2, 0, 1)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["gradcam", "hirescam", "eigencam", "ablationcam", "scorecam", "layercam"])
@pytest.mark.parametrize("given", [True, False])
def test_a_layout_is_found_or_given(name: str, layout: str, given: bool):
    """The block's maps are those of the same network written with channels first."""

    class First(LastBlocks):
        def forward(self, pixels: Tensor) -> Tensor:
            return self.fc(self.named(self.stem(pixels)).mean((2, 3)))

    pixels = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    reference = First((0, 2, 3, 1))
    weight, bias = reference.block[0].weight.detach(), reference.block[0].bias.detach()
    reference.named = nn.Sequential(nn.Conv2d(6, 6, 1), nn.GELU())
    reference.named[0].weight.data, reference.named[0].bias.data = weight[:, :, None, None], bias
    expected = explainer(name, reference, "named")(pixels, 1)
    node = {"name": name, "target_layers": ["block"], "layout": layout if given else "auto"}
    found = EXPLAINERS.build(node, model=LastBlocks(LAYOUTS[layout]))(pixels, 1)
    torch.testing.assert_close(found.values, expected.values, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_as_many_channels_as_rows_or_images_as_tokens_are_told_apart(layout: str):
    """By another size, or another number of images."""
    size, images = ((24, 24), 2) if layout == "channels_last" else ((8, 8), 4)
    pixels = torch.randn(images, 3, *size, generator=torch.Generator().manual_seed(1))
    model = LastBlocks(LAYOUTS[layout])
    given, found = (GradCAM(model, ["block"], layout=one)(pixels, 1).values for one in (layout, "auto"))
    assert torch.equal(found, given)


def test_what_cannot_be_told_names_the_layout():
    class Fixed(LastBlocks):
        def forward(self, pixels: Tensor) -> Tensor:
            return super().forward(F.interpolate(pixels, (24, 24)))

    pixels = torch.randn(2, 3, 24, 24)
    with pytest.raises(InputError, match=r"which axes of \(2, 6, 6, 6\).*explainer\.layout=channels_first\|"):
        GradCAM(Fixed((0, 2, 3, 1)), ["block"])(pixels)
    assert GradCAM(Fixed((0, 2, 3, 1)), ["block"], layout="channels_last")(pixels).values.shape == (2, 24, 24)
    with pytest.raises(InputError, match=r"explainer\.layout=tokens does not fit"):
        GradCAM(Small(), ["features"], layout="tokens")(pixels)


@pytest.mark.parametrize(
    ("shape", "frame", "expected"),
    [
        ((2, 512, 7, 7), (224, 224), "channels_first"),
        ((2, 7, 7, 768), (224, 224), "channels_last"),
        ((2, 512, 2, 2), (48, 64), "channels_first"),
        ((2, 12, 19, 96), (375, 600), "channels_last"),
        ((2, 512, 1, 1), (32, 32), "channels_first"),
        ((2, 8, 8, 8), (64, 64), None),
        ((2, 50, 64), (224, 224), "tokens"),
        ((50, 2, 64), (224, 224), "tokens_first"),
        ((2, 2, 64), (224, 224), None),
    ],
)
def test_layouts_worked_out_from_shapes(shape, frame, expected):
    assert find_layout(shape, nn.Identity(), frame, 2) == expected


def test_tokens_before_the_patches_are_counted():
    for prefix in (0, 1, 2, 5):
        tokens = torch.arange(49 + prefix).float()[None, :, None]
        assert as_maps(tokens, "tokens", (224, 224))[0, 0, 0, 0] == prefix
    assert as_maps(torch.arange(100 + 9).float()[None, :, None], "tokens", (160, 160), 9)[0, 0, 0, 0] == 9
    with pytest.raises(ValueError, match=r"of 11 tokens 2 or 7 may come .*num_prefix_tokens"):
        as_maps(torch.zeros(1, 11, 4), "tokens", (48, 48))


def test_a_map_that_is_constant_up_to_rounding_is_all_one():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=3).eval()
    model.fc.weight.data.abs_()
    pixels = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    raw = GradCAM(model, ["layer4"]).layer_maps(pixels, torch.arange(6) % 3).maps[0]
    assert raw.shape == (6, 1, 1)
    values, empty = scale_to_unit(to_frame(raw, (32, 32)))
    assert not empty.any()
    assert values.unique().tolist() == [1]
    for noise in (1e-7, 2e-6):
        maps = 1 + noise * torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(2))
        assert (scale_to_unit(maps)[0].unique().numel() == 1) == (noise == 1e-7)


class Auxiliary(Small):
    """``fc`` gives the logits; ``aux``, of the same size and named later, gives something else."""

    def __init__(self) -> None:
        super().__init__()
        self.later = nn.Linear(6, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        pooled = self.features(pixels).mean((2, 3))
        self.aux(pooled), self.later(pooled)
        return self.fc(pooled)


def test_cam_takes_the_linear_layer_that_gives_the_logits(pixels: Tensor):
    model = Auxiliary().eval()
    activations = model.features(pixels)
    for options, head in (({}, model.fc), ({"head": "aux"}, model.aux)):
        found = CAM(model, ["features"], **options).layer_maps(pixels, torch.tensor([2, 1])).maps[0]
        torch.testing.assert_close(found, torch.einsum("bk,bkhw->bhw", head.weight[[2, 1]], activations))
    with pytest.raises(InputError, match=r"explainer\.head='auxx': there is no layer .*did you mean"):
        CAM(model, ["features"], head="auxx")(pixels)
    with pytest.raises(InputError, match=r"explainer\.head=features is a Sequential"):
        CAM(model, ["features"], head="features")(pixels)


def test_cam_refuses_a_head_that_does_not_give_the_logits(pixels: Tensor):
    with pytest.raises(
        InputError, match=r"ends in one linear layer on it, which gives the logits.*explainer\.head"
    ):
        CAM(Small(wrap=lambda z: z.sin()), ["features"])(pixels)
    assert CAM(Small(wrap=lambda z: 3 * z), ["features"], head="fc")(pixels).values.shape == (2, 16, 24)


def transformer(*, frozen: bool = False, **options: Any) -> nn.Module:
    """`nn.TransformerEncoder` over 4×4 patches, averaged."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.patches = nn.Conv2d(3, 16, 8, 8)
            layer = nn.TransformerEncoderLayer(16, 2, 32, **{"batch_first": True, **options})
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.fc = nn.Linear(16, 3)
            self.mask = None
            for parameter in self.parameters():
                nn.init.normal_(parameter, std=0.4)

        def forward(self, pixels: Tensor) -> Tensor:
            tokens = self.patches(pixels).flatten(2)
            first = options.get("batch_first", True)
            tokens = self.encoder(tokens.permute(0, 2, 1) if first else tokens.permute(2, 0, 1), mask=self.mask)
            return self.fc(tokens.mean(1 if first else 0))

    model = Encoder().eval()
    return model.requires_grad_(not frozen)


@pytest.mark.parametrize("options", [{}, {"norm_first": True}, {"batch_first": False}])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_every_attention_of_a_transformer_encoder_is_seen(options: dict[str, Any], frozen: bool, masked: bool):
    """Its fast path, which goes round the modules, included; against PyTorch's own attention weights."""
    model = transformer(frozen=frozen, **options)
    if masked:
        model.mask = torch.rand(16, 16, generator=torch.Generator().manual_seed(2)) < 0.3
        model.mask.fill_diagonal_(False)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    own: list[Tensor] = []
    for layer in model.encoder.layers:
        plain = type(layer.self_attn).forward

        def forward(*args: Any, plain: Any = plain, module: Any = layer.self_attn, **kwargs: Any) -> Any:
            kwargs |= {"need_weights": True, "average_attn_weights": False}
            own.append(plain(module, *args, **kwargs)[1])
            return plain(module, *args, **kwargs)

        layer.self_attn.forward = forward
    with torch.enable_grad():
        transformer_logits = model.requires_grad_()(pixels)
    for layer in model.encoder.layers:
        del layer.self_attn.forward
    model.requires_grad_(not frozen)
    first, second = ((matrix.mean(1) + torch.eye(16)) / 2 for matrix in own)
    expected = (second @ first).mean(1).reshape(2, 4, 4)
    found = AttentionRollout(model).explain(pixels, None)
    torch.testing.assert_close(found.maps[0], expected.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.logits, transformer_logits.detach(), atol=1e-4, rtol=1e-4)
    assert not AttentionRelevance(model)(pixels, 1).empty.all()


@pytest.mark.parametrize("method", [GradCAM, HiResCAM, EigenCAM, AblationCAM])
@pytest.mark.parametrize("frozen", [False, True])
def test_layers_inside_a_transformer_encoder(method, frozen: bool):
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for layer in ("encoder.layers.0", "encoder.layers.1.norm1", "encoder.layers.1.dropout1"):
        found = method(transformer(frozen=frozen), [layer])(pixels, 1)
        loose = method(transformer(dropout=0.0), [layer])(pixels, 1)
        torch.testing.assert_close(found.values, loose.values, atol=1e-4, rtol=1e-4)


def test_a_network_that_gives_other_logits_when_it_is_watched_is_refused(pixels: Tensor):
    class Random(Small):
        def forward(self, pixels: Tensor) -> Tensor:
            return super().forward(pixels) + torch.randn(1)

    for name in ("gradcam", "eigencam", "rise", "smoothgrad"):
        with pytest.raises(InputError, match=r"logits that differ by .* from those of a plain pass"):
            explainer(name, Random())(pixels)


def test_the_logits_are_compared_once(pixels: Tensor):
    passes: list[int] = []
    model = Small(wrap=lambda z: passes.append(len(z)) or z)
    one = GradCAM(model, ["features"])
    one(pixels), one(pixels)
    assert passes == [2, 1, 2]


def test_the_target_layer_is_found():
    assert find_target_layers(torchvision.models.resnet18(), (64, 96)) == ["layer4"]
    with torch.device("meta"):
        vit = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32)
    assert find_target_layers(vit, (32, 32)) == ["encoder.layers.encoder_layer_1.ln_1"]
    with pytest.raises(InputError, match=r"target_layers=auto: the network does not take images of 48×64 px"):
        find_target_layers(vit, (48, 64))
    with pytest.raises(InputError, match="no layer gives rows and columns"):
        find_target_layers(nn.Sequential(nn.Flatten(), nn.Linear(27, 2)), (3, 3))


def test_a_network_that_needs_values_is_run_with_them():
    class Asking(Small):
        def forward(self, pixels: Tensor) -> Any:
            return super().forward(pixels if float(pixels.sum()) >= 0 else -pixels)

    assert find_target_layers(Asking(), (16, 16)) == ["features"]


def test_layers_are_named_below_the_backbone_or_from_the_network():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.neck, self.fc = Small().features, nn.Conv2d(6, 4, 3), nn.Linear(4, 3)

        def forward(self, pixels: Tensor) -> Tensor:
            return self.fc(self.neck(self.backbone(pixels)).mean((2, 3)))

    model = Two()
    assert find_target_layers(model, (16, 16)) == ["neck"]
    assert GradCAM(model, ["neck"]).layers == [model.neck]
    assert GradCAM(model, ["0"]).layers == [model.backbone[0]]
    auto = GradCAM(model, "auto")
    auto(torch.randn(1, 3, 16, 16))
    assert auto.layers == [model.neck]


def test_a_wrong_name_lists_the_layers_that_give_maps():
    with pytest.raises(InputError, match=r"no layer 'layer9'.*layers that give maps: .*layer4 \(512×7×7\)$"):
        GradCAM(torchvision.models.resnet18(), ["layer9"])
