"""Whether the classifier is right."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from gradsam_exp.metrics.base import METRICS, ExampleMetric


@METRICS.register("accuracy")
class Accuracy(ExampleMetric):
    """Share of the images whose predicted class is the true one; images without a label do not count."""

    name, column, title, group = "accuracy", "correct", "accuracy", "classification"
    needs = ("predicted", "labels")
    higher_is_better = True

    def measure(self, predicted: Int[Tensor, " batch"], labels: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """1 where the class is right, else 0."""
        return (predicted == labels).double()
