"""A stage prepares one kind of thing for a chunk of images, and says in a key all that the thing depends on."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from gradsam_exp.batching import AdaptiveBatch
from gradsam_exp.data.base import ExampleDataset
from gradsam_exp.digest import digest, library_versions, source_digest
from gradsam_exp.segmenters.base import Embeddings
from gradsam_exp.types import EverythingMode, ExampleBatch, Heatmaps, MaskSet, Tensors, is_finite


@dataclass
class Chunk:
    """Holds images of one size that are prepared together, and what was prepared of them so far; on the CPU.

    Attributes:
        dataset, indices: which images they are.
        keys: the store's key of each stage's thing, by the stage's label.
        batch: the images and their examples; labels are the classifier's class ids.
        heatmaps: where the classifier looked, refined if that was asked for.
        embeddings: the segmenter's encoding of the images.
        everything: what the segmenter finds in each image in everything mode, by the mode; if a strategy or the
            refiner needs that.
        quality: of the heatmaps; one value per example, by the name of a metric.
    """

    dataset: ExampleDataset
    indices: Sequence[int]
    keys: Mapping[str, str]
    batch: ExampleBatch = field(init=False)
    heatmaps: Heatmaps = field(init=False)
    embeddings: Embeddings = field(init=False)
    everything: dict[EverythingMode, Sequence[MaskSet]] = field(default_factory=dict)
    quality: dict[str, Float[Tensor, " batch"]] = field(default_factory=dict)

    @property
    def predicted(self) -> Int[Tensor, " batch"]:
        """Tells the classifier's class for each example's image; the explained class where there are no logits."""
        logits = self.heatmaps.logits
        return self.heatmaps.targets if logits is None else logits.argmax(1)


class Stage(ABC):
    """Prepares one kind of thing: images, heatmaps, …

    Args:
        depends_on: plain values that say what its things depend on besides earlier stages, source and libraries.
        modules: import paths of the plug-ins that it runs; its own module counts anyway.

    Attributes:
        name: a folder of the store.
        label: its name among a run's stages; ``name`` unless there are several of the kind.
        clock: what its time is counted as.
        after: labels of the stages that it is made from; their keys enter its own.
        counted: whether its images count as images of its clock; False where another stage counts them.
        finite: whether its things hold finite numbers only.
    """

    name: ClassVar[str]
    clock: str
    after: tuple[str, ...] = ()
    counted: bool = True
    finite: ClassVar[bool] = True

    def __init__(self, depends_on: Any = None, modules: Sequence[str] = ()) -> None:
        self.depends_on, self.modules = depends_on, modules
        self.label = self.name

    def key(self, inputs: Sequence[Any]) -> str:
        """Return the store's key of what is made from ``inputs``, which are plain values."""
        return digest([self.recipe, inputs], size=16)

    @cached_property
    def recipe(self) -> str:
        """Digests all that its things depend on besides the stages before it."""
        code = source_digest(type(self).__module__, *self.modules)
        return digest([code, library_versions(), self.depends_on], size=16)

    @abstractmethod
    def make(self, chunk: Chunk, batches: AdaptiveBatch) -> tuple[Tensors, Any]:
        """Compute the stage's output for a chunk: tensors, and values that can be written as JSON."""

    def is_usable(self, chunk: Chunk, tensors: Tensors, facts: Any) -> bool:
        """Say whether what the store has is what `make` gives: with all its parts, and no NaN or infinity."""
        try:
            self.take(chunk, tensors, facts)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError):
            return False
        return not self.finite or all(map(is_finite, tensors.values()))

    @abstractmethod
    def take(self, chunk: Chunk, tensors: Tensors, facts: Any) -> None:
        """Store the stage's output, computed or read from the store, in the chunk's fields."""
