"""Segmenters on an accelerator, and embeddings of several levels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from gradsam_exp.data.backgrounds import Noise
from gradsam_exp.data.shapes import SHAPES, Shapes
from gradsam_exp.engine.preparation import Explained, Preparation, Prepared
from gradsam_exp.engine.store import Store
from gradsam_exp.refiners.base import Unrefined
from gradsam_exp.segmenters.base import Embeddings
from gradsam_exp.segmenters.cached import CachedSegmenter
from gradsam_exp.segmenters.compact import build_compact
from gradsam_exp.segmenters.sam import SamSegmenter
from gradsam_exp.segmenters.tta import Augmented
from gradsam_exp.types import Heatmaps, Prompts
from tests.accelerator import pretended_accelerator
from tests.album import Album

IMAGES = torch.arange(2 * 3 * 48 * 64).reshape(2, 3, 48, 64).to(torch.uint8)


@pytest.mark.slow
def test_sam_brings_prompts_from_the_cpu_to_its_own_device():
    prompts = Prompts(
        torch.tensor([0, 1, 1]),
        torch.full((3, 2, 2), 5.0),
        torch.tensor([[1, 1], [1, -1], [1, 0]]),
        torch.tensor([[1.0, 1, 20, 20]]).expand(3, -1),
        torch.zeros(3, 1, 64, 64),
    )
    with pretended_accelerator() as cuda:
        segmenter = SamSegmenter(build_compact, "random")
        segmenter.load(cuda)
        fresh = segmenter.encode(IMAGES)
        assert fresh.levels[0].device.type == "cuda"
        for embeddings in (fresh, Embeddings.joined([fresh])):
            answer = segmenter.decode(embeddings, prompts)
            assert (answer.logits.device.type, answer.predicted_iou.device.type) == ("cuda", "cuda")
            assert answer.example_index.device.type == "cpu"
            assert segmenter.to_original(answer.logits[:, 0], embeddings).device.type == "cuda"
            assert segmenter.to_low_res(torch.zeros(2, 48, 64), embeddings).device.type == "cpu"


class TwoLevels(Album):
    """Answers with the image's red and green, each from its own level."""

    def decode(self, embeddings, prompts):
        answer = super().decode(embeddings, prompts)
        red, green = (level[prompts.example_index, 0] for level in embeddings.levels)
        size = tuple(embeddings.original_size)
        assert (red.shape[1:], green.shape[1:]) == (size, (size[0] // 2, size[1] // 2))
        logits = answer.logits.clone()
        logits[:, 0, : size[0], : size[1]] = red
        logits[:, 1, : size[0], : size[1]] = green.repeat_interleave(2, 1).repeat_interleave(2, 2)
        return replace(answer, logits=logits, single=torch.full((len(prompts),), 2))


def asked() -> Prompts:
    return Prompts(torch.tensor([1, 0]), torch.full((2, 1, 2), 20.0), torch.ones(2, 1, dtype=torch.long))


def test_every_level_is_part_of_a_cached_answers_key():
    cached = CachedSegmenter(TwoLevels(), 2**24)
    embeddings = cached.encode(IMAGES)
    first = cached.decode(embeddings, asked())
    again = cached.decode(embeddings, asked())
    assert cached.decoded == 2
    assert torch.equal(again.logits, first.logits)
    assert again.single is not None
    assert again.single.tolist() == [2, 2], "what else was answered is kept as well"
    other = replace(embeddings, levels=(embeddings.levels[0], embeddings.levels[1] + 1))
    assert torch.equal(cached.decode(other, asked()).logits[:, 1, :48, :64], first.logits[:, 1, :48, :64] + 1)
    assert cached.decoded == 4


def test_a_view_has_its_part_of_every_level():
    plain, both = TwoLevels(), Augmented(TwoLevels(), 2)
    embeddings = both.encode(IMAGES)
    assert [level.shape[1] for level in embeddings.levels] == [2, 2]
    expected = plain.decode(plain.encode(IMAGES), asked())
    answer = both.decode(embeddings, asked())
    red = answer.logits[:, 0, :48, :64]
    assert torch.equal(red, expected.logits[:, 0, :48, :64]), (
        "the mirrored image's red, mirrored back, is the image's"
    )
    assert answer.single is not None


def test_levels_are_cut_and_joined_together():
    embeddings = Album().encode(IMAGES)
    joined = Embeddings.joined([embeddings.of_images(slice(1)), embeddings.of_images(slice(1, None))])
    assert all(torch.equal(*pair) for pair in zip(joined.levels, embeddings.levels, strict=True))


def never(*_: object) -> None:
    raise AssertionError("the store has the embeddings")


def prepared(store: Store) -> list[Prepared]:
    """Eight images in chunks of at most five, encoded by `Album`."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    dataset = Shapes("test", Noise("test"), length=8)

    def explainer(images: torch.Tensor, targets: torch.Tensor | None) -> Heatmaps:
        values = images[:, 0].float() / 255
        return Heatmaps(values, torch.zeros(len(images), dtype=torch.bool), torch.zeros(len(images)).long())

    explained = Explained(SHAPES, lambda: (network, explainer))
    return list(Preparation(explained, Unrefined(), Album(), store=store)(dataset, batch_size=2))


def test_levels_come_out_of_the_store_as_they_went_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gradsam_exp.engine.preparation.CHUNK", 5)
    made = prepared(Store(tmp_path))
    monkeypatch.setattr(Album, "encode", never)
    read = prepared(Store(tmp_path))
    assert [len(chunk.embeddings) for chunk in read] == [5, 3]
    assert len(list((tmp_path / "embeddings").glob("*.safetensors"))) == 2
    for before, after in zip(made, read, strict=True):
        red, green = after.embeddings.levels
        assert torch.equal(red[:, 0], after.batch.images[:, 0].float())
        assert torch.equal(green[:, 0], after.batch.images[:, 1, ::2, ::2].float())
        assert (after.embeddings.input_size, after.embeddings.original_size) == ((192, 256), (48, 64))
        first, second = (TwoLevels().decode(chunk.embeddings, asked()).logits for chunk in (before, after))
        assert torch.equal(first, second)


def test_all_levels_count_for_the_stores_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With room for all but the second levels, embeddings go until the rest fits."""
    monkeypatch.setattr("gradsam_exp.engine.preparation.CHUNK", 1)
    monkeypatch.setattr("gradsam_exp.engine.store.IN_USE_S", -1.0)

    def size(root: Path) -> int:
        return sum(path.stat().st_size for path in root.rglob("*.safetensors"))

    chunks = prepared(Store(tmp_path / "unbounded"))
    second = sum(chunk.embeddings.levels[1].nbytes for chunk in chunks)
    whole = size(tmp_path / "unbounded")
    assert second == 8 * 24 * 32 * 4
    for room in (whole, whole - second):
        prepared(Store(tmp_path / str(room), max_bytes=room))
    assert size(tmp_path / str(whole)) == whole
    assert 0.5 * whole < size(tmp_path / str(whole - second)) <= whole - second
