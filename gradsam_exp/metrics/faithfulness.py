"""How a classifier reacts when what a heatmap marks is taken away from the image, or given back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from pydantic import Field
from scipy.sparse import csr_matrix, eye
from scipy.sparse.linalg import spsolve
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from gradsam_exp.metrics.base import METRICS, ExampleMetric, Network
from gradsam_exp.types import Heatmaps

FAITHFULNESS = ("deletion_auc", "insertion_auc", "road")
"""The metrics that ``task.faithfulness=true`` adds."""
Maps = Float[Tensor, "batch height width"]
PerImage = Float[Tensor, " batch"]
Predict = Callable[[Tensor], Tensor]


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


@METRICS.register("deletion_auc")
class DeletionAUC(ExampleMetric):
    """Area under the explained class's probability while the hottest pixels are deleted, in [0, 1]; small is good.

    See `deletion_auc`.

    Args:
        steps: equal shares of the pixels that are deleted one after the other.
    """

    name, title, group = "deletion_auc", "deletion AUC", "faithfulness"
    needs = ("heatmaps", "images", "network")
    higher_is_better = False

    def __init__(self, steps: Annotated[int, Field(ge=1)] = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = steps

    def measure(
        self, heatmaps: Heatmaps, images: UInt8[Tensor, "batch 3 height width"], network: Network
    ) -> PerImage:
        """Area of each image."""
        pixels = network.pixels(images)
        maps = network.resized(heatmaps.values, pixels)
        return deletion_auc(network.logits, pixels, maps, heatmaps.targets, steps=self.steps)


@METRICS.register("insertion_auc")
class InsertionAUC(ExampleMetric):
    """Area under the explained class's probability while the hottest pixels come back to a blurred image.

    In [0, 1]; large is good. See `insertion_auc`.

    Args:
        steps: equal shares of the pixels that come back one after the other.
    """

    name, title, group = "insertion_auc", "insertion AUC", "faithfulness"
    needs = ("heatmaps", "images", "network")
    higher_is_better = True

    def __init__(self, steps: Annotated[int, Field(ge=1)] = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = steps

    def measure(
        self, heatmaps: Heatmaps, images: UInt8[Tensor, "batch 3 height width"], network: Network
    ) -> PerImage:
        """Area of each image."""
        pixels = network.pixels(images)
        maps = network.resized(heatmaps.values, pixels)
        return insertion_auc(network.logits, pixels, maps, heatmaps.targets, steps=self.steps)


@METRICS.register("road")
class CombinedROAD(ExampleMetric):
    """ROAD of the least minus the most relevant pixels, halved, in [−1, 1]; large for a faithful heatmap.

    See `road`; the same as ``ROADCombined`` of the grad-cam package.

    Args:
        noise: standard deviation of the noise that is added to imputed pixels.
        seed: of the noise.
    """

    name, title, group = "road", "ROAD", "faithfulness"
    needs = ("heatmaps", "images", "network")
    higher_is_better = True

    def __init__(self, noise: Annotated[float, Field(ge=0)] = 0.01, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.noise, self.seed = noise, seed

    def measure(
        self, heatmaps: Heatmaps, images: UInt8[Tensor, "batch 3 height width"], network: Network
    ) -> PerImage:
        """Combined ROAD of each image."""
        pixels = network.pixels(images)
        maps = network.resized(heatmaps.values, pixels)
        least, most = (
            road(network.logits, pixels, maps, heatmaps.targets, order=order, noise=self.noise, seed=self.seed)
            for order in ("least", "most")
        )
        return (least - most) / 2
