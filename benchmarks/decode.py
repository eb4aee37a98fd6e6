"""Mask decoding: batched over images against `SamPredictor`, one image after the other.

``python -m benchmarks.decode``: compact with its shipped weights, built-in test images, nine points an image, the
best of three masks in the original frame. Image embeddings are given to both, so `SamPredictor` is timed
without `set_image`. Masks are compared image by image (smallest IoU). With ``--mixed`` all images differ in size.

Limits: one query an image; `SamPredictor` also brings the two masks that are not kept to the original frame, as
it always does; it is given our coordinates, so that both are asked the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from segment_anything import SamPredictor
from torch import Tensor

from benchmarks.timing import interleaved, report, result
from gradsam_exp.data.backgrounds import Mixed
from gradsam_exp.data.base import collate
from gradsam_exp.data.shapes import Shapes
from gradsam_exp.overlap import iou
from gradsam_exp.segmenters.base import Embeddings
from gradsam_exp.segmenters.checkpoints import load_segmenter
from gradsam_exp.segmenters.sam import SamSegmenter
from gradsam_exp.types import Prompts


def main() -> None:
    """Time the loop and the batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--points", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mixed", action="store_true", help="images of as many sizes, photograph-like")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    segmenter = load_segmenter("compact", device=arguments.device)
    assert isinstance(segmenter, SamSegmenter)
    torch.manual_seed(0)
    images = _images(arguments.images, mixed=arguments.mixed)
    parts = [segmenter.encode(some) for some in images]
    embeddings = parts[0] if len(parts) == 1 else Embeddings.joined(parts)
    sides = embeddings.original_sizes.flip(1)[:, None]
    spread = torch.randn(len(sides), arguments.points, 2) * sides.amin(2, keepdim=True) / 16 + (sides - 1) / 2
    spread = torch.minimum(spread.clamp(min=0), sides - 1)
    prompts = Prompts(torch.arange(len(sides)), spread, torch.ones(len(sides), arguments.points, dtype=torch.long))
    contestants: dict[str, Callable[[], list[Tensor]]] = {
        "SamPredictor": lambda: _loop(segmenter, embeddings, prompts),
        "batched": lambda: _batched(segmenter, embeddings, prompts),
    }
    if arguments.mixed:
        contestants["size by size"] = lambda: [
            mask
            for row, part in enumerate(parts)
            for mask in _batched(segmenter, part, replace(prompts[row : row + 1], example_index=torch.tensor([0])))
        ]
    found = {name: contestant() for name, contestant in contestants.items()}
    agreement = {
        name: min(float(iou(one[None], other[None])) for one, other in zip(found["batched"], masks, strict=True))
        for name, masks in found.items()
    }
    seconds = interleaved(contestants, rounds=arguments.rounds)
    kind = f"{len(parts)} sizes" if arguments.mixed else "one size"
    title = f"decode, {arguments.images} images of {kind}, {arguments.points} points each"
    ratios = report(title, seconds, against="batched")
    result(
        speedup_vs_sam_predictor=round(ratios["SamPredictor"], 2),
        smallest_iou={name: value for name, value in agreement.items() if name != "batched"},
        images_per_s=round(arguments.images / sorted(seconds["batched"])[len(seconds["batched"]) // 2]),
    )


def _images(count: int, *, mixed: bool) -> list[Tensor]:
    """Built-in test images: of one size together, or each enlarged to a size of its own."""
    dataset = Shapes("test", Mixed("test"), length=count)
    images = collate([dataset[index] for index in range(count)]).images
    if not mixed:
        return [images]
    sizes = [(150 + 7 * k % 350, 150 + 11 * k % 350) for k in range(count)]
    return [F.interpolate(one[None], size, mode="nearest") for one, size in zip(images, sizes, strict=True)]


def _batched(segmenter: SamSegmenter, embeddings: Embeddings, prompts: Prompts) -> list[Tensor]:
    answer = segmenter.decode(embeddings, prompts)
    best = answer.logits[torch.arange(len(prompts)), 1 + answer.predicted_iou[:, 1:].argmax(1)]
    if len(embeddings.original_sizes.unique(dim=0)) == 1:
        return list(segmenter.to_original(best, embeddings))
    rows = [slice(row, row + 1) for row in range(len(best))]
    return [segmenter.to_original(best[row], embeddings.of_images(row))[0] for row in rows]


def _loop(segmenter: SamSegmenter, embeddings: Embeddings, prompts: Prompts) -> list[Tensor]:
    predictor = SamPredictor(segmenter.model)
    predictor.is_image_set = True
    # SamPredictor scales coordinates itself; see `SamSegmenter.to_input` for the half pixel between the two.
    points = segmenter.to_input(prompts.points, embeddings, embeddings.images_asked(prompts))
    coordinates = points / (embeddings.input_sizes.double() / embeddings.original_sizes).flip(1)[:, None]
    masks = []
    for row in range(len(prompts)):
        predictor.original_size, predictor.input_size = (
            tuple(sizes[row].tolist()) for sizes in (embeddings.original_sizes, embeddings.input_sizes)
        )
        predictor.features = embeddings.levels[0][row : row + 1]
        found, scores, _ = predictor.predict(
            coordinates[row].cpu().numpy(), prompts.labels[row].numpy(), multimask_output=True
        )
        masks.append(torch.from_numpy(found[scores.argmax()]))
    return masks


if __name__ == "__main__":
    main()
