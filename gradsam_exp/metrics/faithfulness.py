"""These metrics ask how a classifier reacts when what a heatmap marks is taken from the image, or given back."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.random import Generator, default_rng
from pydantic import Field
from scipy.sparse import csr_matrix, eye
from scipy.sparse.linalg import spsolve
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from gradsam_exp.metrics.base import METRICS, ExampleMetric, Network
from gradsam_exp.types import Heatmaps, Images, Maps, Masks, PerImage

FAITHFULNESS = ("deletion_auc", "insertion_auc", "road")
"""The metrics that ``task.faithfulness=true`` adds."""
PERCENTILES = (20, 40, 60, 80)
"""ROAD removes these shares of the pixels, in percent, and takes the mean."""
_TOUCHED = 1e-4  # of a pixel of the input, what is interpolated from pixels that do not count
Pixels = Float[Tensor, "batch channels height width"]
Image = Float[Tensor, "channels height width"]
Predict = Callable[[Tensor], Tensor]


class FaithfulnessMetric(ExampleMetric):
    """A faithfulness metric changes images where the heatmap is hot, and asks the classifier again.

    Pixels that do not count are never changed and have no rank; a pixel of the network's input counts if all do
    that it is interpolated from.
    """

    group = "faithfulness"
    needs = ("heatmaps", "images", "network", "counted")

    @torch.no_grad()
    def measure(
        self, heatmaps: Heatmaps, images: Images, network: Network, counted: Masks | None = None
    ) -> PerImage:
        """Measure at the resolution of the network's input."""
        pixels, maps = _at_input(heatmaps, images, network, counted)
        return self.react(network.logits, pixels, maps, heatmaps.targets)

    @abstractmethod
    def react(self, predict: Predict, pixels: Pixels, maps: Maps, targets: Int[Tensor, " batch"]) -> PerImage:
        """Measure each image of a batch.

        Args:
            predict: network input to logits.
            pixels: network input, normalised, so that 0 is the mean colour.
            maps: the heatmaps at the same resolution, −∞ where a pixel does not count.
            targets: the explained class ids.
        """


class PixelSteps(FaithfulnessMetric):
    """A pixel-step metric is the area under the explained class's probability while pixels change, hottest first.

    In [0, 1]. Petsiuk et al., *RISE* (BMVC 2018), section 3.3.

    Args:
        steps: equal shares of the pixels that are changed one after the other.
    """

    def __init__(self, steps: Annotated[int, Field(ge=1)] = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = steps

    @abstractmethod
    def ends(self, pixels: Pixels) -> tuple[Pixels, Pixels]:
        """Make the images before the first step and after the last."""

    def react(self, predict: Predict, pixels: Pixels, maps: Maps, targets: Int[Tensor, " batch"]) -> PerImage:
        """Integrate the probability by trapezoids."""
        start, end = self.ends(pixels)
        fixed = maps.isneginf()[:, None]
        start, end = torch.where(fixed, pixels, start), torch.where(fixed, pixels, end)
        rank, ranked = _rank(maps), _ranked(maps)
        curve = []
        for step in range(self.steps + 1):
            changed = _first(rank, ranked, step / self.steps)[:, None]
            curve.append(_probability(predict, torch.where(changed, end, start), targets))
        return torch.trapezoid(torch.stack(curve, 1), dx=1 / self.steps, dim=1)


@METRICS.register("deletion_auc")
class DeletionAUC(PixelSteps):
    """The deletion AUC sets the hottest pixels to the mean colour first; small is good. See `PixelSteps`."""

    name, title = "deletion_auc", "deletion AUC"
    higher_is_better = False

    def ends(self, pixels: Pixels) -> tuple[Pixels, Pixels]:
        """Go from the image to its mean colour."""
        return pixels, torch.zeros_like(pixels)


@METRICS.register("insertion_auc")
class InsertionAUC(PixelSteps):
    """The insertion AUC returns the hottest pixels to a blurred image first; large is good. See `PixelSteps`."""

    name, title = "insertion_auc", "insertion AUC"
    higher_is_better = True

    def ends(self, pixels: Pixels) -> tuple[Pixels, Pixels]:
        """Go from the image, blurred with a standard deviation of a tenth of its shorter side, to itself."""
        sigma = min(pixels.shape[-2:]) / 10
        side = 2 * int(min(2 * sigma, min(pixels.shape[-2:]) - 1)) + 1
        return gaussian_blur(pixels, [side, side], [sigma, sigma]), pixels


@METRICS.register("road")
class CombinedROAD(FaithfulnessMetric):
    """ROAD compares how imputing the least and the most relevant pixels changes the class probability.

    Half the difference of the class probability's changes, in [−1, 1]; large for a faithful heatmap. Rong et al.
    (ICML 2022); the same as ``ROADCombined`` of the grad-cam package.

    Args:
        noise: standard deviation of the noise that is added to imputed pixels.
        seed: of the noise.
    """

    name, title = "road", "ROAD"
    higher_is_better = True

    def __init__(self, noise: Annotated[float, Field(ge=0)] = 0.01, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.noise, self.seed = noise, seed

    def react(self, predict: Predict, pixels: Pixels, maps: Maps, targets: Int[Tensor, " batch"]) -> PerImage:
        """Subtract the change that the most relevant pixels make from that of the least relevant ones."""
        rank, ranked = _rank(maps), _ranked(maps)
        last = torch.where(maps.isneginf(), rank, ranked[:, None, None] - 1 - rank)
        most = self.change(predict, pixels, rank, targets, ranked)
        least = self.change(predict, pixels, last, targets, ranked)
        return (least - most) / 2

    def change(
        self,
        predict: Predict,
        pixels: Pixels,
        rank: Int[Tensor, "batch height width"],
        targets: Tensor,
        ranked: Int[Tensor, " batch"] | None = None,
    ) -> PerImage:
        """Compute the mean change of the class's probability after the pixels of lowest rank were imputed.

        For the most relevant pixels a faithful heatmap gives a large drop (a negative number), for the least
        relevant ones none. ``ranked`` is the number of each image's pixels that count; all if it is not given.
        """
        ranked = torch.full((len(rank),), rank[0].numel()) if ranked is None else ranked
        before = _probability(predict, pixels, targets)
        changes = []
        for percentile in PERCENTILES:
            removed = _first(rank, ranked, percentile / 100)
            rng = default_rng(self.seed)
            pairs = zip(pixels, removed, strict=True)
            imputed = torch.stack([impute(image, gone, noise=self.noise, rng=rng) for image, gone in pairs])
            changes.append(_probability(predict, imputed, targets) - before)
        return torch.stack(changes).mean(0)


_NEIGHBOURS = [(dy, dx, 1 / 6 if dy == 0 or dx == 0 else 1 / 12) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


@METRICS.register("average_drop")
class AverageDrop(FaithfulnessMetric):
    """Average drop is the share of the class probability that goes when an image fades where its heatmap is cold.

    ``max(0, Y − O)/Y``, in [0, 1], small for a faithful heatmap; ``Y`` is the probability for the
    image, ``O`` that for the image times its heatmap. Chattopadhyay et al.: *Grad-CAM++* (WACV 2018), section
    4.1.1.
    """

    name, title = "average_drop", "average drop"
    higher_is_better = False

    def react(self, predict: Predict, pixels: Pixels, maps: Maps, targets: Int[Tensor, " batch"]) -> PerImage:
        """Compare the class probabilities before and after."""
        before, after = (_probability(predict, some, targets) for some in (pixels, _faded(pixels, maps)))
        return (1 - after / before).clamp(min=0)


@METRICS.register("coherency")
class Coherency(ExampleMetric):
    """Coherency says how alike the heatmap is to that of the image faded where it is cold.

    ``(1 + ρ)/2``, in [0, 1], with ``ρ`` Pearson's correlation, 0 where a heatmap is constant. Poppi et al. (CVPRW
    2021), section 3.3. With ``complexity`` and ``road`` it makes up ARCC, with ``average_drop`` instead of
    ``road`` ADCC; both are harmonic means of parts that are better the larger they are.
    """

    name, title, group = "coherency", "heatmap coherency", "faithfulness"
    higher_is_better = True
    needs = ("heatmaps", "images", "network", "counted")

    @torch.no_grad()
    def measure(
        self, heatmaps: Heatmaps, images: Images, network: Network, counted: Masks | None = None
    ) -> PerImage:
        """Explain the faded images at the resolution of the network's input."""
        pixels, maps = _at_input(heatmaps, images, network, counted)
        again, kept = network.explain(_faded(pixels, maps), heatmaps.targets), maps > -torch.inf
        return torch.stack(
            [
                (1 + _correlation(*(one[own] for one in pair))) / 2
                for *pair, own in zip(maps, again, kept, strict=True)
            ]
        )


def _at_input(heatmaps: Heatmaps, images: Images, network: Network, counted: Masks | None) -> tuple[Pixels, Maps]:
    """Make network input and heatmaps of its resolution, −∞ where a pixel does not count."""
    pixels = network.pixels(images)
    maps = network.resized(heatmaps.values, pixels)
    if counted is not None:
        maps = maps.masked_fill(network.resized((~counted).float(), pixels) > _TOUCHED, -torch.inf)
    return pixels, maps


def _faded(pixels: Pixels, maps: Maps) -> Pixels:
    """Multiply network input by heatmaps: cold pixels get the mean colour; those that do not count stay."""
    return pixels * torch.where(maps == -torch.inf, 1.0, maps)[:, None].to(pixels)


def _correlation(one: Float[Tensor, " pixels"], other: Float[Tensor, " pixels"]) -> Float[Tensor, ""]:
    """Compute Pearson's correlation; 0 if one of both is constant."""
    one, other = (values.double() - values.double().mean() for values in (one, other))
    return (one * other).sum() / (one.norm() * other.norm()).clamp(min=1e-12)


def impute(image: Image, removed: Bool[Tensor, "height width"], *, noise: float, rng: Generator) -> Image:
    """Replace each removed pixel by the weighted mean of its eight neighbours: noisy linear imputation.

    Direct neighbours weigh 1/6, diagonal ones 1/12; all removed pixels are solved for together. If no pixel is
    left, all are 0, the mean colour, before the noise.
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
    solved = np.zeros_like(constant) if gone.all() else spsolve(system.tocsc(), constant)
    solution = np.atleast_2d(solved.reshape(size, -1))
    filled = known.copy()
    filled[:, ys, xs] = solution.T + noise * rng.standard_normal((len(known), size))
    return torch.from_numpy(filled).to(image.dtype)


def _rank(maps: Maps) -> Int[Tensor, "batch height width"]:
    """Number the pixels from 0 for the hottest; ties in scan order. Those that do not count (−∞) come last."""
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    return order.argsort(1).unflatten(1, maps.shape[1:])


def _ranked(maps: Maps) -> Int[Tensor, " batch"]:
    """Count the pixels of each image that count."""
    return (~maps.isneginf()).flatten(1).sum(1)


def _first(
    rank: Int[Tensor, "batch height width"], ranked: Int[Tensor, " batch"], share: float
) -> Bool[Tensor, "batch height width"]:
    """Find the pixels of lowest rank that are a share of those that count."""
    most = torch.tensor([round(share * count) for count in ranked.tolist()], dtype=rank.dtype)
    return rank < most[:, None, None]


def _probability(predict: Predict, pixels: Pixels, targets: Int[Tensor, " batch"]) -> PerImage:
    """Compute the probability of each image's target class."""
    return predict(pixels).softmax(1).gather(1, targets[:, None])[:, 0].double()
