"""This stage makes heatmaps: it asks an explainer where in the image the classifier looked."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradsam_exp.batching import AdaptiveBatch, filled
from gradsam_exp.classifiers.base import ClassifierSource
from gradsam_exp.config import Node
from gradsam_exp.data.base import match_classes
from gradsam_exp.engine.session import Session
from gradsam_exp.engine.stages.base import Chunk, Stage
from gradsam_exp.errors import InputError, did_you_mean
from gradsam_exp.explainers.base import EXPLAINERS, Explainer
from gradsam_exp.explainers.several import Mirrored
from gradsam_exp.types import ExampleBatch, Heatmaps, Tensors

Target = Literal["predicted", "label", "rank"] | int
ATTENTION = {"name": "attention_rollout"}
"""An explainer that can say how patches attend to each other; found by name: only who asks depends on it."""


@dataclass
class Explained:
    """Holds a classifier and its explainer, both loaded on first use.

    Attributes:
        class_names: the classifier's, in order.
        load: gives the classifier, in eval mode, and the explainer of it.
        target: explain the ``predicted`` class, the true one (``label``), the one of each example's ``rank``, or
            the class of this id.
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

    def heatmaps(self, batch: ExampleBatch, batches: AdaptiveBatch) -> Heatmaps:
        """Explain every example, so many images at a time; the heatmaps are on the CPU.

        An image whose examples ask for one class is explained once.

        Raises:
            InputError: if true classes are to be explained and one is unknown.
        """
        if self.target == "label":
            if (batch.labels < 0).any():
                raise InputError(
                    "explainer.target=label needs a label for every image; use explainer.target=predicted"
                )
            return self.of_classes(batch.own_images, batch.labels, batches)
        named = None if isinstance(self.target, str) else torch.full((len(batch.images),), self.target)
        found = self.of_classes(batch.images, named, batches)
        if self.target == "rank" and batch.ranks is not None and (batch.ranks > 0).any():
            if found.logits is None:
                raise InputError("explainer.target=top… needs an explainer that computes class scores")
            ranked = found.logits.argsort(1, descending=True)[batch.image_of]
            targets = ranked.gather(1, batch.ranks[:, None])[:, 0]
            return self.of_classes(batch.own_images, targets, batches)
        return found if len(batch) == len(batch.images) else found[batch.image_of]

    def of_classes(self, images: Tensor, targets: Tensor | None, batches: AdaptiveBatch) -> Heatmaps:
        """Explain one class of each image, None: the predicted one; so many images at a time."""
        _, explainer = self._models

        def explain(rows: slice) -> Heatmaps:
            some = images[rows]
            own = None if targets is None else filled(targets[rows], batches.most).to(self.device)
            found = explainer(filled(some, batches.most).to(self.device), own)
            _check_finite(found, explainer)
            return found[: len(some)].to("cpu").zeros_empty

        return Heatmaps.joined(list(batches.slices(len(images), explain)))

    def attention(
        self, images: Tensor, layers: int, batches: AdaptiveBatch
    ) -> Float[Tensor, "batch rows columns rows columns"]:
        """Average the attention between patches over the last layers, a batch at a time; it is on the CPU.

        Raises:
            InputError: if the classifier has no attention over all patches.
        """
        explainer: Any = EXPLAINERS.build(ATTENTION, model=self.classifier)

        def look(rows: slice) -> Tensor:
            some = images[rows]
            own = filled(some, batches.most).to(self.device)
            return explainer.patch_attention(own, layers)[: len(some)].cpu()

        return torch.cat(list(batches.slices(len(images), look)))

    def predict(self, pixels: Tensor, batches: AdaptiveBatch) -> Tensor:
        """Compute the logits of network input, a batch at a time; they are on the CPU."""

        def classify(rows: slice) -> Tensor:
            some = pixels[rows]
            return self.classifier(filled(some, batches.most).to(self.device))[: len(some)].cpu()

        return torch.cat(list(batches.slices(len(pixels), classify)))


def _check_finite(found: Heatmaps, explainer: Explainer) -> None:
    """Refuse, by an `InputError`, heatmaps and class scores that are NaN or infinite."""
    for what, values in (("heatmaps", found.values), ("class scores", found.logits)):
        if values is not None and not values.isfinite().all():
            raise InputError(
                f"{type(explainer).__name__} gives {what} that are NaN or infinite: check the classifier's weights"
            )


def find_target(given: Any, class_names: Sequence[str]) -> tuple[Target, int]:
    """Find which class ``explainer.target`` asks for, and how many of the best.

    Args:
        given: ``predicted``, ``label``, ``top3`` (the three best, each an example of its own), a class id, or a
            class name.

    Raises:
        InputError: a class that there is not.
    """
    text = str(given)
    if text in ("predicted", "label"):
        return cast("Target", text), 1
    top = re.fullmatch(r"top([1-9]\d*)", text)
    if top is not None:
        if int(top[1]) > len(class_names):
            raise InputError(f"explainer.target={text}: the classifier has {len(class_names)} classes only")
        return "rank", int(top[1])
    if re.fullmatch(r"\d+", text):
        if int(text) >= len(class_names):
            raise InputError(f"explainer.target={text}: class ids go from 0 to {len(class_names) - 1}")
        return int(text), 1
    (found,) = match_classes([text], class_names)
    if found is None:
        known = ["predicted", "label", "top3", *class_names]
        raise InputError(f"explainer.target={text!r} is not known{did_you_mean(text, known)}")
    return found, 1


def explained_by(
    source: ClassifierSource, node: Node, *, target: Target, device: torch.device, session: Session
) -> Explained:
    """Bring together a classifier and the explainer that a config node describes.

    Args:
        node: the ``explainer`` group: ``name``, ``target``, ``augment``, and the explainer's parameters.
        target: what ``target`` there means, see `find_target`.
        session: keeps the classifier for the next run.
    """
    own = {key: value for key, value in node.items() if key not in {"target", "augment"}}

    def load() -> tuple[nn.Module, Explainer]:
        classifier = session.keep("classifier", source.digest, source.load)
        explainer = EXPLAINERS.build(own, model=classifier)
        return classifier, Mirrored(explainer) if node["augment"] == "mirror" else explainer

    return Explained(
        source.class_names,
        load,
        target=target,
        # ``chunk`` only says how much of the work is done at once.
        depends_on=[source.digest, {key: own[key] for key in own if key != "chunk"}, node["augment"]],
        modules=[*EXPLAINERS.modules(own), type(source).__module__],
        device=device,
    )


class Explain(Stage):
    """Makes a heatmap of every example."""

    name = "heatmaps"
    clock = "explain"
    after = ("images",)

    def __init__(self, explained: Explained) -> None:
        kind = torch.device(explained.device).type
        super().__init__([explained.depends_on, explained.target, kind], explained.modules)
        self.explained = explained

    def make(self, chunk: Chunk, batches: AdaptiveBatch) -> tuple[Tensors, Any]:
        """See `Stage.make`."""
        return self.explained.heatmaps(chunk.batch, batches).as_tensors(), None

    def take(self, chunk: Chunk, tensors: Tensors, facts: Any) -> None:
        """See `Stage.take`."""
        chunk.heatmaps = Heatmaps(**tensors)
