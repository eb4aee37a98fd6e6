"""A segmenter reads what it needs: the decoder at once, the image encoder for the first image."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor

from gradsam_exp import weights
from gradsam_exp.errors import InputError
from gradsam_exp.segmenters import checkpoints
from gradsam_exp.segmenters.base import SEGMENTERS, Segmenter
from gradsam_exp.segmenters.checkpoints import load_segmenter
from gradsam_exp.segmenters.compact import build_compact
from gradsam_exp.segmenters.mobile import build_mobile_sam
from gradsam_exp.segmenters.sam import SamSegmenter
from gradsam_exp.types import Prompts

pytestmark = pytest.mark.slow  # whole networks, and their other implementations


def test_the_encoder_is_read_with_the_first_image(monkeypatch: pytest.MonkeyPatch):
    images = torch.randint(0, 256, (1, 3, 48, 64), dtype=torch.uint8)
    click = Prompts(torch.tensor([0]), torch.tensor([[[30.0, 20.0]]]), torch.tensor([[1]]))
    first = load_segmenter("compact")
    assert isinstance(first, SamSegmenter)
    embeddings = first.encode(images)

    read: list[str] = []
    load = checkpoints.load_encoder
    monkeypatch.setattr(checkpoints, "load_encoder", lambda *given: read.append("encoder") or load(*given))
    second = SEGMENTERS.build({"name": "compact"})
    second.load(torch.device("cpu"))
    answer = second.decode(embeddings, click)
    assert torch.equal(answer.logits, first.decode(embeddings, click).logits)
    assert read == [], "decoding needs no encoder"
    assert torch.equal(second.encode(images).levels[0], embeddings.levels[0])
    second.encode(images)
    assert read == ["encoder"]


def test_all_of_the_model_is_there_afterwards():
    whole = build_compact()
    whole.load_state_dict(weights.shipped("compact_drawn").tensors())
    model = load_segmenter("compact_drawn").model
    for (name, ours), (_, theirs) in zip(model.state_dict().items(), whole.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), name
    assert torch.equal(model.pixel_mean, whole.pixel_mean)
    assert torch.equal(model.pixel_std, whole.pixel_std)


def test_weights_of_another_architecture_are_refused(tmp_path: Path):
    state = {key: value for key, value in build_compact().state_dict().items() if "neck" not in key}
    path = weights.save_weights(tmp_path / "w.safetensors", state, {"kind": "compact"})
    with pytest.raises(InputError, match="is of another architecture"):
        load_segmenter("compact", checkpoint=path)


def test_a_changed_file_has_another_digest(tmp_path: Path):
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    before = weights.file_digest(path)
    path.write_bytes(b"another")
    assert weights.file_digest(path) != before


@pytest.mark.slow
def test_weights_in_half_precision_are_used_in_full(tmp_path: Path):
    torch.save(sam_model_registry["vit_b"]().half().state_dict(), tmp_path / "half.pth")
    segmenter = load_segmenter("vit_b", checkpoint=tmp_path / "half.pth")
    assert isinstance(segmenter, SamSegmenter)
    assert {p.dtype for p in segmenter.model.parameters()} == {torch.float32}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Sam:
    """A random model of compact's size that stands for the official vit_b."""
    monkeypatch.setitem(checkpoints.OFFICIAL, "vit_b", checkpoints.Official("x/small.pth", None, build_compact))
    checkpoints.SEGMENTERS._factories.pop("vit_b")
    checkpoints._official("vit_b", checkpoints.OFFICIAL["vit_b"])
    torch.manual_seed(1)
    return build_compact()


def same(segmenter: Segmenter, state: dict[str, Tensor]) -> bool:
    assert isinstance(segmenter, SamSegmenter)
    return all(torch.equal(value, state[name]) for name, value in segmenter.model.state_dict().items())


@pytest.mark.parametrize("nest", [(), ("model",), ("state_dict",), ("model_state_dict",), ("state_dict", "model")])
@pytest.mark.parametrize("prefix", ["", "module.", "sam.", "model.", "module.sam."])
def test_fine_tuned_weights_are_found_where_they_lie(small: Sam, nest, prefix: str, tmp_path: Path):
    state = small.state_dict()
    saved: dict = {f"{prefix}{name}": value for name, value in state.items()}
    for name in reversed(nest):
        saved = {name: saved, "epoch": 3, "optimizer": {"lr": 1e-4}}
    torch.save(saved, tmp_path / "w.pth")
    assert same(load_segmenter("vit_b", checkpoint=tmp_path / "w.pth"), state)


@pytest.mark.parametrize("part", ["whole names", "the decoder's own names", "decoder and prompt encoder"])
def test_a_decoder_alone_needs_its_base(small: Sam, part: str, tmp_path: Path):
    base = small.state_dict()
    tuned = {name: value + 1 for name, value in base.items() if name.startswith("mask_decoder.")}
    if part == "decoder and prompt encoder":
        tuned |= {name: value + 1 for name, value in base.items() if name.startswith("prompt_encoder.")}
    own = {name.removeprefix("mask_decoder."): value for name, value in tuned.items()}
    torch.save(own if part == "the decoder's own names" else tuned, tmp_path / "decoder.pth")
    torch.save(base, tmp_path / "base.pth")
    with pytest.raises(InputError, match=r"holds no image encoder: give sam\.base=PATH"):
        load_segmenter("vit_b", checkpoint=tmp_path / "decoder.pth")
    segmenter = load_segmenter("vit_b", checkpoint=tmp_path / "decoder.pth", base=tmp_path / "base.pth")
    assert same(segmenter, base | tuned)
    torch.save({name: value + 2 for name, value in base.items()}, tmp_path / "other.pth")
    other = load_segmenter("vit_b", checkpoint=tmp_path / "decoder.pth", base=tmp_path / "other.pth")
    assert other.digest != segmenter.digest
    torch.save({"mask_decoder.extra": torch.zeros(1), **tuned}, tmp_path / "decoder.pth")
    with pytest.raises(InputError, match=r"another architecture: 1 tensors differ, such as mask_decoder\.extra"):
        load_segmenter("vit_b", checkpoint=tmp_path / "decoder.pth", base=tmp_path / "base.pth")


def test_what_is_no_state_dict_says_where_was_looked(tmp_path: Path):
    torch.save({"state_dict": {"epoch": 3}}, tmp_path / "w.pth")
    with pytest.raises(
        InputError, match="no plain state dict of tensors, also not under model, state_dict, model_"
    ):
        load_segmenter("vit_b", checkpoint=tmp_path / "w.pth")


def zeros(build: Callable[[], Sam]) -> dict[str, Tensor]:
    """The names and shapes of a model, in almost no bytes."""
    with torch.device("meta"):
        state = build().state_dict()
    return {name: torch.zeros(()).expand(value.shape) for name, value in state.items()}


def test_weights_of_another_official_model_are_recognised(tmp_path: Path):
    torch.save(zeros(sam_model_registry["vit_l"]), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"another architecture: .*; it is a vit_l: use sam=vit_l"):
        load_segmenter("vit_b", checkpoint=tmp_path / "w.pth")
    torch.save(zeros(build_mobile_sam) | {"added.weight": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"; nearest is sam=mobile_sam, of which 1 differ"):
        load_segmenter("vit_h", checkpoint=tmp_path / "w.pth")


@pytest.mark.slow
def test_mobile_sam_equals_its_own_package(tmp_path: Path):
    from mobile_sam import SamPredictor
    from mobile_sam import sam_model_registry as theirs

    torch.manual_seed(0)
    sam = theirs["vit_t"]()
    torch.save(sam.state_dict(), tmp_path / "mobile_sam.pt")
    segmenter = load_segmenter("mobile_sam", checkpoint=tmp_path / "mobile_sam.pt", coordinates="corners")
    image = torch.randint(0, 256, (1, 3, 60, 80), dtype=torch.uint8)
    predictor = SamPredictor(sam.eval())
    predictor.set_image(image[0].permute(1, 2, 0).numpy())
    embeddings = segmenter.encode(image)
    assert (embeddings.levels[0] - predictor.features).abs().max() <= 1e-5 * predictor.features.std()
    xy, labels = torch.tensor([[[20.0, 30.0], [5.0, 50.0]]]), torch.tensor([[1, 0]])
    ours = segmenter.decode(embeddings, Prompts(torch.tensor([0]), xy, labels)).logits[0, 1:]
    logits = torch.from_numpy(predictor.predict(xy[0].numpy(), labels[0].numpy())[2])
    assert (ours - logits).abs().max() <= 1e-3 * logits.std()


def test_mobile_sams_package_leaves_timms_networks_alone():
    import timm

    build_mobile_sam()
    assert type(timm.create_model("tiny_vit_5m_224", pretrained=False)).__module__ == "timm.models.tiny_vit"
    assert "tiny_vit_5m_224.dist_in22k" in timm.list_pretrained("tiny_vit*")


def test_without_its_package_mobile_sam_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mobile_sam", None)
    with pytest.raises(InputError, match=r'pip install "gradsam_exp\[mobile_sam\]"'):
        load_segmenter("mobile_sam")
