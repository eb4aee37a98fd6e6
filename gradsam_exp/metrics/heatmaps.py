"""How good is the heatmap, before any prompt? Against the true mask, and against the classifier itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix, eye
from scipy.sparse.linalg import spsolve
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

Maps = Float[Tensor, "batch height width"]
Masks = Bool[Tensor, "batch height width"]
PerImage = Float[Tensor, " batch"]
Predict = Callable[[Tensor], Tensor]


def pointing_game(heatmaps: Maps, masks: Masks, *, tolerance: float = 0.0) -> PerImage:
    """1 where the heatmap's (first) maximum lies on the true mask, else 0 (Zhang et al., ECCV 2016).

    Args:
        tolerance: a maximum at most so many pixels away from the mask is a hit; the paper's is 15 px
            on images of some 500 px.
    """
    width = heatmaps.shape[2]
    flat = heatmaps.flatten(1).argmax(1)
    y, x = flat // width, flat % width
    rows = torch.arange(heatmaps.shape[1])[None, :, None]
    columns = torch.arange(width)[None, None, :]
    near = (rows - y[:, None, None]) ** 2 + (columns - x[:, None, None]) ** 2 <= tolerance**2
    return (near & masks).flatten(1).any(1).double()


def energy_pointing_game(heatmaps: Maps, masks: Masks) -> PerImage:
    """Share of the heat that lies on the true mask, in [0, 1] (Wang et al., Score-CAM, section 4.3).

    NaN for an empty heatmap.
    """
    heat = heatmaps.double()
    return (heat * masks).sum((1, 2)) / heat.sum((1, 2))


def best_threshold_iou(heatmaps: Maps, masks: Masks, *, steps: int = 100) -> PerImage:
    """Largest IoU with the true mask over all thresholds ``1/steps … 1``: what the heatmap could be worth.

    An upper bound of any mask cut out of the heatmap.
    """
    thresholds = torch.linspace(1 / steps, 1, steps)
    reached = torch.bucketize(heatmaps.flatten(1).contiguous(), thresholds, right=True)  # how many thresholds
    inside = masks.flatten(1).long()
    counts = torch.zeros(2, len(heatmaps), steps + 1, dtype=torch.long)
    counts[0].scatter_add_(1, reached, torch.ones_like(inside))
    counts[1].scatter_add_(1, reached, inside)
    hot, hit = counts.flip(2).cumsum(2).flip(2)[..., 1:].double()  # pixels at or above each threshold
    union = hot + inside.sum(1, keepdim=True) - hit
    return torch.where(union > 0, hit / union.clamp(min=1), 1.0).amax(1)


def sparsity(heatmaps: Maps) -> PerImage:
    """Gini index of the heat over the pixels: 0 if all are equally hot, near 1 if one has it all.

    Hurley and Rickard (2009); Chalasani et al. (ICML 2020) use it for attributions. NaN for an empty heatmap.
    """
    values = heatmaps.double().flatten(1).sort(1).values
    count = values.shape[1]
    rank = torch.arange(1, count + 1, dtype=torch.float64)
    return ((2 * rank - count - 1) * values).sum(1) / (count * values.sum(1))


QUALITIES: Mapping[str, Callable[[Maps, Masks], PerImage]] = {
    "pointing_game": pointing_game,
    "energy_in_mask": energy_pointing_game,
    "best_threshold_iou": best_threshold_iou,
    "sparsity": lambda heatmaps, _: sparsity(heatmaps),
}


def heatmap_quality(heatmaps: Maps, masks: Masks | None) -> dict[str, PerImage]:
    """All of `QUALITIES`; NaN for an empty heatmap, and for all if the true masks are not known."""
    if masks is None:
        return {name: torch.full((len(heatmaps),), torch.nan, dtype=torch.float64) for name in QUALITIES}
    return {name: _unless_empty(measure(heatmaps, masks), heatmaps) for name, measure in QUALITIES.items()}


def _unless_empty(values: PerImage, heatmaps: Maps) -> PerImage:
    return torch.where(heatmaps.flatten(1).any(1), values, torch.nan)


def deletion_auc(
    predict: Predict, pixels: Tensor, heatmaps: Maps, targets: Int[Tensor, " batch"], *, steps: int = 16
) -> PerImage:
    """Area under the target's probability while the hottest pixels are set to the mean colour; small is good.

    Petsiuk et al., *RISE* (BMVC 2018), section 3.3.

    Args:
        predict: network input to logits.
        pixels: network input ``(B, 3, H, W)``, normalised, so that 0 is the mean colour.
        heatmaps: at the same resolution.
        targets: class ids.
        steps: equal shares of the pixels that are changed one after the other.
    """
    return _auc(predict, pixels, torch.zeros_like(pixels), heatmaps, targets, steps)


def insertion_auc(
    predict: Predict, pixels: Tensor, heatmaps: Maps, targets: Int[Tensor, " batch"], *, steps: int = 16
) -> PerImage:
    """Area under the target's probability while the hottest pixels return to a blurred image; large is good.

    See `deletion_auc`. The blur has a standard deviation of a tenth of the shorter side.
    """
    sigma = min(pixels.shape[-2:]) / 10
    side = 2 * int(min(2 * sigma, min(pixels.shape[-2:]) - 1)) + 1
    blurred = gaussian_blur(pixels, [side, side], [sigma, sigma])
    return _auc(predict, blurred, pixels, heatmaps, targets, steps)


@torch.no_grad()
def _auc(predict: Predict, start: Tensor, end: Tensor, heatmaps: Maps, targets: Tensor, steps: int) -> PerImage:
    """Trapezoidal area while pixels go from ``start`` to ``end``, hottest first."""
    rank = _rank(heatmaps)
    count = rank[0].numel()
    curve = []
    for step in range(steps + 1):
        changed = (rank < round(step / steps * count))[:, None]
        probability = predict(torch.where(changed, end, start)).softmax(1)
        curve.append(probability.gather(1, targets[:, None])[:, 0].double())
    return torch.trapezoid(torch.stack(curve, 1), dx=1 / steps, dim=1)


def road(
    predict: Predict,
    pixels: Tensor,
    heatmaps: Maps,
    targets: Int[Tensor, " batch"],
    *,
    order: Literal["most", "least"] = "most",
    percentiles: tuple[int, ...] = (20, 40, 60, 80),
    noise: float = 0.01,
    seed: int = 0,
) -> PerImage:
    """ROAD: mean change of the target's probability after pixels were imputed from their neighbours.

    Rong et al. (ICML 2022). For the ``most`` relevant pixels a faithful heatmap gives a large drop (a
    negative number), for the ``least`` relevant ones none.

    Args:
        predict, pixels, heatmaps, targets: see `deletion_auc`.
        order: which pixels are removed.
        percentiles: shares removed, in percent; the result is the mean over them.
        noise: standard deviation of the noise added to imputed pixels.
        seed: of the noise.
    """
    rank = _rank(heatmaps)
    if order == "least":
        rank = rank[0].numel() - 1 - rank
    with torch.no_grad():
        before = predict(pixels).softmax(1).gather(1, targets[:, None])[:, 0].double()
        changes = []
        for percentile in percentiles:
            removed = rank < round(percentile / 100 * rank[0].numel())
            rng = np.random.default_rng(seed)
            imputed = torch.stack(
                [impute(image, gone, noise=noise, rng=rng) for image, gone in zip(pixels, removed, strict=True)]
            )
            after = predict(imputed).softmax(1).gather(1, targets[:, None])[:, 0].double()
            changes.append(after - before)
    return torch.stack(changes).mean(0)


def faithfulness(
    predict: Predict, pixels: Tensor, heatmaps: Maps, targets: Int[Tensor, " batch"]
) -> dict[str, PerImage]:
    """Deletion AUC, insertion AUC, and ROAD of the least minus the most relevant pixels, halved.

    The last is a number in [−1, 1] and large for a faithful heatmap (``ROADCombined`` of grad-cam). See
    `deletion_auc` for the arguments; about forty forward passes.
    """
    least, most = (road(predict, pixels, heatmaps, targets, order=order) for order in ("least", "most"))
    return {
        "deletion_auc": deletion_auc(predict, pixels, heatmaps, targets),
        "insertion_auc": insertion_auc(predict, pixels, heatmaps, targets),
        "road": (least - most) / 2,
    }


_NEIGHBOURS = [(dy, dx, 1 / 6 if dy == 0 or dx == 0 else 1 / 12) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


def impute(
    image: Float[Tensor, "channels height width"],
    removed: Bool[Tensor, "height width"],
    *,
    noise: float,
    rng: np.random.Generator,
) -> Float[Tensor, "channels height width"]:
    """Noisy linear imputation: each removed pixel is the weighted mean of its eight neighbours.

    Direct neighbours weigh 1/6, diagonal ones 1/12; all removed pixels are solved for together.
    """
    gone = removed.numpy()
    if not gone.any():
        return image.clone()
    height, width = gone.shape
    number = np.full(gone.shape, -1)
    ys, xs = np.nonzero(gone)
    number[ys, xs] = np.arange(len(ys))
    known = image.numpy().astype(np.float64)
    weight_sum = np.zeros(len(ys))
    constant = np.zeros((len(ys), len(known)))
    rows, columns, weights = [], [], []
    for dy, dx, weight in _NEIGHBOURS:
        if dy == dx == 0:
            continue
        y, x = ys + dy, xs + dx
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        weight_sum[inside] += weight
        unknown = inside.copy()
        unknown[inside] = gone[y[inside], x[inside]]
        given = inside & ~unknown
        constant[given] += weight * known[:, y[given], x[given]].T
        rows.append(np.nonzero(unknown)[0])
        columns.append(number[y[unknown], x[unknown]])
        weights.append(np.full(unknown.sum(), weight))
    size = len(ys)
    neighbours = csr_matrix(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), shape=(size, size)
    )
    system = eye(size, format="csr").multiply(weight_sum[:, None]) - neighbours
    solution = np.atleast_2d(spsolve(system.tocsc(), constant).reshape(size, -1))
    filled = known.copy()
    filled[:, ys, xs] = solution.T + noise * rng.standard_normal((len(known), size))
    return torch.from_numpy(filled).to(image.dtype)


def _rank(heatmaps: Maps) -> Int[Tensor, "batch height width"]:
    """0 for the hottest pixel; ties in scan order."""
    order = heatmaps.flatten(1).argsort(dim=1, descending=True, stable=True)
    return order.argsort(1).unflatten(1, heatmaps.shape[1:])
