"""Classifiers of other packages: named, given their weights, and equal to what their own package computes."""

import hashlib
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from skimage import data as pictures
from torch import Tensor, nn

from gradsam_exp.classifiers.base import CLASSIFIERS
from gradsam_exp.classifiers.classes import IMAGENET
from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.classifiers.networks import with_head
from gradsam_exp.errors import InputError

NET = """
from torch import nn

def build(width=4, classes=3):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, classes))

class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = build()

    def forward(self, x):
        return {"logits": self.backbone(x)}

number = 5
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of networks beside the working directory."""
    (tmp_path / "nets_of_a_user.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nets_of_a_user", raising=False)
    return import_module


def images(count: int = 2, side: int = 40) -> Tensor:
    return torch.randint(
        0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def randomized(network: nn.Module) -> nn.Module:
    """Another network in eval mode whose statistics are not those of a new one."""
    torch.manual_seed(0)
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.rand_like(value) * 0.05)
    return network.eval()


def test_the_wheel_knows_a_cat_and_an_espresso():
    source = CLASSIFIERS.build({"source": "imagenet"})
    model = source.load()
    for picture, name, share in ((pictures.chelsea(), "Egyptian cat", 0.77), (pictures.coffee(), "espresso", 0.9)):
        logits = model(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None])
        best = int(logits.argmax())
        assert source.class_names[best] == name
        assert float(logits.softmax(1)[0, best]) == pytest.approx(share, abs=0.05)


def test_torchvisions_weights_are_found_in_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = randomized(torchvision.models.mobilenet_v3_small())
    weights = torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1
    file = tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(network.state_dict(), file)
    source = CLASSIFIERS.build({"source": "torchvision", "name": "mobilenet_v3_small"})
    assert source.class_names == tuple(weights.meta["categories"])
    assert source.size == (224, 224)
    model = source.load()
    pixels = model.transform(images())
    assert pixels.shape[-2:] == (224, 224)
    assert torch.equal(model(images()), network(pixels))
    assert source.outline().backbone.features[0][0].weight.is_meta


def test_weights_are_downloaded_and_their_hash_is_checked(served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    www, url = served
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), www / "weights")
    digest = hashlib.sha256((www / "weights").read_bytes()).hexdigest()
    right, wrong = f"net-{digest[:8]}.pth", "net-12345678.pth"
    for name in (right, wrong):
        (www / name).write_bytes((www / "weights").read_bytes())
    weights = torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1
    for name in (right, wrong, "net-87654321.pth"):
        object.__setattr__(weights.value, "url", f"{url}/{name}")
        if name == right:
            source = CLASSIFIERS.build({"source": "torchvision", "name": "mobilenet_v3_small"})
            assert source.path == tmp_path / "torch" / "hub" / "checkpoints" / right
        else:
            with pytest.raises(InputError, match=r"could not be downloaded.*give model\.checkpoint=PATH"):
                CLASSIFIERS.build({"source": "torchvision", "name": "mobilenet_v3_small"})
            assert not (tmp_path / "torch" / "hub" / "checkpoints" / name).exists()


@pytest.fixture
def own_url():
    weights = torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1
    url = weights.url
    yield
    object.__setattr__(weights.value, "url", url)


test_weights_are_downloaded_and_their_hash_is_checked = pytest.mark.usefixtures("own_url")(
    test_weights_are_downloaded_and_their_hash_is_checked
)


@pytest.mark.parametrize("side", [48, 1500])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_timms_networks_with_a_local_file(name: str, side: int, tmp_path: Path):
    network = randomized(timm.create_model(name))
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    source = CLASSIFIERS.build({"source": "timm", "name": name, "checkpoint": str(tmp_path / "w.safetensors")})
    data = timm.data.resolve_data_config({}, model=network)
    model = source.load()
    assert source.class_names == IMAGENET.names
    assert (model.transform.mean, model.transform.std) == (data["mean"], data["std"])
    assert source.size == data["input_size"][1:]
    assert torch.equal(model(images(side=side)), network(model.transform(images(side=side))))


def test_a_network_can_take_images_as_large_as_they_are():
    source = CLASSIFIERS.build({"source": "timm", "name": "test_resnet", "pretrained": False, "size": "own"})
    assert source.size is None
    assert source.transform(images(side=40)).shape[-2:] == (40, 40)
    with pytest.raises(InputError, match=r"model\.size"):
        CLASSIFIERS.build({"source": "timm", "name": "test_resnet", "pretrained": False, "size": "theirs"})


def test_timms_published_weights_come_from_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    network = randomized(timm.create_model("test_resnet"))
    file = tmp_path / "model.safetensors"
    save_file(network.state_dict(), file)
    asked = []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    source = CLASSIFIERS.build({"source": "timm", "name": "test_resnet.r160_in1k"})
    assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors")]
    model = source.load()
    assert torch.equal(model(images()), network(model.transform(images())))


def test_classes_of_ones_own_take_a_head_of_that_size(tmp_path: Path):
    network = randomized(with_head(timm.create_model("test_resnet"), 2))
    torch.save({"model": network.state_dict()}, tmp_path / "w.pth")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    node = {"source": "timm", "name": "test_resnet", "checkpoint": str(tmp_path / "w.pth")}
    source = CLASSIFIERS.build({**node, "names": str(tmp_path / "names.txt")})
    assert source.class_names == ("cat", "dog")
    model = source.load()
    assert torch.equal(model(images()), network(model.transform(images())))
    with pytest.raises(InputError, match=r"w\.pth is of another architecture or other classes.*fc\.bias.*\(2,\)"):
        CLASSIFIERS.build(node).load()


@pytest.fixture(scope="module")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32,
        patch_size=8, id2label={0: "cat", 1: "dog", 2: "cow"}, label2id={"cat": 0, "dog": 1, "cow": 2},
    )  # fmt: skip
    model = ViTForImageClassification(config).eval()
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3]).save_pretrained(folder)
    return folder, model


def test_a_folder_of_transformers(tiny_vit):
    folder, network = tiny_vit
    source = CLASSIFIERS.build({"source": "hf", "id": str(folder)})
    assert source.class_names == ("cat", "dog", "cow")
    assert source.size == (32, 32)
    model = source.load()
    assert tuple(model.transform.mean) == (0.1, 0.2, 0.3)
    assert torch.allclose(model(images()), network(model.transform(images())).logits, atol=1e-6)
    again = type(model)(**model.hparams)  # what a checkpoint of task=train keeps builds the same network
    again.backbone.load_state_dict(model.backbone.state_dict())
    assert torch.allclose(again.eval()(images()), model(images()), atol=1e-6)


def test_a_folder_without_a_head_is_refused(tiny_vit, tmp_path: Path):
    from transformers import ViTModel

    ViTModel.from_pretrained(tiny_vit[0]).save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"has no weights of 2 of the network's tensors, such as classifier\.bias"
    ):
        CLASSIFIERS.build({"source": "hf", "id": str(tmp_path)}).load()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no model of transformers"):
        CLASSIFIERS.build({"source": "hf", "id": str(tmp_path / "empty")})


def test_clip_is_a_zero_shot_classifier(tmp_path: Path):
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"{one}</w>" for one in "abcdefghijklmnopqrstuvwxyz")]
    vocabulary = {token: k for k, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    tokenizer.save_pretrained(tmp_path)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {
        "vocab_size": len(vocabulary),
        "eos_token_id": len(vocabulary) - 1,
        "bos_token_id": len(vocabulary) - 2,
    }
    torch.manual_seed(0)
    network = CLIPModel(
        CLIPConfig(
            text_config={**small, **ends, "max_position_embeddings": 30},
            vision_config={**small, "image_size": 32, "patch_size": 8},
            projection_dim=8,
        )
    ).eval()
    network.save_pretrained(tmp_path)
    node = {"source": "clip", "id": str(tmp_path), "classes": ["cat", "dog", "old cow"]}
    model = CLASSIFIERS.build(node).load()
    assert model.class_names == ("cat", "dog", "old cow")
    pixels = model.transform(images())
    assert pixels.shape == (2, 3, 32, 32)
    given = tokenizer([f"a photo of a {name}" for name in node["classes"]], padding=True, return_tensors="pt")
    expected = network(**given, pixel_values=pixels).logits_per_image
    assert torch.allclose(model(images()), expected, atol=1e-4)
    for wrong, message in (
        ({"classes": None}, r"model\.classes is missing"),
        ({"prompt": "a photo"}, r"model\.prompt='a photo': \{\} stands for"),
        ({"classes": ["cat", "cat"]}, "has 'cat' twice"),
    ):
        with pytest.raises(InputError, match=message):
            CLASSIFIERS.build({**node, **wrong})


class Lit(pl.LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.net = network
        self.loss = nn.CrossEntropyLoss(weight=torch.ones(3))


FILES: dict[str, Callable[[nn.Module, Path], object]] = {
    "state dict": lambda net, path: torch.save(net.state_dict(), path),
    "below state_dict": lambda net, path: torch.save({"state_dict": net.state_dict(), "epoch": 3}, path),
    "below model": lambda net, path: torch.save({"model": net.state_dict(), "args": {"lr": 0.1}}, path),
    "twice below": lambda net, path: torch.save({"model": {"state_dict": net.state_dict()}}, path),
    "of DataParallel": lambda net, path: torch.save(nn.DataParallel(net).state_dict(), path),
    "of a Lightning module": lambda net, path: torch.save(
        {"state_dict": Lit(net).state_dict(), "pytorch-lightning_version": "2.5", "hyper_parameters": {}}, path
    ),
    "half precision": lambda net, path: torch.save({k: v.half() for k, v in net.state_dict().items()}, path),
}


@pytest.mark.parametrize("name", FILES)
def test_weights_of_ones_own_network_are_read(name: str, nets, tmp_path: Path):
    network = randomized(nets("nets_of_a_user").build())
    if name == "half precision":
        network.half().float()
    FILES[name](network, tmp_path / "w.pth")
    node = {"source": "module", "target": "nets_of_a_user:build", "names": ["a", "b", "c"]}
    source = CLASSIFIERS.build({**node, "checkpoint": str(tmp_path / "w.pth")})
    model = source.load()
    assert torch.equal(model(images()), network(model.transform(images())))
    bare = CLASSIFIERS.build({**node, "target": "nets_of_a_user.Wrapped", "checkpoint": str(tmp_path / "w.pth")})
    assert torch.equal(bare.load()(images()), model(images())), "a prefix that the file has not"


def damaged(state: dict[str, Tensor], **changes: Tensor | None) -> dict[str, Tensor]:
    changed = {**state, **{name.replace("__", "."): value for name, value in changes.items()}}
    return {name: value for name, value in changed.items() if value is not None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"_0__weight": None},
            r"3 of 4 tensors fit; differing are 0\.weight \(missing instead of \(4, 3, 3, 3\)\)",
        ),
        ({"_4__bias": torch.zeros(7)}, r"differing are 4\.bias \(\(7,\) instead of \(3,\)\)"),
        ({"extra__weight": torch.zeros(1)}, r"differing are extra\.weight \(not one of the network's\)"),
        ({"_4__bias": torch.tensor([0.0, float("nan"), 0.0])}, r"4\.bias is not finite"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str, nets, tmp_path: Path):
    state = nets("nets_of_a_user").build().state_dict()
    torch.save(damaged(state, **{name.removeprefix("_"): value for name, value in change.items()}), "w.pth")
    node = {"source": "module", "target": "nets_of_a_user:build", "names": ["a", "b", "c"], "checkpoint": "w.pth"}
    with pytest.raises(InputError, match=message):
        CLASSIFIERS.build(node).load()


def test_weights_of_which_nothing_fits_are_refused(nets, tmp_path: Path):
    torch.save({f"other.{k}": v for k, v in torchvision.models.resnet18().state_dict().items()}, "w.pth")
    node = {"source": "module", "target": "nets_of_a_user:build", "names": ["a", "b", "c"], "checkpoint": "w.pth"}
    with pytest.raises(InputError, match="none of the network's tensors fit"):
        CLASSIFIERS.build(node).load()


def test_files_that_are_no_weights(nets, tmp_path: Path):
    network = nets("nets_of_a_user").build()
    node = {"source": "module", "target": "nets_of_a_user:build", "names": ["a", "b", "c"], "checkpoint": "w.pth"}
    torch.save(network, "w.pth")
    with pytest.raises(InputError, match=r"holds Python objects, such as a whole module.*save the state dict"):
        CLASSIFIERS.build(node).load()
    torch.jit.script(network).save("w.pth")
    with pytest.raises(InputError, match=r"is TorchScript.*give the state dict"):
        CLASSIFIERS.build(node).load()
    torch.save({"epoch": 3, "optimizer": {}}, "w.pth")
    with pytest.raises(InputError, match=r"holds no state dict; its keys are epoch, optimizer"):
        CLASSIFIERS.build(node).load()


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"source": "timm", "name": "resnet5o"}, "did you mean 'resnet50'"),
        ({"source": "torchvision", "name": "resnet5o"}, "did you mean 'resnet50'"),
        ({"source": "torchvision", "name": "resnet18", "weights": "V9"}, r"model\.weights='V9' is not known"),
        (
            {"source": "timm", "name": "test_resnet", "arguments": {"wings": 2}},
            r"model\.name=test_resnet: .*wings",
        ),
        ({"source": "module", "target": "no_such_module:build"}, "cannot be imported"),
        ({"source": "module", "target": "build"}, r"give package\.module:name"),
        ({"source": "module", "target": "torch.nn:pi"}, "cannot be imported"),
        ({"source": "hf", "id": "/no/such/folder"}, "is not a folder"),
        ({"source": "modules"}, "did you mean 'module'"),
    ],
)
def test_mistakes_are_named(node: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        CLASSIFIERS.build(node)


def test_random_weights_and_unknown_names_are_not_explained(nets):
    with pytest.raises(InputError, match=r"test_resnet has random weights.*give model\.checkpoint"):
        CLASSIFIERS.build({"source": "timm", "name": "test_resnet", "pretrained": False}).check_ready()
    torch.save(nets("nets_of_a_user").build().state_dict(), "w.pth")
    node = {"source": "module", "target": "nets_of_a_user:build", "checkpoint": "w.pth"}
    with pytest.raises(InputError, match=r"what the outputs of build mean is not known: give model\.names"):
        CLASSIFIERS.build(node).check_ready()
    network = nets("nets_of_a_user").build()
    with pytest.raises(InputError, match=r"gives 3 logits, but there are 2 class names"):
        ImageClassifier({}, ["a", "b"], network=network)(images())


def test_pictures_are_resized_as_their_package_does_it():
    model = CLASSIFIERS.build({"source": "imagenet"}).load()
    picture = pictures.chelsea()
    found = model.transform(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None])[0]
    resized = Image.fromarray(picture).resize((224, 224), Image.Resampling.BICUBIC)
    expected = torchvision.transforms.functional.to_tensor(resized) * 2 - 1
    assert (found - expected).abs().max() < 0.02  # Pillow rounds to bytes in between


def test_a_model_of_open_clip_is_a_zero_shot_classifier(tmp_path: Path):
    import open_clip

    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    small = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / "Tiny.json").write_text(json.dumps(small))
    open_clip.add_model_config(tmp_path / "Tiny.json")
    torch.manual_seed(0)
    network = open_clip.create_model("Tiny").eval()
    torch.save(network.state_dict(), tmp_path / "tiny.pt")
    node = {"source": "clip", "id": "open_clip:Tiny", "pretrained": str(tmp_path / "tiny.pt")}
    model = CLASSIFIERS.build({**node, "classes": ["cat", "dog"], "prompt": ["a {}", "the {}"]}).load()
    pixels = model.transform(images())
    assert pixels.shape == (2, 3, 32, 32)
    tokens = open_clip.get_tokenizer("Tiny")
    with torch.no_grad():
        texts = [
            nn.functional.normalize(network.encode_text(tokens([f"a {name}", f"the {name}"])), dim=-1).mean(0)
            for name in ("cat", "dog")
        ]
        texts = nn.functional.normalize(torch.stack(texts), dim=-1)
        seen = nn.functional.normalize(network.encode_image(pixels), dim=-1)
        expected = network.logit_scale.exp() * seen @ texts.T
    assert torch.allclose(model(images()), expected, atol=1e-4)
    with pytest.raises(InputError, match="is not a model of open_clip"):
        CLASSIFIERS.build({**node, "id": "open_clip:Tny", "classes": ["cat"]})
    with pytest.raises(InputError, match=r"model\.pretrained is missing"):
        CLASSIFIERS.build({**node, "pretrained": None, "classes": ["cat"]})
