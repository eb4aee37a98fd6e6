"""This stage makes heatmaps: it asks an explainer where in the image the classifier looked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gradsam_exp.batching import AdaptiveBatch, filled
from gradsam_exp.classifiers.base import ClassifierSource
from gradsam_exp.config import Node
from gradsam_exp.engine.session import Session
from gradsam_exp.engine.stages.base import Chunk, Stage
from gradsam_exp.errors import InputError
from gradsam_exp.explainers.base import EXPLAINERS, Explainer
from gradsam_exp.explainers.several import Mirrored
from gradsam_exp.types import Heatmaps, Tensors

Target = Literal["predicted", "label"]


@dataclass
class Explained:
    """Holds a classifier and an explainer that are read when they are first needed, which may be never.

    Attributes:
        class_names: the classifier's, in order.
        load: gives the classifier, in eval mode, and the explainer of it.
        target: explain the ``predicted`` class, or the true one (``label``).
        depends_on: plain values that say everything the heatmaps depend on besides images, target and device.
        modules: import paths of the plug-ins behind ``load``.
        device: where the classifier runs.
    """

    class_names: Sequence[str]
    load: Callable[[], tuple[nn.Module, Explainer]]
    target: Target = "predicted"
    depends_on: Any = None
    modules: Sequence[str] = ()
    device: torch.device | str = "cpu"

    @cached_property
    def _models(self) -> tuple[nn.Module, Explainer]:
        classifier, explainer = self.load()
        return classifier.to(self.device), explainer

    @property
    def classifier(self) -> nn.Module:
        """Gives the network, on its device."""
        return self._models[0]

    def heatmaps(self, images: Tensor, labels: Tensor, batches: AdaptiveBatch) -> Heatmaps:
        """Explain images, a batch at a time; the heatmaps are on the CPU.

        Labels are class ids, −1 where unknown: an `InputError` if true classes are to be explained.
        """
        if self.target == "label" and (labels < 0).any():
            raise InputError(
                "explainer.target=label needs a label for every image; use explainer.target=predicted"
            )
        _, explainer = self._models

        def explain(rows: slice) -> Heatmaps:
            some, own = images[rows], labels[rows]
            targets = filled(own, batches.most).to(self.device) if self.target == "label" else None
            return explainer(filled(some, batches.most).to(self.device), targets)[: len(some)].to("cpu")

        return Heatmaps.joined(list(batches.slices(len(images), explain)))

    def predict(self, pixels: Tensor, batches: AdaptiveBatch) -> Tensor:
        """Compute the logits of network input, a batch at a time; they are on the CPU."""

        def classify(rows: slice) -> Tensor:
            some = pixels[rows]
            return self.classifier(filled(some, batches.most).to(self.device))[: len(some)].cpu()

        return torch.cat(list(batches.slices(len(pixels), classify)))


def explained_by(source: ClassifierSource, node: Node, *, device: torch.device, session: Session) -> Explained:
    """Bring together a classifier and the explainer that ``node``, of the ``explainer`` group, describes."""
    own = {key: value for key, value in node.items() if key not in {"target", "augment"}}

    def load() -> tuple[nn.Module, Explainer]:
        classifier = session.keep("classifier", source.digest, source.load)
        explainer = EXPLAINERS.build(own, model=classifier)
        return classifier, Mirrored(explainer) if node["augment"] == "mirror" else explainer

    return Explained(
        source.class_names,
        load,
        target=node["target"],
        # ``chunk`` only says how much of the work is done at once.
        depends_on=[source.digest, {key: own[key] for key in own if key != "chunk"}, node["augment"]],
        modules=[*EXPLAINERS.modules(own), type(source).__module__],
        device=device,
    )


class Explain(Stage):
    """Makes a heatmap of every image."""

    name = "heatmaps"
    clock = "explain"
    after = ("images",)

    def __init__(self, explained: Explained) -> None:
        kind = torch.device(explained.device).type
        super().__init__([explained.depends_on, explained.target, kind], explained.modules)
        self.explained = explained

    def make(self, chunk: Chunk, batches: AdaptiveBatch) -> tuple[Tensors, Any]:
        """See `Stage.make`."""
        return self.explained.heatmaps(chunk.batch.images, chunk.batch.labels, batches).as_tensors(), None

    def take(self, chunk: Chunk, tensors: Tensors, facts: Any) -> None:
        """See `Stage.take`."""
        chunk.heatmaps = Heatmaps(**tensors)
