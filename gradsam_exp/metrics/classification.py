"""These metrics score the classifier's top-1 class: the share that is right, of all examples and by class."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from gradsam_exp.metrics.base import METRICS, DatasetMetric, ExampleMetric, mean_share
from gradsam_exp.types import PerImage


@METRICS.register("accuracy")
class Accuracy(ExampleMetric):
    """Accuracy is the share of correct predictions; images without a label do not count."""

    name, column, title, group = "accuracy", "correct", "accuracy", "classification"
    needs = ("predicted", "labels")
    higher_is_better = True

    def measure(self, predicted: Int[Tensor, " batch"], labels: Int[Tensor, " batch"]) -> PerImage:
        """Give 1 where the class is right, else 0."""
        return (predicted == labels).double()


@METRICS.register("macro_accuracy")
class MacroAccuracy(DatasetMetric):
    """Macro accuracy is the mean over the classes of the share of their examples that are predicted correctly.

    It is in [0, 1], and known as balanced accuracy: every class counts alike, however many examples it has. A
    class without examples has no accuracy and does not count; neither do examples without a label. The figures of
    the classes, which may be hundreds, follow from ``counts.parquet``.
    """

    name, title, group = "macro_accuracy", "macro accuracy", "classification"
    needs = ("predicted", "labels")
    higher_is_better = True
    COUNTS = ("correct", "examples")
    shows_parts = False

    def tally(self, known: Mapping[str, Any]) -> list[dict[str, Any]]:
        """See `DatasetMetric.tally`."""
        found: dict[tuple[str, int], list[int]] = {}
        labels, predicted = known["labels"].tolist(), known["predicted"].tolist()
        for image, label, guess in zip(known["image_ids"], labels, predicted, strict=True):
            if label >= 0:
                counts = found.setdefault((image, label), [0, 0])
                counts[0] += guess == label
                counts[1] += 1
        names = known["class_names"]
        return [
            {"image_id": image, "part": names[label], **dict(zip(self.COUNTS, counts, strict=True))}
            for (image, label), counts in found.items()
        ]

    def figures(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `DatasetMetric.figures`."""
        correct, examples = np.moveaxis(counts.astype(np.float64), -1, 0)
        return mean_share(correct, examples)
