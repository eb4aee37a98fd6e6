"""Whether a classifier's file, what the configuration says of it, and the explainer belong together.

Found out without any weights, before an image is explained.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hydra.core.hydra_config import HydraConfig

from gradsam_exp.classifiers.checkpoints import ClassifierFile
from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.config import Config, Node
from gradsam_exp.digest import digest
from gradsam_exp.errors import InputError
from gradsam_exp.explainers.base import EXPLAINERS, Explainer, LayerExplainer

log = logging.getLogger(__name__)
_outlines: dict[str, ImageClassifier] = {}  # the last one; the jobs of a sweep ask again and again
_outlined: dict[str, Explainer] = {}
_checked: set[tuple[str, tuple[int, int]]] = set()


def settled(config: Config, file: ClassifierFile) -> Config:
    """The configuration with the network that the file holds, and lists where one target layer stands alone.

    Raises:
        InputError: if something else was given of the network, or no target layer at all.
    """
    _check_given(config.model, file)
    size = None if file.size is None else list(file.size)
    model = {**config.model, "backbone": file.backbone, "size": size}
    return replace(config, model=model, explainer=_listed(config.explainer))


def _check_given(model: Node, file: ClassifierFile) -> None:
    """What was given on the command line must be true of the file; defaults are no claims."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    given = {override.lstrip("+").partition("=")[0] for override in overrides}
    place = f"model.checkpoint={model.get('checkpoint')}"
    mend = "that is chosen when a classifier is trained (task=train); leave it out, or give another checkpoint"
    if given & {"model", "model.backbone"} and model.get("backbone") != file.backbone:
        raise InputError(f"model.backbone={model.get('backbone')}, but {place} holds a {file.backbone}: {mend}")
    if "model.size" in given and list(model.get("size") or []) != list(file.size or []):
        takes = "images of any size" if file.size is None else f"images resized to {list(file.size)} px"
        raise InputError(f"model.size={model.get('size')}, but {place} takes {takes}: {mend}")
    if "model.pretrained" in given and model.get("pretrained"):
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


def check_explainer(config: Config, file: ClassifierFile, frame: tuple[int, int] | None = None) -> None:
    """Build the explainer for the file's network without weights, and see whether its target layers give maps.

    Args:
        config: `settled`.
        file: the classifier's.
        frame: ``(height, width)`` px of an image; None checks names and parameters only.

    Raises:
        InputError: a parameter that is not one or out of its range, a layer that does not exist or gives no map,
            or a network that the explainer cannot explain; names the key and the mend.
    """
    node = {key: value for key, value in config.explainer.items() if key not in {"target", "augment"}}
    key = digest([file.digest, node])
    if key not in _outlined:
        try:
            _outlined[key] = EXPLAINERS.build(node, model=_outline(file))
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
    if frame is None or (key, frame) in _checked:
        return
    for part in _parts(_outlined[key]):
        if isinstance(part, LayerExplainer):
            part.check(file.size or frame)
    _checked.add((key, frame))


def _outline(file: ClassifierFile) -> ImageClassifier:
    """The file's network without weights; all explainers of it share one."""
    if file.digest not in _outlines:
        _outlines.clear()
        _outlined.clear()
        _outlines[file.digest] = file.outline()
    return _outlines[file.digest]


def _parts(explainer: Explainer) -> Iterator[Explainer]:
    """An explainer, and those that vote in it."""
    yield explainer
    for member in getattr(explainer, "members", ()):
        yield from _parts(member)
