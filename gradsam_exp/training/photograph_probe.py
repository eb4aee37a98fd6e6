"""This module measures a segmenter on held-out photographs, by prompts made from what people have outlined.

Beside it stand two answers that know nothing of learning: the true box itself, and GrabCut from that box (Rother,
Kolmogorov and Blake, SIGGRAPH 2004; OpenCV's, five iterations), for whole objects and if OpenCV is installed.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import label
from torch import Tensor

from gradsam_exp.metrics.clicks import NumberOfClicks85
from gradsam_exp.overlap import iou
from gradsam_exp.prompts.regions import bounding_boxes
from gradsam_exp.prompts.robot_user import next_click
from gradsam_exp.segmenters.base import Embeddings, Segmenter
from gradsam_exp.segmenters.grabcut import BACKGROUND, PROBABLY_FOREGROUND, grabcut
from gradsam_exp.training.photographs import Photograph
from gradsam_exp.types import FOREGROUND, NO_POINT, Prompts, Segmentation

SPACINGS = (1.0, 4.0, 8.0)  # px of the photograph, which is at most 384 px wide and high
CLICKS = 5
MOST_CLICKS = 20  # on whole objects, for NoC@85, as RITM
SIZES = {"< 1 %": 0.01, "1–10 %": 0.1, "> 10 %": 1.0}  # of the picture
SMALLEST_SEGMENT = 0.01  # of the picture
OBJECTS = {"salient": "salient objects", "labelled": "labelled wholes", "instances": "instances"}
SEGMENTS = {"salient": "segments by people", "labelled": "labelled segments"}
Truth = Bool[Tensor, "targets height width"]


def probe_photographs(
    segmenter: Segmenter, sets: Mapping[str, Sequence[Photograph]], most: int | None = None
) -> dict[str, list[tuple[str, float]]]:
    """Measure the IoU with what is outlined, by kind of outline and prompt.

    Kinds are salient objects (and those of one piece), what a label map labels as a whole (a person), instances,
    and segments of at least 1 % of the picture, by people (the first who cut it) or labelled. Prompts: the
    innermost pixel; the true box; nine points around that pixel, 1, 4 and 8 px apart; corrective clicks, the last
    mask fed back (as `RobotUser`), with the number of them that an IoU of 0.85 takes (NoC@85; 20 if these are not
    enough) for whole objects. Where it is not said otherwise, predicted IoU chooses among three candidates. Click
    and box are also given by the target's share of the picture.

    Args:
        segmenter: loaded.
        sets: photographs by set.
        most: photographs of each set, at most.

    Returns:
        By ``kind: measure``, the photograph and the IoU (or number of clicks) of each target.
    """
    found: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for title, photographs in sets.items():
        for photograph in photographs[:most]:
            image = torch.from_numpy(photograph.image).permute(2, 0, 1)[None]
            embeddings = segmenter.encode(image)
            for kinds, truth in _targets(photograph):
                cut = photograph.image if kinds[0][0] in OBJECTS.values() else None
                shares = truth.float().mean((1, 2)).tolist()
                for measure, values in _measured(segmenter, embeddings, truth, cut).items():
                    for own, share, value in zip(kinds, shares, values.tolist(), strict=True):
                        size = next(size for size, most_of in SIZES.items() if share <= most_of)
                        sized = [f"{own[0]}, {size}"] if measure in ("one click", "true box") else []
                        for kind in (*own, *sized):
                            found[f"{kind}: {measure}"].append((f"{title}/{photograph.name}", value))
    return dict(sorted(found.items(), key=lambda item: item[0].partition(":")[0]))


def _targets(photograph: Photograph) -> Iterator[tuple[list[list[str]], Truth]]:
    """Give what is asked for with its kinds."""
    if photograph.objects:
        kinds = [[OBJECTS[photograph.kind]] for _ in photograph.objects]
        for own, mask in zip(kinds, photograph.objects, strict=True):
            if photograph.kind == "salient" and label(mask, np.ones((3, 3)))[1] == 1:
                own.append("salient objects of one piece")
        yield kinds, torch.from_numpy(np.stack(photograph.objects))
    if photograph.segmentations:
        numbers = photograph.segmentations[0]
        masks = [numbers == value for value in np.unique(numbers[numbers > 0])]
        kept = [mask for mask in masks if mask.mean() >= SMALLEST_SEGMENT]
        if kept:
            yield [[SEGMENTS[photograph.kind]] for _ in kept], torch.from_numpy(np.stack(kept))


def _measured(
    segmenter: Segmenter, embeddings: Embeddings, truth: Truth, cut: np.ndarray | None
) -> dict[str, Float[Tensor, " targets"]]:
    """Measure one image's targets; ``cut`` is the picture for GrabCut, which is slow, or None."""
    found = {}
    clicks = torch.tensor([next_click(one, np.zeros_like(one), []) for one in truth.numpy()])
    place, boxes = clicks[:, None, :2].float(), bounding_boxes(truth)
    asked = _by_points(place, clicks[:, 2:])
    answer = segmenter.decode(embeddings, asked)
    ious = _ious(segmenter, answer, embeddings, truth)
    found["one click"], found["one click, best of three"] = _chosen(answer, ious), ious[:, 1:].amax(1)
    frame = torch.tensor([truth.shape[2] - 1.0, truth.shape[1] - 1.0])
    for spacing in SPACINGS:
        steps = torch.tensor([-spacing, 0.0, spacing])
        grid = (place + torch.cartesian_prod(steps, steps)).clamp(min=torch.zeros(2), max=frame)
        nine = segmenter.decode(embeddings, _by_points(grid, torch.full(grid.shape[:2], FOREGROUND)))
        found[f"nine points {spacing:g} px apart"] = _chosen(nine, _ious(segmenter, nine, embeddings, truth))
    nothing = _by_points(torch.zeros(len(truth), 0, 2), torch.zeros(len(truth), 0, dtype=torch.long))
    boxed = segmenter.decode(embeddings, replace(nothing, boxes=boxes))
    ious = _ious(segmenter, boxed, embeddings, truth)
    found["true box"], found["true box, single mask"] = _chosen(boxed, ious), ious[:, 0]
    found["true box, best of three"] = ious[:, 1:].amax(1)
    inside = torch.zeros_like(truth)
    for own, (x0, y0, x1, y1) in zip(inside, (boxes + 0.5).long().tolist(), strict=True):
        own[y0:y1, x0:x1] = True
    found["the box itself"] = iou(inside, truth)
    if cut is not None and find_spec("cv2") is not None:
        found["GrabCut from the box"] = iou(_grabcut(cut, inside), truth)
    count = CLICKS if cut is None else MOST_CLICKS
    rounds = torch.stack([found["one click"], *_corrected(segmenter, embeddings, truth, asked, answer, count)], 1)
    for number in range(2, CLICKS + 1):
        found[f"mIoU@{number}"] = rounds[:, number - 1]
    if cut is not None:
        found["NoC@85"] = NumberOfClicks85(max_clicks=MOST_CLICKS).measure(rounds)
    return found


def _corrected(
    segmenter: Segmenter, embeddings: Embeddings, truth: Truth, asked: Prompts, answer: Segmentation, clicks: int
) -> Iterator[Float[Tensor, " targets"]]:
    """Click where the last mask is wrong, again and again; the single mask answers from the second click on."""
    rows = torch.arange(len(truth))
    best = 1 + answer.predicted_iou[:, 1:].argmax(1).cpu()
    points, labels = asked.points, asked.labels
    for _ in range(clicks - 1):
        logits = answer.logits[rows, best]
        masks = segmenter.to_original(logits, embeddings).cpu()
        before = torch.cat([points.long(), labels[..., None]], 2).tolist()
        new = torch.tensor([
            next_click((one & ~mask).numpy(), (mask & ~one).numpy(), [(x, y, label) for x, y, label in own])
            or (0, 0, NO_POINT)
            for one, mask, own in zip(truth, masks, before, strict=True)
        ])  # fmt: skip
        points, labels = torch.cat([points, new[:, None, :2].float()], 1), torch.cat([labels, new[:, 2:]], 1)
        prompts = Prompts(torch.zeros(len(truth), dtype=torch.long), points, labels, None, logits[:, None])
        answer, best = segmenter.decode(embeddings, prompts), torch.zeros_like(best)
        yield _ious(segmenter, answer, embeddings, truth)[:, 0]


def _by_points(points: Tensor, labels: Tensor) -> Prompts:
    return Prompts(torch.zeros(len(points), dtype=torch.long), points, labels)


def _ious(segmenter: Segmenter, answer: Segmentation, embeddings: Embeddings, truth: Truth) -> Tensor:
    """Compute the IoU of every candidate, ``(targets, candidates)``."""
    masks = segmenter.to_original(answer.logits.flatten(0, 1), embeddings).cpu()
    return iou(masks.unflatten(0, answer.logits.shape[:2]), truth[:, None])


def _chosen(answer: Segmentation, ious: Tensor) -> Float[Tensor, " targets"]:
    best = 1 + answer.predicted_iou[:, 1:].argmax(1).cpu()
    return ious[torch.arange(len(best)), best]


def _grabcut(image: np.ndarray, inside: Truth) -> Truth:
    """Cut out what is in each box; a box of the whole picture, which leaves no background, stays as it is."""
    marks = np.where(inside.numpy(), PROBABLY_FOREGROUND, BACKGROUND).astype(np.uint8)
    return torch.from_numpy(np.stack([grabcut(image, one) for one in marks]))
