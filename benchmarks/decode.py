"""Mask decoding: batched over images against `SamPredictor`, one image after the other.

``python -m benchmarks.decode``: compact with its shipped weights, built-in test images, nine points an image, the
best of three masks in the original frame. Image embeddings are given to both, so `SamPredictor` is timed
without `set_image`. Masks are compared image by image (smallest IoU).

Limits: one query an image; `SamPredictor` also brings the two masks that are not kept to the original frame, as
it always does; it is given our coordinates, so that both are asked the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
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
    arguments = parser.parse_args()
    segmenter = load_segmenter("compact")
    assert isinstance(segmenter, SamSegmenter)
    dataset = Shapes("test", Mixed("test"), length=arguments.images)
    images = collate([dataset[index] for index in range(arguments.images)]).images
    embeddings = segmenter.encode(images)
    torch.manual_seed(0)
    spread = torch.randn(arguments.images, arguments.points, 2) * 3 + torch.tensor([31.5, 23.5])
    labels = torch.ones(arguments.images, arguments.points, dtype=torch.long)
    prompts = Prompts(torch.arange(arguments.images), spread, labels)
    contestants: dict[str, Callable[[], Tensor]] = {
        "SamPredictor": lambda: _loop(segmenter, embeddings, prompts),
        "batched": lambda: _batched(segmenter, embeddings, prompts),
    }
    agreement = iou(contestants["SamPredictor"](), contestants["batched"]())
    seconds = interleaved(contestants, rounds=arguments.rounds)
    title = f"decode, {arguments.images} images, {arguments.points} points each"
    ratios = report(title, seconds, against="batched")
    result(
        speedup_vs_sam_predictor=round(ratios["SamPredictor"], 2),
        smallest_iou_with_sam_predictor=float(agreement.min()),
        images_per_s=round(arguments.images / sorted(seconds["batched"])[len(seconds["batched"]) // 2]),
    )


def _batched(segmenter: SamSegmenter, embeddings: Embeddings, prompts: Prompts) -> Tensor:
    answer = segmenter.decode(embeddings, prompts)
    best = 1 + answer.predicted_iou[:, 1:].argmax(1)
    return segmenter.to_original(answer.logits[torch.arange(len(best)), best], embeddings)


def _loop(segmenter: SamSegmenter, embeddings: Embeddings, prompts: Prompts) -> Tensor:
    predictor = SamPredictor(segmenter.model)
    predictor.original_size, predictor.input_size = embeddings.original_size, embeddings.input_size
    predictor.is_image_set = True
    # SamPredictor scales coordinates itself; see `SamSegmenter.to_input` for the half pixel between the two.
    scale = embeddings.input_size[1] / embeddings.original_size[1]
    coordinates = (segmenter.to_input(prompts.points, embeddings) / scale).numpy()
    masks = []
    for row in range(len(prompts)):
        predictor.features = embeddings.levels[0][row : row + 1]
        found, scores, _ = predictor.predict(coordinates[row], prompts.labels[row].numpy(), multimask_output=True)
        masks.append(torch.from_numpy(found[scores.argmax()]))
    return torch.stack(masks)


if __name__ == "__main__":
    main()
