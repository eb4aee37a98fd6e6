"""This module says what a metric is, and holds the registry of them.

A metric is a torchmetrics module that gives one value for each image and remembers all of them. What tables,
figures and trackers have to know about it are attributes of its class.
"""

import inspect
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

from gradsam_exp.errors import InputError, did_you_mean
from gradsam_exp.registry import Registry, build_checked
from gradsam_exp.types import Images, Maps, Masks, PerImage

INPUTS = (
    "masks",
    "truth",
    "prompts",
    "heatmaps",
    "predicted",
    "labels",
    "images",
    "network",
    "round_ious",
    "counted",
)
"""What a metric can be measured on; see `ExampleMetric`."""
OPTIONAL = ("counted",)
"""Of `INPUTS`, those that need not be known: a metric takes them last, and None where they are not."""
GROUPS = ("prompts", "masks", "classification", "heatmaps", "faithfulness")
"""What metrics can be about, in the order in which tables show them."""


class ExampleMetric(Metric):
    """An example metric has one value per image, and their mean; an image without a value (NaN) is left out.

    A subclass states the facts below and implements `measure`; its constructor keeps every argument in an
    attribute of the same name, as scikit-learn's estimators do. Under ``torch.distributed``, `compute` gives the
    mean over the images of all processes; a process may have any number of images, or none.

    Attributes:
        name: in configurations and files.
        column: of ``per_image.parquet``, where the values are written; the name unless given.
        title: in tables and figures.
        unit: such as ``px``; empty for pure numbers.
        higher_is_better: None if neither direction is better.
        group: one of `GROUPS`.
        needs: which of `INPUTS` `measure` takes, in the order of its arguments: the predicted ``masks`` and the
            true ones (``truth``), both bool ``(batch, height, width)``; ``prompts`` and ``heatmaps`` (see
            `gradsam_exp.types`); the ``predicted`` and the true class ids (``labels``), ``(batch,)``, −1 where
            unknown; ``images``, uint8 ``(batch, 3, height, width)``; ``network``, the classifier as a `Network`;
            ``round_ious``, ``(batch, rounds)``, the mask's IoU after each click of a simulated user; last,
            ``counted``, bool ``(batch, height, width)``, the pixels that count, or None if all do. A metric
            that does not name ``counted`` measures all pixels.
    """

    full_state_update = False
    is_differentiable = False
    name: ClassVar[str]
    column: ClassVar[str]
    title: str
    unit: ClassVar[str] = ""
    group: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    values: list[Tensor] | Tensor

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in vars(cls) and "column" not in vars(cls):
            cls.column = cls.name
        needs = getattr(cls, "needs", ())
        unknown = set(needs) - set(INPUTS)
        if unknown or getattr(cls, "group", GROUPS[0]) not in GROUPS:
            raise TypeError(
                f"{cls.__name__}: needs are of {', '.join(INPUTS)}; the group is of {', '.join(GROUPS)}"
            )
        if any(name in OPTIONAL for name in needs[: len(needs) - len(set(needs) & set(OPTIONAL))]):
            raise TypeError(f"{cls.__name__}: needs name {', '.join(OPTIONAL)} last")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": _gathered, **kwargs})
        self.add_state("values", default=[], dist_reduce_fx="cat")

    @abstractmethod
    def measure(self, *inputs: Any, **_: Any) -> PerImage:
        """Measure each image of a batch, from what the metric `needs`; NaN where it does not apply.

        Nothing is recorded. Where a label is unknown or a heatmap is empty the value is not used: `measure_known`
        replaces it by NaN.
        """

    def measure_known(self, known: Mapping[str, Any], images: int) -> PerImage:
        """Measure a batch, with NaN for every image of which something that the metric needs is not known.

        An image of which no pixel counts, or whose heatmap is zero wherever one does, has no value either.

        Args:
            known: what is known of a batch, by its name in `INPUTS`; None or missing: not known of any image, but
                that all pixels count.
            images: how many the batch has.

        Returns:
            In float64, on the CPU.

        Raises:
            ValueError: masks with other values than two, of which one is 0; inputs of unequal number or size.
        """
        inputs: dict[str, Any] = {name: known.get(name) for name in self.needs}
        if any(value is None for name, value in inputs.items() if name not in OPTIONAL):
            return torch.full((images,), torch.nan, dtype=torch.float64)
        inputs |= {name: as_masks(name, inputs[name]) for name in _MASKS if inputs.get(name) is not None}
        _check_sizes(inputs, images)
        values = self.measure(*inputs.values()).detach().double().cpu()
        if "labels" in inputs:
            values = torch.where(inputs["labels"].cpu() >= 0, values, torch.nan)
        if "heatmaps" in inputs:
            values = torch.where(inputs["heatmaps"].empty.cpu(), torch.nan, values)
        if (counted := inputs.get("counted")) is not None:
            used = counted & (inputs["heatmaps"].values > 0) if "heatmaps" in inputs else counted
            values = torch.where(used.flatten(1).any(1).cpu(), values, torch.nan)
        return values

    def update(self, *inputs: Any, values: PerImage | None = None) -> None:
        """Add a batch.

        Args:
            inputs: what the metric `needs`, in that order; what is `OPTIONAL` can be left out.
            values: recorded as they are, in place of inputs, if the batch was measured before.
        """
        if values is None:
            least = sum(name not in OPTIONAL for name in self.needs)
            if not least <= len(inputs) <= len(self.needs):
                raise TypeError(f"{self.name} is measured on {', '.join(self.needs)}, got {len(inputs)} inputs")
            known = dict(zip(self.needs, inputs, strict=False))
            sized = [value for name, value in known.items() if name not in ("prompts", "network")]
            values = self.measure_known(known, len(next(value for value in sized if value is not None)))
        assert isinstance(self.values, list), "not while the values of all processes are gathered"
        self.values.append(values.detach().double().cpu())

    def record(self, values: PerImage) -> None:
        """Add a batch that was measured before: one value for each image, NaN where the metric does not apply."""
        self.update(values=values)

    def per_example(self) -> Float[Tensor, " images"]:
        """Return all values so far in float64, in the order in which they came."""
        values = self.values if isinstance(self.values, list) else [self.values]
        return torch.cat([torch.zeros(0, dtype=torch.float64), *(value.double().cpu() for value in values)])

    def compute(self) -> Float[Tensor, ""]:
        """Average over the images that have a value, the same in whatever order they came; NaN if none has."""
        values = self.per_example()
        return values[~values.isnan()].sort().values.mean()

    @property
    def arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments, by name."""
        given = inspect.signature(type(self)).parameters.values()
        return {
            argument.name: getattr(self, argument.name)
            for argument in given
            if argument.kind != argument.VAR_KEYWORD
        }

    @property
    def depends_on(self) -> list[Any]:
        """Return all that a value depends on besides what is measured, as plain values: name, parameters, code."""
        return [self.name, self.arguments, METRICS.code({"name": self.name})]

    @property
    def before_prompts(self) -> bool:
        """Tell whether a value depends on heatmaps or the classifier, but on no prompts and masks."""
        return not {"masks", "prompts"} & set(self.needs) and bool({"heatmaps", "network"} & set(self.needs))


class DatasetMetric(ExampleMetric):
    """A data-set metric is one figure of all images, made from what is counted on each of them.

    A subclass states `COUNTS` and implements `tally` and `figures`. No example has a value of its own, and the
    metric no column in ``per_image.parquet``: the counts are kept in ``counts.parquet``, one row for each image
    and part (a class, say). A count is a number, or a row of as many numbers everywhere (a histogram, say).

    Attributes:
        shows_parts: tables and ``metrics.json`` have a figure of each part as well.
    """

    COUNTS: ClassVar[tuple[str, ...]]
    shows_parts: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.column = ""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows: list[dict[str, Any]] = []

    def measure(self, *inputs: Any, **_: Any) -> PerImage:
        """Refuse: there is no value of one image."""
        raise NotImplementedError(f"{self.name} has no value of one image; see tally")

    @abstractmethod
    def tally(self, known: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Count on a batch.

        Args:
            known: what is known of it, by its name in `INPUTS`; besides, of each example the ``scores`` by which
                masks of one image are merged and its ``image_ids``, and the ``class_names``.

        Returns:
            Rows of ``image_id``, ``part`` and `COUNTS`; ``part`` is empty if there are none.
        """

    @abstractmethod
    def figures(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Make the figures of counts ``(*, parts, numbers)``: of all parts ``(*)``, of each ``(*, parts)``.

        The parts are sorted by name; the numbers are those of `COUNTS`, one after the other. NaN where there is
        no figure.
        """

    def note(self, counts: np.ndarray) -> str:
        """Say what has to be known about the figures of counts ``(parts, numbers)``, on one line; or nothing."""
        return ""

    @property
    def before_prompts(self) -> bool:
        """Tell that it is measured with everything else: counts are not stored beside heatmaps."""
        return False

    def add(self, known: Mapping[str, Any]) -> None:
        """Count on a batch and remember it; nothing if something that the metric needs is not known."""
        if all(known.get(name) is not None for name in self.needs if name not in OPTIONAL):
            self.rows += self.tally(known)

    def reset(self) -> None:
        """Forget all counts."""
        super().reset()
        self.rows = []


METRICS: Registry[ExampleMetric] = Registry("metrics", "gradsam_exp.metrics")


@runtime_checkable
class Network(Protocol):
    """A network is the classifier, as a metric can ask it."""

    def pixels(self, images: Images) -> Float[Tensor, "batch 3 h w"]:
        """Make images what the network takes: resized and normalised, so that 0 is the mean colour."""

    def resized(self, maps: Maps, pixels: Tensor) -> Float[Tensor, "batch h w"]:
        """Resize maps of the images to the resolution of ``pixels``."""

    def logits(self, pixels: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch classes"]:
        """Compute the class scores in eval mode, on the CPU."""

    def explain(
        self, pixels: Float[Tensor, "batch 3 h w"], targets: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch h w"]:
        """Make the run's heatmaps of network input for these classes, on the CPU."""


def mean_share(parts: np.ndarray, wholes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divide counts ``(*, classes)``, and average ``(*)`` over the classes of which there is anything.

    Returns:
        The means and the shares, NaN where there is nothing to divide by.
    """
    shares = np.divide(parts, wholes, out=np.full_like(wholes, np.nan), where=wholes > 0)
    known = (wholes > 0).sum(-1)
    sums = np.nansum(shares, axis=-1)
    return np.divide(sums, known, out=np.full_like(sums, np.nan), where=known > 0), shares


def build_metrics(node: Mapping[str, Any]) -> tuple[ExampleMetric, ...]:
    """Build the metrics that a configuration chooses, in the order in which tables show them.

    Args:
        node: each metric's name with true, with false or None (left out), or with its parameters.

    Raises:
        InputError: an unknown metric or parameter, or a wrong value; names the key.
    """
    metrics: list[ExampleMetric] = []
    for name, given in node.items():
        key = f"{METRICS.key}.{name}"
        if name not in METRICS.names():
            raise InputError(f"{key} is not a metric{did_you_mean(name, METRICS.names())}")
        if not isinstance(given, bool | None | Mapping):
            raise InputError(f"{key}={given!r}: must be true, false, or the metric's parameters")
        if given is None or given is False:
            continue
        metric = build_checked(key, METRICS.get(name), given if isinstance(given, Mapping) else {})
        if metric.name != name:
            raise InputError(f"{key}: the metric calls itself {metric.name}; register it under that name")
        metrics.append(metric)
    return tuple(sorted(metrics, key=lambda metric: GROUPS.index(metric.group)))


_MASKS = ("masks", "truth", "counted")


def as_masks(name: str, given: Tensor) -> Masks:
    """Check masks, and make those of 0 and 1, or of 0 and 255, bool ones.

    Raises:
        ValueError: other values, such as those of a class map; names them.
    """
    if given.dtype == torch.bool:  # memory that is seen as bool may hold 255, which counts as 255 in sums
        return given.view(torch.uint8) != 0
    if not given.numel():
        return given.bool()
    highest = given.max()
    if highest not in (0, 1, 255) or not ((given == 0) | (given == highest)).all():
        found = ", ".join(f"{value:g}" for value in given.unique()[:5].tolist())
        raise ValueError(f"{name} must be bool, or of 0 and 1, or of 0 and 255; got {given.dtype} with {found}, …")
    return given != 0


def _check_sizes(inputs: Mapping[str, Any], images: int) -> None:
    """Refuse inputs that would be repeated to fit one another.

    Raises:
        ValueError: naming them.
    """
    numbers = {
        name: len(value)
        for name, value in inputs.items()
        if value is not None and name not in ("prompts", "network")
    }
    if set(numbers.values()) - {images}:
        raise ValueError(f"not of the same images: {', '.join(f'{n} {name}' for name, n in numbers.items())}")
    maps = {name: inputs[name] for name in (*_MASKS, "images") if inputs.get(name) is not None}
    if "heatmaps" in inputs:
        maps["heatmaps"] = inputs["heatmaps"].values
    sizes = {name: tuple(value.shape[-2:]) for name, value in maps.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} {height}×{width}" for name, (height, width) in sizes.items())
        raise ValueError(f"not of one size: {found} (height×width)")


def _gathered(values: Tensor, group: Any = None) -> list[Tensor]:
    """Gather the values of every process.

    torchmetrics' own way needs tensors of one type on the backend's device; a process without any values has
    an empty float32 there.
    """
    parts: list[Tensor] = [values] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(parts, values.double().cpu(), group)
    return parts
