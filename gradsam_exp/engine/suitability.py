"""Whether a classifier's file, what the configuration says of it, and the explainer belong together.

Found out without any weights, before an image is explained.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from gradsam_exp.classifiers.checkpoints import ClassifierFile
from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.config import Config, Node
from gradsam_exp.digest import digest
from gradsam_exp.engine.session import Job, Session
from gradsam_exp.errors import InputError
from gradsam_exp.explainers.base import EXPLAINERS, Explainer, LayerExplainer

log = logging.getLogger(__name__)


def settled(config: Config, file: ClassifierFile, job: Job) -> Config:
    """The configuration with the network that the file holds, and lists where one target layer stands alone.

    Raises:
        InputError: if something else was given of the network, or no target layer at all.
    """
    _check_given(config.model, file, job)
    size = None if file.size is None else list(file.size)
    model = {**config.model, "backbone": file.backbone, "size": size}
    return replace(config, model=model, explainer=_listed(config.explainer))


def _check_given(model: Node, file: ClassifierFile, job: Job) -> None:
    """What was given on the command line must be true of the file; defaults are no claims."""
    place = f"model.checkpoint={model.get('checkpoint')}"
    mend = "that is chosen when a classifier is trained (task=train); leave it out, or give another checkpoint"
    if job.given("model", "model.backbone") and model.get("backbone") != file.backbone:
        raise InputError(f"model.backbone={model.get('backbone')}, but {place} holds a {file.backbone}: {mend}")
    if job.given("model.size") and list(model.get("size") or []) != list(file.size or []):
        takes = "images of any size" if file.size is None else f"images resized to {list(file.size)} px"
        raise InputError(f"model.size={model.get('size')}, but {place} takes {takes}: {mend}")
    if job.given("model.pretrained") and model.get("pretrained"):
        raise InputError(f"model.pretrained=true, but {place} has weights of its own: {mend}")


def _listed(node: Any) -> Any:
    """An explainer's node and those inside it, each ``target_layers`` a list."""
    if isinstance(node, list):
        return [_listed(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("target_layers", ()) is None:
        raise InputError("explainer.target_layers is null: name at least one layer, such as [layer2.-1]")
    found = {key: _listed(value) for key, value in node.items()}
    if isinstance(found.get("target_layers"), str):
        found["target_layers"] = [found["target_layers"]]
    return found


def check_explainer(
    config: Config, file: ClassifierFile, session: Session, frame: tuple[int, int] | None = None
) -> None:
    """Build the explainer for the file's network without weights, and see whether its target layers give maps.

    Args:
        config: `settled`.
        file: the classifier's.
        session: keeps the network without weights, and what was found out, for the next job.
        frame: ``(height, width)`` px of an image; None checks names and parameters only.

    Raises:
        InputError: a parameter that is not one or out of its range, a layer that does not exist or gives no map,
            or a network that the explainer cannot explain; names the key and the mend.
    """
    node = {key: value for key, value in config.explainer.items() if key not in {"target", "augment"}}
    key = digest([file.digest, node])
    outline = session.keep("outline", file.digest, lambda: _Outline(file.outline()))
    if key not in outline.explainers:
        try:
            outline.explainers[key] = EXPLAINERS.build(node, model=outline.network)
        except InputError as error:
            by_default = config.model.get("layers") or []
            if not any(f"={layer!r}: there is no layer" in str(error) for layer in by_default):
                raise
            place = f"model.checkpoint={config.model.get('checkpoint')} holds a {file.backbone}"
            mend = "choose layers of it by model=… (those in conf/model), or by explainer.target_layers"
            raise InputError(f"{error}. {place}: {mend}") from error
        except Exception as error:  # of another package's, which wants weights: it is built when they are read
            log.debug("explainer=%s was not checked (%s)", node.get("name"), error)
            return
    if frame is None or (key, frame) in outline.checked:
        return
    for part in _parts(outline.explainers[key]):
        if isinstance(part, LayerExplainer):
            part.check(file.size or frame)
    outline.checked.add((key, frame))


@dataclass
class _Outline:
    """A network without weights, explainers of it by configuration, and the image sizes they were checked with."""

    network: ImageClassifier
    explainers: dict[str, Explainer] = field(default_factory=dict)
    checked: set[tuple[str, tuple[int, int]]] = field(default_factory=set)


def _parts(explainer: Explainer) -> Iterator[Explainer]:
    """An explainer, and those that vote in it."""
    yield explainer
    for member in getattr(explainer, "members", ()):
        yield from _parts(member)
