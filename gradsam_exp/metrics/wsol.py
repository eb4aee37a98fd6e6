"""These metrics rate heatmaps as weakly supervised object localisation does: MaxBoxAccV2, PxAP, box IoU.

The protocol is that of Choe et al., *Evaluating Weakly Supervised Object Localization Methods Right* (CVPR 2020,
sections 3.2 and 3.3; https://github.com/clovaai/wsolevaluation, whose conventions these are):

- A heatmap is resized to ``size × size`` px, whatever the image's shape (bicubic, without smoothing, as OpenCV's),
  and then min–max scaled to [0, 1]. One that is constant is zero everywhere; it is scored as it is.
- Thresholds are 0, 0.001, …, 0.999. For boxes the heat is rounded down to 255ths, and a pixel is in if it is
  *above* threshold × 255, rounded down: there are 255 different thresholds, 0 … 254 of 255.
- A box is drawn around a contour of these pixels (8-connected; contours of holes are contours). It is ``x0, y0,
  x1, y1`` with ``x1 = x0 + width`` and ``y1 = y0 + height``, at most ``size − 1``; that of no pixel is all 0.
- True boxes follow the same rule in the original frame, are scaled to ``size`` and rounded down.
- IoU takes ``x1 − x0 + 1`` for the width of a box, and its height alike.

Where there was no convention, or ours differs: a true box is that of the true mask; the examples of an image that
have the same class are one case (any of their boxes is right, their masks are united), scored by the heatmap of
the first. Where a pixel does not count it is not in the truth, and not in PxAP; heat there is part of the
estimated boxes, as holes would tear these. Values are in [0, 1], not in percent.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from pydantic import Field
from scipy import ndimage
from torch import Tensor

from gradsam_exp.metrics.base import METRICS, DatasetMetric, ExampleMetric, as_masks
from gradsam_exp.overlap import only_counted
from gradsam_exp.types import Heatmaps, Masks, PerImage

Boxes = Int[np.ndarray, "boxes 4"]
Contours = Literal["all", "largest"]
Size = Annotated[int, Field(ge=2)] | None
Share = Annotated[float, Field(ge=0, lt=1)]
THRESHOLDS = np.arange(0, 1, 0.001)
LEVELS, _FIRST = np.unique((THRESHOLDS * 255).astype(int), return_index=True)
_EIGHT = np.ones((3, 3), dtype=int)
_NO_BOX = np.zeros((1, 4), dtype=int)


def box_ious(one: Int[np.ndarray, "one 4"], other: Int[np.ndarray, "other 4"]) -> Float[np.ndarray, "one other"]:
    """Compute the IoU of every two boxes ``x0, y0, x1, y1``, both ends included: the width is ``x1 − x0 + 1``."""
    first, second = one[:, None], other[None]
    low, high = np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])
    both = (high - low + 1).clip(0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2] + 1).prod(-1) for boxes in (first, second)]
    return both / (areas[0] + areas[1] - both)


def tight_box(mask: Bool[np.ndarray, "height width"]) -> Int[np.ndarray, " 4"]:
    """Find the first and the last pixels of a mask that is not empty: ``x0, y0, x1, y1``, both ends included."""
    ((top, bottom), (left, right)) = (np.flatnonzero(mask.any(axis))[[0, -1]] for axis in (1, 0))
    return np.array([left, top, right, bottom])


def mask_box(mask: Bool[np.ndarray, "height width"]) -> Int[np.ndarray, " 4"]:
    """Draw the protocol's box around a mask that is not empty: ``x0, y0, x0 + width, y0 + height``."""
    height, width = mask.shape
    return np.minimum(tight_box(mask) + [0, 0, 1, 1], [width, height, width - 1, height - 1])


def scaled_box(box: Int[np.ndarray, " 4"], size: tuple[int, int], to: int | None) -> Int[np.ndarray, " 4"]:
    """Scale a box in an image of ``(height, width)`` px to ``to × to`` px, rounded down; None: leave it."""
    if to is None:
        return box
    return (box * float(to) / np.array([size[1], size[0]] * 2)).astype(int)


def score_map(heat: Float[Tensor, "height width"], size: int | None) -> Float[np.ndarray, "rows columns"]:
    """Resize a heatmap to ``size × size`` px (None: not) and scale it to [0, 1]; zero if it is constant."""
    if heat.min() == heat.max():  # what is interpolated would differ by rounding
        heat = torch.zeros_like(heat)
    if size is not None and tuple(heat.shape) != (size, size):
        heat = F.interpolate(heat[None, None].float(), (size, size), mode="bicubic", align_corners=False)[0, 0]
    values = heat.float().numpy()
    values = values - values.min()
    highest = values.max()
    return values / highest if highest > 0 else values


def level_boxes(
    scores: Float[np.ndarray, "height width"],
    levels: Int[np.ndarray, " levels"] | Sequence[int],
    contours: Contours,
) -> Iterator[Boxes]:
    """Draw the boxes at each level: around every contour of the pixels above it, or around the largest.

    The largest encloses the largest area (between pixel centres, holes included: a line has none); of equal
    ones it is that whose first pixel, row by row, comes last. This is OpenCV's order.

    Args:
        scores: as `score_map` gives them.
        levels: 0 … 254, in 255ths; increasing.
        contours: ``all`` or ``largest``.
    """
    height, width = scores.shape
    image = (scores * 255).astype(np.uint8)
    left = top = 0
    last, found = None, _NO_BOX
    for level in levels:
        mask = image > level
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            yield _NO_BOX
            continue
        image = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        left, top = left + columns[0], top + rows[0]
        count = np.count_nonzero(mask)
        if count != last:  # the pixels above a level are among those above a lower one
            last = count
            found = _boxes(mask, contours) + [left, top, left, top]
            found[:, 2:] = np.minimum(found[:, 2:], [width - 1, height - 1])
        yield found


def boxes_at(scores: Float[np.ndarray, "height width"], threshold: float, contours: Contours) -> Boxes:
    """Draw the boxes at one threshold in [0, 1); see `level_boxes`."""
    return next(level_boxes(scores, [int(threshold * 255)], contours))


def _boxes(mask: Bool[np.ndarray, "height width"], contours: Contours) -> Boxes:
    """The boxes around the contours of a mask that is not empty; may end one pixel outside."""
    outside, parts = ndimage.label(np.pad(~mask, 1, constant_values=True))  # part 1 is around the mask
    if contours == "all":
        around = [_sides(part) for part in ndimage.find_objects(ndimage.label(mask, _EIGHT)[0])]
        inner = [_sides(part) for part in ndimage.find_objects(outside)[1:]] if parts > 1 else []
        grown = [(x0 - 2, y0 - 2, x1, y1) for x0, y0, x1, y1 in inner]  # by the pixels around it; was padded
        return np.array(around + grown)
    filled, count = ndimage.label(outside[1:-1, 1:-1] != 1 if parts > 1 else mask, _EIGHT)
    chosen = 0
    if count > 1:
        areas = _contour_areas(filled, count)
        chosen = count - 1 - int(areas[::-1].argmax())
    return np.array([_sides(ndimage.find_objects(filled)[chosen])])


def _sides(part: tuple[slice, slice]) -> tuple[int, int, int, int]:
    return part[1].start, part[0].start, part[1].stop, part[0].stop


def _contour_areas(labels: Int[np.ndarray, "height width"], count: int) -> Shaped[np.ndarray, " areas"]:
    """The areas within the polygons through the outer pixels' centres of parts without holes."""
    quads = np.stack([labels[:-1, :-1], labels[:-1, 1:], labels[1:, :-1], labels[1:, 1:]])
    corners = np.count_nonzero(quads, axis=0)
    return np.bincount(quads.max(0).ravel(), (corners.clip(2) - 2).ravel() / 2, count + 1)[1:]


class Case(NamedTuple):
    """A case is a class in an image: its heatmap, its examples' true masks, the pixels that count (None: all)."""

    image_id: str
    heat: Float[Tensor, "height width"]
    truth: Masks
    counted: Bool[Tensor, "height width"] | None

    @classmethod
    def all_of(cls, known: Mapping[str, Any]) -> Iterator["Case"]:
        """Find the cases of a batch, whatever is `known` of it; see `DatasetMetric.tally`."""
        truth, counted, images = as_masks("truth", known["truth"]), known.get("counted"), known["image_ids"]
        labels = known["labels"].tolist() if known.get("labels") is not None else range(len(images))
        examples: dict[tuple[str, int], list[int]] = {}
        for k, key in enumerate(zip(images, labels, strict=True)):
            examples.setdefault(key, []).append(k)
        for (image, _), own in examples.items():
            true, counts = truth[own], None
            if counted is not None:
                true = true & counted[own]
                counts = counted[own].all(0) | true.any(0)
            yield cls(image, known["heatmaps"].values[own[0]], true, counts)

    def boxes(self, size: int | None) -> Boxes:
        """Draw the true boxes, none for an empty mask."""
        found = [scaled_box(mask_box(mask), mask.shape, size) for mask in self.truth.numpy() if mask.any()]
        return np.array(found, dtype=int).reshape(-1, 4)


@METRICS.register("max_box_acc_v2")
class MaxBoxAccV2(DatasetMetric):
    """MaxBoxAccV2 is how often a box from the heatmap finds the object, averaged over three IoUs, in [0, 1].

    At each threshold of the heatmaps, a case is right if the best IoU of its boxes with the true ones is at least
    0.3 (0.5, 0.7). The share of right cases at the best threshold, one for each of the three, is averaged. Choe
    et al. (2020); see `gradsam_exp.metrics.wsol` for the conventions. Cases without a true box are left out.
    ``contours=largest ious=[0.5]`` is their first version, MaxBoxAcc.

    The best threshold is found on images with true boxes, and on these the share is an upper bound, which the
    title says. For a figure of other images, the thresholds found on val are given.

    Args:
        thresholds: in [0, 1), one for each of ``ious``, such as a run on val has named; None: those best on the
            images themselves, of equally good ones the lowest.
        contours: boxes are drawn around ``all`` contours, the best one counts, or around the ``largest``.
        ious: from which IoU on a box is right; increasing.
        size: height and width, in px, that heatmaps and boxes are scaled to; None: the original frame.

    Raises:
        ValueError: not as many thresholds as IoUs, IoUs that do not increase.
    """

    name, title, group = "max_box_acc_v2", "MaxBoxAccV2", "heatmaps"
    needs: ClassVar[tuple[str, ...]] = ("heatmaps", "truth", "counted")
    higher_is_better = True
    COUNTS = ("cases", "right_at_level")

    def __init__(
        self,
        thresholds: list[Share] | None = None,
        contours: Contours = "all",
        ious: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.3, 0.5, 0.7),
        size: Size = 224,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not ious or list(ious) != sorted(set(ious)):
            raise ValueError(f"ious={list(ious)}: must increase")
        if thresholds is not None and len(thresholds) != len(ious):
            raise ValueError(f"{len(thresholds)} thresholds for {len(ious)} IoUs: give one for each")
        self.thresholds, self.contours, self.ious, self.size = thresholds, contours, ious, size
        self.levels = LEVELS if thresholds is None else np.unique([int(value * 255) for value in thresholds])
        if thresholds is None:
            self.title = f"{self.title} (upper bound: thresholds of these images)"

    def tally(self, known: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Count the cases of each image, and those that are right at each of ``levels``, by IoU.

        These are 0 … 254 in 255ths, or those of the given thresholds.
        """
        rows: dict[tuple[str, float], dict[str, Any]] = {}
        for case in Case.all_of(known):
            true = case.boxes(self.size)
            if not len(true):
                continue
            scores = score_map(case.heat, self.size)
            best = np.array(
                [box_ious(boxes, true).max() for boxes in level_boxes(scores, self.levels, self.contours)]
            )
            for iou in self.ious:
                right = (best >= iou).astype(np.uint16)
                row = rows.get((case.image_id, iou))
                if row is None:
                    part = f"IoU {iou:g}"
                    rows[case.image_id, iou] = dict(
                        image_id=case.image_id, part=part, cases=1, right_at_level=right
                    )
                else:
                    row["cases"], row["right_at_level"] = row["cases"] + 1, row["right_at_level"] + right
        return list(rows.values())

    def figures(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `DatasetMetric.figures`."""
        cases, right = counts[..., 0], counts[..., 1:]
        if self.thresholds is None:
            hits = right.max(-1)
        else:
            places = self.levels.searchsorted([int(value * 255) for value in self.thresholds])
            hits = right[..., np.arange(len(places)), places]
        shares = np.divide(hits, cases, out=np.full(cases.shape, np.nan), where=cases > 0)
        return shares.mean(-1), shares

    def note(self, counts: np.ndarray) -> str:
        """Say which thresholds were best and how they are used on other images."""
        if self.thresholds is not None:
            return ""
        best = ",".join(f"{THRESHOLDS[_FIRST[level]]:.3f}" for level in counts[..., 1:].argmax(-1))
        return (
            f"{type(self).title} has its thresholds from these images: an upper bound. For other images, with "
            f"these: metrics.{self.name}.thresholds=[{best}]"
        )


@METRICS.register("pxap")
class PixelAveragePrecision(DatasetMetric):
    """PxAP is the area under the precision–recall curve of all pixels of all images together, in [0, 1].

    A pixel is found if its heat is at least the threshold: histograms of the heat on true and on other pixels, in
    steps of 0.001, give the precision and the recall at each. The area is the sum of precision × the increase in
    recall, from the highest threshold on. Choe et al. (2020, section 3.3); see `gradsam_exp.metrics.wsol`. It
    needs no threshold, so that there is none to choose. NaN without true pixels.

    Args:
        size: height and width, in px, that heatmaps and masks (nearest pixel) are scaled to, so that all images
            weigh the same; None: the original frame.
    """

    name, title, group = "pxap", "PxAP", "heatmaps"
    needs: ClassVar[tuple[str, ...]] = ("heatmaps", "truth", "counted")
    higher_is_better = True
    COUNTS = ("true_px", "false_px")

    def __init__(self, size: Size = 224, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size

    def tally(self, known: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Count each image's true and other pixels by their heat: [0, 0.001), …, [0.999, 1), 1."""
        rows: dict[str, dict[str, Any]] = {}
        edges = np.append(THRESHOLDS, [1.0, 2.0])
        for case in Case.all_of(known):
            truth = self._resized(case.truth.any(0))
            counts = np.ones_like(truth) if case.counted is None else self._resized(case.counted)
            scores = score_map(case.heat, self.size)
            found = [np.histogram(scores[part & counts], edges)[0].astype(np.int32) for part in (truth, ~truth)]
            row = rows.setdefault(case.image_id, {"image_id": case.image_id, "part": ""})
            for name, own in zip(self.COUNTS, found, strict=True):
                row[name] = row[name] + own if name in row else own
        return list(rows.values())

    def _resized(self, mask: Bool[Tensor, "height width"]) -> Bool[np.ndarray, "rows columns"]:
        if self.size is not None:
            mask = (
                F.interpolate(mask[None, None].to(torch.uint8), (self.size, self.size), mode="nearest")[0, 0] > 0
            )
        return mask.numpy()

    def figures(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `DatasetMetric.figures`."""
        true, false = np.split(counts[..., ::-1].astype(np.float64), 2, axis=-1)[::-1]
        hits, found = true.cumsum(-1), (true + false).cumsum(-1)
        precision = np.divide(hits, found, out=np.zeros_like(hits), where=found > 0)
        total = hits[..., -1]
        areas = np.divide((precision * true).sum(-1), total, out=np.full_like(total, np.nan), where=total > 0)
        return areas[..., 0], areas


@METRICS.register("box_iou")
class BoxIoU(ExampleMetric):
    """Box IoU is the IoU of the box around the hottest region of a heatmap with the true one, in [0, 1].

    The region is the largest contour above a fixed share of the heatmap's maximum, 20 % as Zhou et al. have it
    (CAM, CVPR 2016, section 3.2). See `gradsam_exp.metrics.wsol` for the conventions. NaN for an empty mask.

    Args:
        threshold: share of the maximum, in [0, 1).
        contours: as in `MaxBoxAccV2`; ``all`` takes the best box.
        size: as in `MaxBoxAccV2`.
    """

    name, title, group = "box_iou", "box IoU of the heatmap", "heatmaps"
    needs: ClassVar[tuple[str, ...]] = ("heatmaps", "truth", "counted")
    higher_is_better = True

    def __init__(
        self, threshold: Share = 0.2, contours: Contours = "largest", size: Size = 224, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.threshold, self.contours, self.size = threshold, contours, size

    def measure(self, heatmaps: Heatmaps, truth: Masks, counted: Masks | None = None) -> PerImage:
        """Compare the boxes of each example."""
        (truth,) = only_counted(truth, counted=counted)
        found = [torch.nan] * len(truth)
        for k, mask in enumerate(truth.numpy()):
            if mask.any():
                true = scaled_box(mask_box(mask), mask.shape, self.size)[None]
                boxes = boxes_at(score_map(heatmaps.values[k], self.size), self.threshold, self.contours)
                found[k] = float(box_ious(boxes, true).max())
        return torch.tensor(found, dtype=torch.float64)


@METRICS.register("mask_box_iou")
class MaskBoxIoU(ExampleMetric):
    """Mask box IoU is the IoU of the tight boxes around the kept mask and around the true one, in [0, 1].

    All pixels of a mask are in its box, whose width counts them; 0 without a mask, NaN without a true one.
    """

    name, title, group = "mask_box_iou", "box IoU of the mask", "masks"
    needs: ClassVar[tuple[str, ...]] = ("masks", "truth", "counted")
    higher_is_better = True

    def measure(self, masks: Masks, truth: Masks, counted: Masks | None = None) -> PerImage:
        """Compare the boxes of each example."""
        masks, truth = only_counted(masks, truth, counted=counted)
        found = [torch.nan if not true.any() else 0.0 for true in truth]
        for k, pair in enumerate(zip(masks.numpy(), truth.numpy(), strict=True)):
            if all(mask.any() for mask in pair):
                own, true = (tight_box(mask)[None] for mask in pair)
                found[k] = float(box_ious(own, true)[0, 0])
        return torch.tensor(found, dtype=torch.float64)
