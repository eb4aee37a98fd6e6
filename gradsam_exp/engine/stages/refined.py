"""This stage refines heatmaps, so that their borders follow the edges in the image."""

from collections.abc import Sequence
from typing import Any

from gradsam_exp.batching import AdaptiveBatch
from gradsam_exp.engine.stages.base import Chunk, Stage
from gradsam_exp.engine.stages.heatmaps import ATTENTION, Explained
from gradsam_exp.explainers.base import EXPLAINERS
from gradsam_exp.refiners.base import Refiner
from gradsam_exp.types import Heatmaps, Images, MaskSet, Tensors


class Refine(Stage):
    """Refines the heatmaps; without ``depends_on``, they depend on the refiner's fields.

    Args:
        explained: the classifier, for a refiner that needs its attention.
        everything: label of the stage that finds what the refiner needs of the segmenter's everything mode.
    """

    name = "refined"
    clock = "explain"
    after: tuple[str, ...] = ("heatmaps",)
    counted = False

    def __init__(
        self,
        refiner: Refiner,
        depends_on: Any = None,
        modules: Sequence[str] = (),
        *,
        explained: Explained | None = None,
        everything: str | None = None,
    ) -> None:
        known = repr(refiner) if depends_on is None else depends_on
        looking = EXPLAINERS.modules(ATTENTION) if "attention" in refiner.needs else []
        super().__init__(known, [*modules, type(refiner).__module__, *looking])
        self.refiner, self.explained = refiner, explained
        if everything is not None:
            self.after = (*self.after, everything)

    def make(self, chunk: Chunk, batches: AdaptiveBatch) -> tuple[Tensors, Any]:
        """See `Stage.make`."""
        mode = self.refiner.everything
        everything = () if mode is None else chunk.everything[mode]
        needed = self.needed(chunk.batch.images, everything, batches)
        images = chunk.batch.image_of.tolist()
        of_examples = {name: [given[image] for image in images] for name, given in needed.items()}
        return self.refiner(chunk.batch.own_images, chunk.heatmaps, **of_examples).as_tensors(), None

    def needed(
        self, images: Images, everything: Sequence[MaskSet], batches: AdaptiveBatch
    ) -> dict[str, Sequence[Any]]:
        """Make what the refiner needs of images, see `Refiner.needs`.

        Args:
            everything: what the segmenter finds in each, if the refiner needs that.
        """
        found: dict[str, Sequence[Any]] = {}
        if "everything" in self.refiner.needs:
            found["everything"] = everything
        if "attention" in self.refiner.needs:
            assert self.explained is not None  # it is needed
            found["attention"] = list(
                self.explained.attention(images, self.refiner.attention_layers, batches).numpy()
            )
        return found

    def take(self, chunk: Chunk, tensors: Tensors, facts: Any) -> None:
        """See `Stage.take`."""
        chunk.heatmaps = Heatmaps(**tensors)
