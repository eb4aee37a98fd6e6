"""A segmenter reads what it needs: the decoder at once, the image encoder for the first image."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from segment_anything import sam_model_registry

from gradsam_exp import weights
from gradsam_exp.errors import InputError
from gradsam_exp.segmenters import checkpoints
from gradsam_exp.segmenters.base import SEGMENTERS
from gradsam_exp.segmenters.checkpoints import load_segmenter
from gradsam_exp.segmenters.compact import build_compact
from gradsam_exp.segmenters.sam import SamSegmenter
from gradsam_exp.types import Prompts


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
    whole.load_state_dict(weights.shipped("compact").tensors())
    model = load_segmenter("compact").model
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
