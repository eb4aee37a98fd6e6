"""This module defines how a classifier is described and loaded, and the registry of them."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.registry import Registry


@runtime_checkable
class ClassifierSource(Protocol):
    """A classifier source describes a classifier, whose weights are read only when they are needed."""

    @property
    def path(self) -> Path | None:
        """Return the file with the weights; None if they have no file of their own."""

    @property
    def digest(self) -> str:
        """Return a hash of everything the logits depend on: equal hashes mean equal logits."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name what the outputs mean, in order."""

    @property
    def backbone(self) -> str:
        """Return the network's name, for messages and tables."""

    @property
    def size(self) -> tuple[int, int] | None:
        """Return ``(height, width)`` px to which images are resized; None keeps their own."""

    def check_ready(self) -> None:
        """Refuse a classifier that is not one yet: without weights, or whose classes have no names.

        Raises:
            InputError: naming what to give.
        """

    def outline(self) -> ImageClassifier:
        """Build the classifier without weights, on the meta device, its network in eval mode."""

    def load(self) -> ImageClassifier:
        """Build the classifier with its weights, in eval mode.

        Raises:
            InputError: if the weights cannot be read.
        """


CLASSIFIERS: Registry[ClassifierSource] = Registry("model", "gradsam_exp.classifiers", by="source")
"""By ``model.source``: functions that take the other keys of ``model`` and describe a classifier."""
