"""This module checks, without weights, that classifier, configuration, explainer and refiner fit together.

Also a prompt strategy and a segmenter.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from gradsam_exp.classifiers.base import ClassifierSource
from gradsam_exp.classifiers.transform import input_size
from gradsam_exp.config import Config, Node
from gradsam_exp.digest import digest
from gradsam_exp.engine.session import Job, Session
from gradsam_exp.engine.stages.heatmaps import ATTENTION
from gradsam_exp.errors import InputError
from gradsam_exp.explainers.base import AUTO, EXPLAINERS, Explainer, ModelExplainer
from gradsam_exp.explainers.dry_run import default_frame, find_target_layers
from gradsam_exp.prompts.base import PromptStrategy
from gradsam_exp.refiners.base import Refiner
from gradsam_exp.segmenters.base import PROVIDED, Segmenter

log = logging.getLogger(__name__)


def settled(config: Config, file: ClassifierSource, job: Job) -> Config:
    """Fill in the input size, a checkpoint's backbone, and the names of the target layers as a list.

    Raises `InputError` if something else was given of the network, or no target layer at all.
    """
    size = config.model.get("size") if file.size is None else list(file.size)
    model = {**config.model, "size": size}
    if config.model.get("source") == "checkpoint":
        _check_given(config.model, file, job)
        model["backbone"] = file.backbone
    return replace(config, model=model, explainer=_listed(config.explainer, lambda: _found(file, job.session)))


def _found(file: ClassifierSource, session: Session) -> list[str]:
    """Find the layer that ``auto`` stands for, without weights unless the network cannot run without them."""
    network = session.keep("outline", file.digest, file.outline)
    frame = file.size or default_frame(network)
    try:
        found = find_target_layers(network, frame)
    except InputError:
        found = find_target_layers(session.keep("classifier", file.digest, file.load), frame)
    log.info("explainer.target_layers=auto is %s", ", ".join(found))
    return found


def _check_given(model: Node, file: ClassifierSource, job: Job) -> None:
    """Refuse what was given on the command line and is not true of the classifier; defaults are no claims."""
    place = f"model.checkpoint={model.get('checkpoint')}"
    hint = "that is chosen when a classifier is trained (task=train); leave it out, or give another checkpoint"
    if job.given("model", "model.backbone") and model.get("backbone") not in {None, file.backbone}:
        raise InputError(f"model.backbone={model.get('backbone')}, but {place} holds a {file.backbone}: {hint}")
    if job.given("model.size") and list(model.get("size") or []) != list(file.size or []):
        takes = "images of any size" if file.size is None else f"images resized to {list(file.size)} px"
        raise InputError(f"model.size={model.get('size')}, but {place} takes {takes}: {hint}")
    if job.given("model.pretrained") and model.get("pretrained"):
        raise InputError(f"model.pretrained=true, but {place} has weights of its own: {hint}")


def _listed(node: Any, auto: Callable[[], list[str]]) -> Any:
    """Make each ``target_layers`` of an explainer's node, and of those inside it, a list of names."""
    if isinstance(node, list):
        return [_listed(item, auto) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("target_layers", ()) is None:
        raise InputError("explainer.target_layers is null: name at least one layer, such as [layer2.-1]")
    found = {key: _listed(value, auto) for key, value in node.items()}
    if isinstance(found.get("target_layers"), str):
        found["target_layers"] = [found["target_layers"]]
    if found.get("target_layers") == [AUTO]:
        found["target_layers"] = auto()
    return found


def check_explainer(
    config: Config, file: ClassifierSource, session: Session, frame: tuple[int, int] | None = None
) -> None:
    """Build the explainer for the classifier's network without weights, and see whether it can explain that.

    Args:
        config: `settled`.
        frame: ``(height, width)`` px of an image; None checks names and parameters only.

    Raises:
        InputError: a parameter that is not one or out of its range, a layer that does not exist or gives no map,
            or a network that the explainer cannot explain; names the key and the hint what to do.
    """
    node = {key: value for key, value in config.explainer.items() if key not in {"target", "augment"}}
    key = digest([file.digest, node])
    explainer = session.keep("outlined explainer", key, lambda: _outlined(config, node, file, session))
    if frame is not None and isinstance(explainer, ModelExplainer):
        size = input_size(file.size, frame)
        session.keep("checked explainer", (key, size), lambda: explainer.check(size))


def check_refiner(
    config: Config,
    refiner: Refiner,
    segmenter: Segmenter,
    file: ClassifierSource,
    session: Session,
    frame: tuple[int, int],
) -> None:
    """See whether the segmenter and the classifier's network have what the refiner needs.

    Args:
        frame: ``(height, width)`` px of an image.

    Raises:
        InputError: if they have not; says what to choose instead.
    """
    name = config.refine["name"]
    clicks = "everything" in segmenter.provides and "points" in segmenter.accepts
    if "everything" in refiner.needs and not clicks:
        sam = config.sam.get("id") or config.sam["name"]
        raise InputError(
            f"refine={name} needs SAM's everything mode, clicks everywhere, which sam={sam} does not have: "
            "choose sam=compact or refine=superpixels"
        )
    if "attention" not in refiner.needs:
        return
    network = session.keep("outline", file.digest, file.outline)
    explainer = EXPLAINERS.build(ATTENTION, model=network)
    try:
        if isinstance(explainer, ModelExplainer):
            explainer.check(input_size(file.size, frame))
    except InputError as error:
        log.info("refine=%s: %s", name, error)
        network_name = getattr(network, "backbone_name", type(network).__name__)
        raise InputError(
            f"refine={name} needs a transformer whose attention is over all patches of an image, and computed by "
            f"PyTorch's own functions: {network_name} is none. Use model=vit_b_16, or choose refine=guided"
        ) from error


def _outlined(config: Config, node: Node, file: ClassifierSource, session: Session) -> Explainer | None:
    """The explainer of the network without weights; None if it cannot be built without them."""
    network = session.keep("outline", file.digest, file.outline)
    try:
        explainer = EXPLAINERS.build(node, model=network)
    except InputError as error:
        by_default = config.model.get("layers") or []
        if not any(f"={layer!r}: there is no layer" in str(error) for layer in by_default):
            raise
        place = f"model.checkpoint={config.model.get('checkpoint')} holds a {file.backbone}"
        hint = "choose layers of it by model=… (those in conf/model), or by explainer.target_layers"
        raise InputError(f"{error}. {place}: {hint}") from error
    except Exception as error:  # of another package's, which wants weights: it is built when they are read
        log.debug("explainer=%s was not checked (%s)", node.get("name"), error)
        return None
    if isinstance(explainer, ModelExplainer) and explainer.caveat is not None:
        log.warning("%s", explainer.caveat)
    return explainer


def check_strategy(strategy: PromptStrategy, segmenter: Segmenter, pipeline: str, sam: str) -> None:
    """Refuse a strategy that prompts with what the segmenter does not accept, or needs of it what it has not.

    Args:
        pipeline, sam: names of the two, for the error.

    Raises:
        InputError: it does.
    """
    check_kinds(strategy.kinds, segmenter.accepts, pipeline, sam)
    lacking = (strategy.needs & PROVIDED) - segmenter.provides
    if lacking:
        what = {"embeddings": "compares an image's embeddings", "everything": "needs SAM's everything mode"}
        raise InputError(
            f"pipeline={pipeline} {what[min(lacking)]}, which sam={sam} does not have: it is no network"
        )


def check_kinds(kinds: Collection[str], accepts: Collection[str], pipeline: str, sam: str) -> None:
    """Refuse kinds of prompts that a segmenter does not accept, see `check_strategy`."""
    unasked = set(kinds).difference(accepts)
    if unasked:
        raise InputError(
            f"pipeline={pipeline} prompts with {', '.join(sorted(unasked))}, "
            f"which sam={sam} does not accept; it accepts {', '.join(sorted(accepts))}"
        )
