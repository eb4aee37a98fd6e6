"""What the probe of photographs says of a segmenter whose answers are known."""

import numpy as np
import pytest
import torch

from gradsam_exp.segmenters.base import Embeddings
from gradsam_exp.training.photograph_probe import probe_photographs
from gradsam_exp.training.photographs import Photograph
from gradsam_exp.types import Prompts, Segmentation


class Halves:
    """Answers all by nothing, the right half, the left one and everything; thinks most of one of the two."""

    digest, cell, accepts, device = "halves", 1.0, frozenset({"points", "boxes", "masks"}), torch.device("cpu")
    provides = frozenset()

    def load(self, device: torch.device) -> None:
        pass

    def to_low_res(self, values: torch.Tensor, embeddings: Embeddings) -> torch.Tensor:
        return values

    def encode(self, images: torch.Tensor) -> Embeddings:
        size = tuple(images.shape[-2:])
        return Embeddings.of_one_size([torch.zeros(1, 1, *size)], size, size)

    def decode(self, embeddings: Embeddings, prompts: Prompts) -> Segmentation:
        side, columns = max(embeddings.original_size), embeddings.original_size[1]
        left = torch.arange(side) < columns // 2
        masks = torch.stack([left & False, ~left, left, left | True])[:, None].expand(4, side, side)
        logits = torch.where(masks, 5.0, -5.0).expand(len(prompts), -1, -1, -1)
        best = torch.tensor([0.0, 0.2, 0.9, 0.1] if prompts.boxes is None else [1.0, 0.9, 0.2, 0.1])
        return Segmentation(logits, best.expand(len(prompts), -1), prompts.example_index)

    def to_original(self, logits: torch.Tensor, embeddings: Embeddings) -> torch.Tensor:
        rows, columns = embeddings.original_size
        return logits[..., :rows, :columns] > 0


def test_ious_are_those_of_the_answers():
    numbers = np.ones((20, 40), np.uint16)
    numbers[:, 30:], numbers[0, 0] = 2, 3  # the last is too small to be asked for
    left = np.zeros((20, 40), bool)
    left[:, :20] = True
    one = Photograph("x", np.zeros((20, 40, 3), np.uint8), (numbers,), (left,), "salient")
    found = probe_photographs(Halves(), {"set": [one, one]}, 1)
    means = {name: np.mean([value for _, value in pairs]) for name, pairs in found.items()}
    assert means["salient objects: one click"] == 1
    assert means["salient objects of one piece: true box"] == 0
    assert means["salient objects: true box, best of three"] == 1
    assert means["salient objects: true box, single mask"] == 0
    assert means["salient objects: the box itself"] == 1
    assert means["salient objects: nine points 8 px apart"] == 1
    assert means["salient objects: mIoU@2"] == 0
    assert means["salient objects: NoC@85"] == 1
    assert means["salient objects, > 10 %: one click"] == 1
    assert {name for name in found if "1–10 %" in name or "< 1 %" in name} == set()
    # Of 599 and 200 px: the left half has 399 of the first and none of the second, all has both.
    assert means["segments by people: one click"] == pytest.approx((399 / 600 + 0) / 2)
    assert means["segments by people: one click, best of three"] == pytest.approx((599 / 800 + 0.5) / 2)
    assert means["segments by people: the box itself"] == pytest.approx((599 / 600 + 1) / 2)
    assert {len(pairs) for name, pairs in found.items() if name.startswith("segments")} == {2}
    assert not any("GrabCut" in name or "NoC" in name for name in found if name.startswith("segments"))
    assert {image for pairs in found.values() for image, _ in pairs} == {"set/x"}


def test_grabcut_finds_what_has_another_colour_than_the_rest():
    pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    image = rng.normal(60, 8, (60, 60, 3))
    ys, xs = np.mgrid[:60, :60]
    disc = (ys - 30) ** 2 + (xs - 30) ** 2 < 15**2
    image[disc] += 120
    one = Photograph("x", image.clip(0, 255).astype(np.uint8), (), (disc,), "instances")
    found = probe_photographs(Halves(), {"set": [one]})
    (_, grabcut), (_, box) = (
        found[f"instances: {what}"][0] for what in ("GrabCut from the box", "the box itself")
    )
    assert grabcut > 0.97
    assert found["instances: NoC@85"][0][1] == 20  # a half of the picture never is the disc
    assert "instances, > 10 %: true box" in found
    assert box == pytest.approx(disc.sum() / 29**2)
