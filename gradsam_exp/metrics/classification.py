"""This metric is the classifier's top-1 accuracy: 1 for each image with the right class, else 0."""

from jaxtyping import Int
from torch import Tensor

from gradsam_exp.metrics.base import METRICS, ExampleMetric
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
