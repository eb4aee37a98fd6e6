"""From a configuration to the objects of a run, cheap checks first.

Everything that can be wrong with names, parameters and files is found while a `Plan` is made; models are
read only when it is carried out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from gradsam_exp.classifiers.checkpoints import ClassifierFile, find_classifier
from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.config import Config, Node, chosen_model
from gradsam_exp.data.base import DATASETS, FirstImages, ImageDataset
from gradsam_exp.digest import code_digest, digest, library_versions
from gradsam_exp.engine.experiment import Experiment
from gradsam_exp.engine.pipeline import Pipeline
from gradsam_exp.engine.preparation import Explained, Preparation, align_classes
from gradsam_exp.engine.session import Job, Session
from gradsam_exp.engine.store import Store
from gradsam_exp.engine.suitability import check_explainer, settled
from gradsam_exp.errors import InputError, first_line
from gradsam_exp.explainers.base import EXPLAINERS, Explainer
from gradsam_exp.explainers.several import Mirrored
from gradsam_exp.metrics.base import ExampleMetric, build_metrics
from gradsam_exp.metrics.faithfulness import FAITHFULNESS
from gradsam_exp.prompts.base import STRATEGIES
from gradsam_exp.refiners.base import REFINERS, Refiner
from gradsam_exp.registry import build_checked, check_value
from gradsam_exp.segmenters.base import SEGMENTERS, Segmenter
from gradsam_exp.segmenters.cached import CachedSegmenter
from gradsam_exp.selectors.base import SELECTORS

RESULTS_VERSION = 3  # raise it when the same configuration gives other numbers than before


@dataclass(frozen=True)
class Plan:
    """A run that is known to be possible, before anything expensive was done.

    Attributes:
        store: where images, heatmaps and embeddings are kept.
        device: where the networks run.
        job: whose run it is.
        metrics: what is measured.
    """

    config: Config
    dataset: ImageDataset
    classifier: ClassifierFile
    refiner: Refiner
    pipeline: Pipeline
    store: Store
    device: torch.device
    job: Job
    metrics: tuple[ExampleMetric, ...]

    @property
    def upper_bound(self) -> bool:
        """Whether the strategy or the selector looks at the true masks."""
        return self.pipeline.needs_truth

    @property
    def identity(self) -> str:
        """Digest of everything the results depend on; equal identity means equal results."""
        config = self.config
        return digest(
            {
                "version": RESULTS_VERSION,
                "libraries": library_versions(),
                "device": self.device.type,
                "data": self.dataset.fingerprint,
                "classifier": self.classifier.digest,
                "sam": self.segmented_by,
                "explainer": _relevant(config.explainer),
                "refine": config.refine,
                "pipeline": {k: v for k, v in config.pipeline.items() if k not in self.pipeline.strategy.ignored},
                "selector": config.selector,
                "code": [
                    self._explaining_code,
                    REFINERS.code(config.refine),
                    STRATEGIES.code(config.pipeline),
                    SELECTORS.code(config.selector),
                ],
                "seed": config.seed,
                "metrics": sorted(metric.depends_on for metric in self.metrics),
            }
        )

    @property
    def segmented_by(self) -> list[Any]:
        """What the segmenter's answers depend on: its weights and parameters, not where the weights lie."""
        elsewhere = {"checkpoint", "url", "sha256", "max_queries"}
        node = {key: value for key, value in self.config.sam.items() if key not in elsewhere}
        return [self.pipeline.segmenter.digest, node, SEGMENTERS.code(node)]

    @property
    def _explaining_code(self) -> list[Any]:
        """Digests of what makes the heatmaps."""
        config = self.config
        mirrored = config.explainer["augment"] == "mirror"
        return [EXPLAINERS.code(config.explainer), code_digest(Mirrored, EXPLAINERS.package) if mirrored else None]

    def with_prompts(self, pipeline: Node, selector: Node) -> Plan:
        """The same with another strategy and selector, given as config nodes.

        Raises:
            InputError: see `plan`.
        """
        config = replace(self.config, pipeline=pipeline, selector=selector)
        other = Pipeline(STRATEGIES.build(pipeline), self.pipeline.segmenter, SELECTORS.build(selector))
        _check_kinds(config, other)
        _check_truth(config, other, self.dataset)
        return replace(self, config=config, pipeline=other)

    @property
    def digests(self) -> dict[str, str]:
        """Of the data and the weights."""
        return {
            "data": self.dataset.fingerprint,
            "classifier": self.classifier.digest,
            "sam": self.pipeline.segmenter.digest,
        }

    def experiment(self, *, among_others: bool = False) -> Experiment:
        """Put everything together.

        The classifier is read when a heatmap is needed that the store does not have.

        Args:
            among_others: this process makes other runs as well, and decodes what they have in common once.
        """
        segmenter = loaded_segmenter(self.pipeline.segmenter, self.config.sam, self.device, self.job.session)
        decoder = _remembering(segmenter, self.config.store, self.job.session) if among_others else segmenter
        pipeline = Pipeline(self.pipeline.strategy, decoder, self.pipeline.selector)
        return Experiment(self.preparation(segmenter), pipeline, seed=self.config.seed)

    def preparation(self, segmenter: Segmenter | None = None) -> Preparation:
        """Images, heatmaps and embeddings.

        Args:
            segmenter: loaded; without one there are no embeddings, only `Preparation.explain`.
        """
        node = dict(self.config.explainer)
        target, augment = node.pop("target"), node.pop("augment")

        def load() -> tuple[ImageClassifier, Explainer]:
            classifier = loaded_classifier(self.classifier, self.job.session)
            explainer = EXPLAINERS.build(node, model=classifier)
            return classifier, Mirrored(explainer) if augment == "mirror" else explainer

        explained = Explained(
            self.classifier.class_names,
            load,
            target=target,
            depends_on=[self.classifier.digest, _relevant(node), augment, self._explaining_code],
            device=self.device,
        )
        return Preparation(
            explained,
            self.refiner,
            self.pipeline.segmenter if segmenter is None else segmenter,
            store=self.store,
            segmented_by=self.segmented_by,
            refined_by=[self.config.refine, REFINERS.code(self.config.refine)],
            metrics=self.metrics,
        )


def _relevant(explainer: Node) -> Node:
    """Without what only says how much of the work is done at once."""
    return {key: value for key, value in explainer.items() if key != "chunk"}


def loaded_classifier(file: ClassifierFile, session: Session) -> ImageClassifier:
    """The classifier with its weights; that of the job before if it is the same."""
    return session.keep("classifier", file.digest, file.load)


def loaded_segmenter(segmenter: Segmenter, node: Node, device: torch.device, session: Session) -> Segmenter:
    """The segmenter of this config node with its weights; that of the job before if it is the same."""

    def load() -> Segmenter:
        segmenter.load(device)
        return segmenter

    return session.keep("segmenter", digest([node, segmenter.digest, str(device)]), load)


def _remembering(segmenter: Segmenter, node: Node, session: Session) -> Segmenter:
    """The segmenter with the answers that earlier runs of this process got from it; ``node`` is the store's."""
    settings = build_checked("store", StoreSettings, node)
    max_bytes = int(settings.answers_gb * 2**30)
    if not (settings.enabled and max_bytes):
        return segmenter
    return session.keep("answers", (segmenter, max_bytes), lambda: CachedSegmenter(segmenter, max_bytes))


def plan(config: Config, job: Job, given: Callable[[Sequence[str]], ImageDataset] | None = None) -> Plan:
    """Check a run from cheap to dear: names and numbers, then the data's files, then the weights' files.

    Args:
        given: makes the images, from the names of the classifier's classes, that stand for ``data``.

    Raises:
        InputError: naming the config key or file, and the mend.
    """
    strategy, selector = STRATEGIES.build(config.pipeline), SELECTORS.build(config.selector)
    refiner, metrics = REFINERS.build(config.refine), _metrics(config)
    EXPLAINERS.get(str(config.explainer.get("name")))
    check_value("explainer.target", Literal["predicted", "label"], config.explainer.get("target"))
    check_value("explainer.augment", Literal["none", "mirror"], config.explainer.get("augment"))
    device = find_device(config.device)
    classifier = _classifier(config)
    config = settled(config, classifier, job)
    check_explainer(config, classifier, job.session)
    pipeline = Pipeline(strategy, SEGMENTERS.build(config.sam), selector)
    _check_kinds(config, pipeline)
    dataset = find_dataset(config, config.split) if given is None else given(classifier.class_names)
    align_classes(dataset.class_names, classifier.class_names)
    width, height = dataset.image_size(0)
    check_explainer(config, classifier, job.session, (height, width))
    _check_truth(config, pipeline, dataset)
    store = find_store(config, job.session)
    _check_devices(config, device, store)
    return Plan(config, dataset, classifier, refiner, pipeline, store, device, job, metrics)


def _metrics(config: Config) -> tuple[ExampleMetric, ...]:
    """Those that ``metrics`` chooses, and those of the heatmaps' faithfulness if the task asks for them."""
    added = dict.fromkeys(FAITHFULNESS, True) if config.task.get("faithfulness") else {}
    return build_metrics({**added, **config.metrics})


def _check_devices(config: Config, device: torch.device, store: Store) -> None:
    number = config.devices
    if number == 1:
        return
    if store.root is None:
        raise InputError(
            f"devices={number} hand over their work in the store, but store.enabled=false: "
            "leave it on, or use devices=1"
        )
    if device.type not in {"cpu", "cuda"}:
        raise InputError(f"devices={number}: of {device.type} there is only one; use devices=1")
    if device.index is not None:
        raise InputError(f"devices={number}, but device={device} names one; use device={device.type}")
    if device.type == "cuda" and number > torch.cuda.device_count():
        raise InputError(f"devices={number}: this machine has {torch.cuda.device_count()} GPUs")


def _check_kinds(config: Config, pipeline: Pipeline) -> None:
    unasked = pipeline.strategy.kinds - pipeline.segmenter.accepts
    if unasked:
        raise InputError(
            f"pipeline={config.pipeline['name']} prompts with {', '.join(sorted(unasked))}, "
            f"which sam={config.sam['name']} does not accept"
        )


def _check_truth(config: Config, pipeline: Pipeline, dataset: ImageDataset) -> None:
    if pipeline.needs_truth and dataset[0].mask is None:
        raise InputError(f"pipeline={config.pipeline['name']} looks at the true masks, but the data set has none")


def find_dataset(config: Config, split: str) -> ImageDataset:
    """The data set's split, cut to ``limit`` images."""
    dataset = DATASETS.build(config.data, split=split)
    return dataset if config.limit is None else FirstImages(dataset, config.limit)


@dataclass(frozen=True)
class StoreSettings:
    """What ``store`` in ``conf/config.yaml`` says.

    Attributes:
        enabled: keep images, heatmaps and embeddings.
        root: where; safe for several processes and machines that share the folder.
        max_gb: above this (2³⁰ bytes) the least recently used go.
        answers_gb: of the decoder's answers that the jobs of a sweep keep in memory for each other; 0 keeps none.
    """

    enabled: bool = True
    root: str = "outputs/.store"
    max_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
    answers_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5


def find_store(config: Config, session: Session) -> Store:
    """Where chunks are kept.

    Raises:
        InputError: if the folder cannot be written to.
    """
    settings = build_checked("store", StoreSettings, config.store)
    if not settings.enabled:
        return Store(None)
    root = Path(settings.root).expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise InputError(
            f"store.root={root} cannot be written to ({first_line(error)}); give another, or store.enabled=false"
        ) from error
    root, max_bytes = root.resolve(), int(settings.max_gb * 2**30)
    return session.keep("store", (root, max_bytes), lambda: Store(root, max_bytes))


def find_device(name: str) -> torch.device:
    """``auto`` is the first GPU if there is one.

    Raises:
        InputError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device={name} cannot be used here ({first_line(error)}); use device=auto or cpu"
        ) from error
    return device


def _classifier(config: Config) -> ClassifierFile:
    checkpoint = chosen_model(config).get("checkpoint")
    if checkpoint is None:
        raise InputError(
            "model.checkpoint is null: train a classifier with task=train and give its classifier.safetensors"
        )
    return find_classifier(checkpoint)
