"""This module plans a run: it turns a configuration into the run's objects, cheap checks first.

Everything that can be wrong with names, parameters and files is found while a `Plan` is made; models are
read only when it is carried out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch

from gradsam_exp.classifiers.base import CLASSIFIERS, ClassifierSource
from gradsam_exp.classifiers.classes import by_synset, mapped
from gradsam_exp.config import Config, chosen_model
from gradsam_exp.data.backgrounds import BACKGROUNDS
from gradsam_exp.data.base import DATASETS, ExampleDataset, Limited, Ranked, align_classes
from gradsam_exp.digest import digest, source_digest
from gradsam_exp.engine.devices import check_devices, find_device
from gradsam_exp.engine.experiment import Experiment
from gradsam_exp.engine.pipeline import Pipeline
from gradsam_exp.engine.preparation import Preparation
from gradsam_exp.engine.session import Job
from gradsam_exp.engine.stages.heatmaps import Target, explained_by, find_target
from gradsam_exp.engine.store import Store, StoreSettings, find_store
from gradsam_exp.engine.suitability import check_explainer, check_kinds, check_refiner, check_strategy, settled
from gradsam_exp.errors import InputError
from gradsam_exp.explainers.base import EXPLAINERS
from gradsam_exp.metrics.base import ExampleMetric, build_metrics
from gradsam_exp.metrics.faithfulness import FAITHFULNESS
from gradsam_exp.prompts.base import KNOBS, STRATEGIES, check_knobs, pixels
from gradsam_exp.refiners.base import REFINERS, Refiner
from gradsam_exp.registry import build_checked, check_value
from gradsam_exp.segmenters.base import SEGMENTERS, Segmenter
from gradsam_exp.segmenters.cached import CachedSegmenter
from gradsam_exp.selectors.base import SELECTORS
from gradsam_exp.weights import FOLDER as SHIPPED
from gradsam_exp.weights.transfer import DownloadLimits

_CODE = ("gradsam_exp.engine.plan", "gradsam_exp.runs.summary")
"""Modules that results run through, besides the plug-ins."""
NOT_OF_THE_NETWORK = {"layers", "layout", "map", "seed"}
"""Keys of ``model`` that say how it is explained, which classes it answers with, and how it is trained."""
LARGEST_SHAPES = 96  # px of the shorter side: larger pictures are not like those of the shipped classifier
SMALL_GRID = 0.02  # of the shorter side: a grid that spans less is nearly one point
_PLACES = {"checkpoint", "base", "id", "revision", "url", "sha256", "download", "max_queries"}
"""Parameters of a segmenter that say where its weights lie or how much is done at once, not what it answers."""
_ASKING = {"coordinates", "accepts", "iterations", "sure_foreground", "sure_background"}
"""Parameters of a segmenter that matter to how it is asked, not to its embeddings."""


@dataclass(frozen=True)
class Plan:
    """Holds the objects of a run that is known to be possible, before anything expensive was done.

    Attributes:
        classifier: described, not yet read.
        target: the class that heatmaps explain.
        store: where images, heatmaps and embeddings are kept, by ``settings``.
    """

    config: Config
    dataset: ExampleDataset
    classifier: ClassifierSource
    refiner: Refiner
    pipeline: Pipeline
    target: Target
    store: Store
    device: torch.device
    job: Job
    metrics: tuple[ExampleMetric, ...]
    settings: StoreSettings

    @property
    def upper_bound(self) -> bool:
        """Says whether the strategy or the selector looks at the true masks."""
        return self.pipeline.needs_truth

    @property
    def segmenter_name(self) -> str:
        """Returns what the segmenter is called in titles and tags: the last part of ``sam.id``, else its name."""
        return Path(str(self.config.sam.get("id") or self.config.sam["name"])).name

    @property
    def notes(self) -> list[str]:
        """List what the user may not expect of the settings, such as knobs without effect."""
        name, strategy = self.config.pipeline["name"], self.pipeline.strategy
        brought, notes = strategy.brings_selector, []
        if brought is not None and brought == self.config.selector["name"] and not self.job.given("selector"):
            notes.append(f"pipeline={name} brings selector={brought}; choose another with selector=…")
        return notes + self._without_effect() + self._small_grid() + self._only_shapes()

    def _without_effect(self) -> list[str]:
        """Name the knobs that were given and that the chosen strategy does not look at."""
        node, ignored = self.config.pipeline, self.pipeline.strategy.ignored
        shared = [knob for knob in KNOBS if self.job.given(knob) and (knob not in node or knob in ignored)]
        own = [f"pipeline.{knob}" for knob in sorted(ignored) if self.job.given(f"pipeline.{knob}")]
        own += ["selector"] if self.pipeline.strategy.selects and self.job.given("selector") else []
        given = " ".join([f"pipeline={node['name']}", *self.pipeline.strategy.ignoring])
        return [f"{knob} has no effect with {given}" for knob in [*shared, *own]]

    def _small_grid(self) -> list[str]:
        """Say that the grid of points is a small part of the first picture; of a single run only."""
        node, ignored = self.config.pipeline, self.pipeline.strategy.ignored
        if self.job.sweep is not None or "grid_offset" not in node or "grid_offset" in ignored:
            return []
        size, count = self.dataset.image_size(0), node["grid_size"]
        span = (count - 1) * pixels(node["grid_offset"], size)
        if count == 1 or span >= SMALL_GRID * min(size):
            return []
        return [
            f"the {count}×{count} grid of points spans {span:g} px, {span / min(size):.1%} of the first picture's "
            f"shorter side: grid_offset=2% would grow with the picture"
        ]

    def _only_shapes(self) -> list[str]:
        """Say that the shipped classifier knows no photographs."""
        path = self.classifier.path
        large = min(self.dataset.image_size(0)) > LARGEST_SHAPES
        if path is None or path.parent != SHIPPED or not large:
            return []
        return [
            f"the shipped classifier knows nothing but {', '.join(self.classifier.class_names)} in pictures of "
            "64×48 px: for photographs use model=imagenet, or train one (task=train)"
        ]

    @cached_property
    def identity(self) -> str:
        """Digests everything that the results depend on: runs of equal identity have equal results."""
        config, ignored = self.config, self.pipeline.strategy.ignored
        selector = {} if self.pipeline.strategy.selects else config.selector
        return digest(
            {
                "data": self.dataset.digest,
                "prepared": self.preparation().recipe,
                "pipeline": {key: value for key, value in config.pipeline.items() if key not in ignored},
                "selector": selector,
                "seed": config.seed,
                "asking": self._asking,
                "metrics": sorted(metric.depends_on for metric in self.metrics),
                "code": source_digest(
                    *_CODE,
                    *STRATEGIES.modules(config.pipeline),
                    *SELECTORS.modules(selector),
                ),
            }
        )

    @property
    def _asking(self) -> dict[str, Any]:
        return {key: self.config.sam.get(key) for key in sorted(_ASKING)}

    @property
    def digests(self) -> dict[str, str]:
        """Lists the digests of the data and the weights."""
        data, classifier, sam = self.dataset.digest, self.classifier.digest, self.pipeline.segmenter.digest
        return {"data": data, "classifier": classifier, "sam": sam}

    def experiment(self, *, among_others: bool = False) -> Experiment:
        """Put the experiment together; the classifier is read when the store lacks a heatmap.

        ``among_others``: this process makes other runs as well, and decodes what they have in common once.
        """
        segmenter = decoder = self._loaded_segmenter()
        most = int(self.settings.answers_gb * 2**30) if self.settings.enabled and among_others else 0
        if most:
            make = partial(CachedSegmenter, segmenter, most)
            decoder = self.job.session.keep("answers", (segmenter, most), make)
        pipeline = Pipeline(self.pipeline.strategy, decoder, self.pipeline.selector)
        return Experiment(self.preparation(segmenter), pipeline, seed=self.config.seed)

    def preparation(self, segmenter: Segmenter | None = None) -> Preparation:
        """Make the stages before any prompt; without a loaded segmenter, the one that encodes has keys only."""
        config, session, strategy = self.config, self.job.session, self.pipeline.strategy
        sam = {key: value for key, value in config.sam.items() if key not in _PLACES | _ASKING}
        data = [*DATASETS.modules(config.data), *BACKGROUNDS.modules(config.data), type(self.dataset).__module__]
        refine, encode = REFINERS.modules(config.refine), SEGMENTERS.modules(config.sam)
        return Preparation(
            explained_by(
                self.classifier, config.explainer, target=self.target, device=self.device, session=session
            ),
            self.refiner,
            self.pipeline.segmenter if segmenter is None else segmenter,
            store=self.store,
            segmented_by=[self.pipeline.segmenter.digest, sam, self.device.type],
            everything=strategy.everything,
            asked_by=self._asking,
            refined_by=config.refine,
            metrics=self.metrics,
            half=self.settings.half,
            modules={"data": data, "refine": refine, "sam": encode},
        )

    def _loaded_segmenter(self) -> Segmenter:
        """The segmenter with its weights; that of the job before if it is the same."""
        segmenter = self.pipeline.segmenter

        def load() -> Segmenter:
            segmenter.load(self.device)
            return segmenter

        key = [self.config.sam, segmenter.digest, str(self.device)]
        return self.job.session.keep("segmenter", key, load)


def plan(config: Config, job: Job, given: Callable[[Sequence[str]], ExampleDataset] | None = None) -> Plan:
    """Check a run before anything expensive starts: names and numbers first, then weights' files, then the data's.

    Args:
        given: makes the images, from the names of the classifier's classes, that stand for ``data``.

    Raises:
        InputError: naming the config key or file, and what to do.
    """
    check_knobs(vars(config))
    build_checked("download", DownloadLimits, config.download)  # which groups repeat
    strategy, selector = STRATEGIES.build(config.pipeline), SELECTORS.build(config.selector)
    asked = dict.fromkeys(FAITHFULNESS, True) if config.task.get("faithfulness") else {}
    refiner, metrics = REFINERS.build(config.refine), build_metrics({**asked, **config.metrics})
    EXPLAINERS.get(str(config.explainer.get("name")))
    check_value("explainer.augment", Literal["none", "mirror"], config.explainer.get("augment"))
    device = find_device(config.device)
    classifier = find_classifier_of(config)
    config = settled(config, classifier, job)
    check_explainer(config, classifier, job.session)
    accepts = config.sam.get("accepts")
    names = str(config.pipeline["name"]), str(config.sam.get("id") or config.sam["name"])
    if isinstance(accepts, list):  # before weights are downloaded in vain
        check_kinds(strategy.kinds, accepts, *names)
    pipeline = Pipeline(strategy, SEGMENTERS.build(config.sam), selector)
    check_strategy(strategy, pipeline.segmenter, *names)
    if "embeddings" in strategy.needs and config.sam.get("tta", 1) != 1:
        raise InputError(
            f"pipeline={config.pipeline['name']} compares an image's embeddings, and sam.tta={config.sam['tta']} "
            "mixes those of several views: use sam.tta=1"
        )
    target, best = find_target(config.explainer.get("target"), classifier.class_names)
    dataset = find_dataset(config, config.split) if given is None else given(classifier.class_names)
    classifier = by_synset(classifier, dataset.class_names)
    align_classes(dataset.class_names, classifier.class_names)
    dataset = dataset if best == 1 else Ranked(dataset, best)
    width, height = dataset.image_size(0)
    check_explainer(config, classifier, job.session, (height, width))
    check_refiner(config, refiner, pipeline.segmenter, classifier, job.session, (height, width))
    if pipeline.needs_truth and any(example.mask is None for example in dataset[0].examples):
        raise InputError(f"pipeline={config.pipeline['name']} looks at the true masks, but the data set has none")
    settings = build_checked("store", StoreSettings, config.store)
    store = find_store(settings, job.session)
    check_devices(config.devices, device, stored=store.root is not None)
    return Plan(config, dataset, classifier, refiner, pipeline, target, store, device, job, metrics, settings)


def find_classifier_of(config: Config, *, ready: bool = True) -> ClassifierSource:
    """Describe the classifier that ``model`` chooses; its classes are those of ``model.map`` if that is given.

    Args:
        ready: refuse a network without weights or class names.

    Raises:
        InputError: something wrong in ``model``.
    """
    model = {key: value for key, value in chosen_model(config).items() if key not in NOT_OF_THE_NETWORK}
    classifier = CLASSIFIERS.build(model)
    if ready:
        classifier.check_ready()
    given = config.model.get("map")
    return classifier if given is None else mapped(classifier, given)


def find_dataset(config: Config, split: str) -> ExampleDataset:
    """Build the data set of a split, cut to ``limit`` images."""
    dataset = DATASETS.build(config.data, split=split)
    return dataset if config.limit is None else Limited(dataset, config.limit)
