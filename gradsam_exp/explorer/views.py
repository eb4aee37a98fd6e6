"""This module computes what the page shows of a state: pictures, prompts, masks, curves and figures.

Everything comes out as plain values: masks as COCO run lengths, pictures as ``data:`` URLs. Heatmaps and
embeddings are those of the store, as of any run.
"""

from __future__ import annotations

import base64
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from gradsam_exp.data.base import ExampleDataset, Limited, SizeBuckets
from gradsam_exp.data.given import GivenPictures
from gradsam_exp.data.pictures import MAX_PIXELS
from gradsam_exp.engine.experiment import Experiment
from gradsam_exp.engine.pipeline import Pipeline, PipelineResult
from gradsam_exp.engine.plan import Plan, find_dataset, plan
from gradsam_exp.engine.predictions import encode_mask
from gradsam_exp.engine.preparation import CHUNK, CHUNK_PIXELS, Prepared
from gradsam_exp.engine.session import Job
from gradsam_exp.engine.suitability import check_kinds
from gradsam_exp.errors import InputError, did_you_mean, harmless
from gradsam_exp.explainers.base import EXPLAINERS
from gradsam_exp.explainers.dry_run import default_frame, dry_run
from gradsam_exp.explorer.choices import Choices, State, Value
from gradsam_exp.explorer.controls import controls_of, summary_of
from gradsam_exp.explorer.desk import Steps, Work
from gradsam_exp.explorer.hand import Handmade
from gradsam_exp.explorer.recent import Recent
from gradsam_exp.overlap import iou, only_counted
from gradsam_exp.prompts.base import STRATEGIES
from gradsam_exp.prompts.thresholds import at_least
from gradsam_exp.refiners.base import REFINERS
from gradsam_exp.reports.figures import figure1
from gradsam_exp.reports.gallery import Gallery
from gradsam_exp.reports.pictures import as_url, fitting, shrunk_mask
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.paired import paired_difference
from gradsam_exp.runs.summary import summarize
from gradsam_exp.runs.units import Units
from gradsam_exp.segmenters.base import Segmenter
from gradsam_exp.selectors.base import SELECTORS
from gradsam_exp.types import ExampleBatch, PromptContext

REGISTRIES: dict[str, Any] = {
    "explainer": EXPLAINERS,
    "refine": REFINERS,
    "pipeline": STRATEGIES,
    "selector": SELECTORS,
}
SIDE = 640  # px; larger images are shown smaller
SAMPLE = 64  # images of the live mIoU
PART = 8  # images that are prepared in one step, between which more urgent questions are answered
STRIP = 20  # values along one knob
BEST = 5  # classes that are named with their probabilities
MOST_UPLOADS = 50
_CELL = 2.2  # inches, of a saved figure


@dataclass(frozen=True)
class Outcome:
    """Holds one image with all that became of it; the segmenter is loaded."""

    plan: Plan
    segmenter: Segmenter
    prepared: Prepared
    result: PipelineResult
    example: int


class Explorer:
    """Answers what the page asks.

    Args:
        base: overrides that the explorer was started with, see `Choices`.
        job: its folder takes uploads and saved figures; its session keeps networks.
        run: a finished run on the same images, whose worst are listed first.
        max_side, max_pixels: of pictures that are dropped on the page, as of ``task=explain``.

    Raises:
        InputError: something that was given is wrong.
    """

    def __init__(
        self,
        base: Sequence[str],
        job: Job,
        *,
        run: Run | None = None,
        max_side: int = 512,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.choices, self.job = Choices(base), job
        self.max_side, self.max_pixels = max_side, max_pixels
        self.config = self.choices.config(State())
        self.dataset = find_dataset(self.config, self.config.split)
        self._sample = Limited(self.dataset, min(SAMPLE, len(self.dataset)))
        self._plans: Recent[Plan] = Recent(64)
        self._prepared: Recent[Prepared] = Recent(128)
        self._shown: Recent[str] = Recent(64)
        self._scored: Recent[pd.DataFrame] = Recent(16)
        self._uploads: list[tuple[str, GivenPictures]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="gradsam-explore-")
        self._buckets = list(SizeBuckets(self.dataset, CHUNK, pixels=CHUNK_PIXELS))
        self._chunk_of = {index: chunk for chunk in self._buckets for index in chunk}
        self.run = run
        first = self.plan(State())
        self.segmenter_name = first.segmenter_name
        if run is not None and run.data_digest != first.dataset.digest:
            raise InputError(
                f"task.run={run.folder} is on other images than these: start the explorer with what the run "
                f"was given, {run.command}"
            )

    # What is chosen

    def plan(self, state: State, *, sample: bool = False) -> Plan:
        """Plan what a state asks for; on the ``sample`` of the images alone.

        Raises:
            InputError: what a run with this setting would be refused for.
        """

        def make() -> Plan:
            config = self.choices.config(state)
            config = replace(config, metrics={"miou": True}, devices=1)
            job = replace(self.job, overrides=tuple(self.choices.overrides(state)))
            return plan(config, job, lambda names: self._images(state, sample, names))

        return self._plans.made((state.setting, state.upload, sample), make)

    def _images(self, state: State, sample: bool, names: Sequence[str]) -> ExampleDataset:
        if state.upload is None:
            return self._sample if sample else self.dataset
        if state.upload >= len(self._uploads):
            raise InputError("the picture that was dropped is not here any more: drop it again")
        return self._uploads[state.upload][1].with_classes(names)

    def controls(self, state: State) -> dict[str, Any]:
        """Describe the controls of the chosen plug-ins, also where the setting itself is refused.

        Returns:
            For each group its ``options``, the ``chosen`` one, what it is ``about``, and ``knobs``; a knob without
            effect has the reason in ``off``.
        """
        config = self.choices.config(replace(state, knobs=self._fitting(state)))
        unset = self.choices.config(State(choices=state.choices))
        chosen, options = self.choices.chosen(state), self.choices.options
        off = self._without_effect(state)
        groups = {}
        for group, registry in REGISTRIES.items():
            node = getattr(config, group)
            factory = registry.get(str(node["name"]))
            keys = dict(self.choices.keys(state, group))
            knobs = [
                {**control, "key": keys[control["name"]], "off": off.get(f"{group}.{control['name']}", "")}
                for control in controls_of(factory, node, getattr(unset, group))
                if control["name"] in keys and control["name"] != "target_layers"
            ]
            groups[group] = {
                "options": options[group],
                "chosen": chosen[group],
                "about": summary_of(factory),
                "off": off.get(group, ""),
                "knobs": knobs,
            }
        layered = "target_layers" in config.explainer
        return {
            "groups": groups,
            "target": str(config.explainer.get("target")),
            "layers": self._layers() if layered else [],
            "layer": config.explainer.get("target_layers") if layered else None,
        }

    def _fitting(self, state: State) -> dict[str, Value]:
        """The knobs that the chosen plug-ins have."""
        known = {key for group in REGISTRIES for _, key in self.choices.keys(state, group)} | {"explainer.target"}
        return {key: value for key, value in state.knobs.items() if key in known}

    def _without_effect(self, state: State) -> dict[str, str]:
        """Say why a knob or a group has no effect, by its name."""
        try:
            config = self.choices.config(state)
            strategy = STRATEGIES.build(config.pipeline)
        except InputError:
            return {}
        name = config.pipeline["name"]
        because = f"has no effect with {' '.join([f'pipeline={name}', *strategy.ignoring])}"
        off = {f"pipeline.{knob}": because for knob in strategy.ignored}
        if state.hand is not None:
            by_hand = "has no effect on prompts given by hand"
            off |= {f"pipeline.{name}": by_hand for name in vars(strategy)}
        elif strategy.selects:
            off["selector"] = f"has no effect with pipeline={name}, which keeps masks by a rule of its own"
        return off

    def _layers(self) -> list[str]:
        """Name the layers of the classifier that give maps."""

        def make() -> list[str]:
            source = self.plan(State()).classifier
            network = self.job.session.keep("outline", source.digest, source.outline)
            try:
                seen = dry_run(network, source.size or default_frame(network))
            except Exception:  # it needs values to run: the layers can still be given on the command line
                return []
            return list(dict.fromkeys(call.name for call, _, _ in seen.maps() if call.name))

        return self.job.session.keep("layers", self.config.model, make)

    # What is shown

    def picture(self, state: State) -> Work:
        """Compute everything that is shown of one image; see `_told`."""
        answer: dict[str, Any] = {"controls": self.controls(state), "command": self.choices.command(state)}
        try:
            outcome = yield from self._outcome(state)
        except InputError as error:  # the controls are there, so that the conflict can be solved
            return {**answer, "problem": str(error)}
        return {**answer, **self._told(outcome, state)}

    def _outcome(self, state: State) -> Steps[Outcome]:
        planned = self.plan(state)
        if self.job.session.kept("segmenter") is None:
            yield {"now": f"reading the weights of sam={planned.segmenter_name}"}
        experiment = planned.experiment(among_others=True)
        index = 0 if state.upload is not None else min(state.image, len(self.dataset) - 1)
        prepared = yield from self._prepare(planned, experiment, index)
        example = min(state.example, len(prepared.batch) - 1)
        if state.hand is not None:
            experiment = self._by_hand(planned, experiment, Handmade(state.hand, example))
        results: list[PipelineResult] = []
        experiment.evaluate([prepared], on_batch=lambda part, result: results.append(result))
        return Outcome(planned, experiment.pipeline.segmenter, prepared, results[0], example)

    def _prepare(self, planned: Plan, experiment: Experiment, index: int) -> Steps[Prepared]:
        """Prepare one image: with its chunk where runs have put that into the store, else alone."""
        prepare, dataset = experiment.prepare, planned.dataset
        recipe = (tuple(prepare.recipe), dataset.store_digest)
        if (*recipe, index) not in self._prepared:
            chunk = [index] if len(dataset) == 1 else self._chunk_of[index]
            if not self._is_stored(planned, experiment, chunk):
                chunk = [index]
                if not self._is_stored(planned, experiment, chunk):
                    yield {"now": f"explaining and encoding the image, once (sam={planned.segmenter_name})"}
            found = self._chunk(planned, experiment, chunk)
            for place, one in enumerate(chunk):
                self._prepared[(*recipe, one)] = found[place : place + 1]
        return self._prepared[(*recipe, index)]

    @staticmethod
    def _is_stored(planned: Plan, experiment: Experiment, chunk: list[int]) -> bool:
        prepare = experiment.prepare
        return prepare.store.root is not None and not prepare.missing(planned.dataset, [chunk])

    def _by_hand(self, planned: Plan, experiment: Experiment, strategy: Handmade) -> Experiment:
        segmenter = experiment.pipeline.segmenter
        sam = planned.segmenter_name
        check_kinds(strategy.asked, segmenter.accepts, "prompts given by hand", sam)
        pipeline = Pipeline(strategy, segmenter, experiment.pipeline.selector)
        return Experiment(experiment.prepare, pipeline, seed=experiment.seed)

    def _told(self, outcome: Outcome, state: State) -> dict[str, Any]:
        """Everything about one example, in pixels of the picture as it is shown."""
        planned, prepared, result, row = outcome.plan, outcome.prepared, outcome.result, outcome.example
        batch, heatmaps = prepared.batch, prepared.heatmaps
        height, width = batch.size
        size, scale = fitting((width, height), SIDE)
        image = batch.images[batch.image_of[row]]
        names = planned.classifier.class_names
        truth = None if batch.masks is None else batch.masks[row]
        counted = None if batch.counted is None else batch.counted[row]

        def mask(values: Tensor | None) -> str | None:
            return None if values is None else encode_mask(shrunk_mask(values.numpy(), size))

        def quality(values: Tensor) -> float | None:
            return None if truth is None else float(iou(*only_counted(values, truth, counted=counted)))

        own = torch.nonzero(result.prompts.example_index == row).flatten()
        prompts = result.prompts[own]
        real = prompts.labels.flatten() >= 0
        points = (prompts.points.flatten(0, 1)[real] + 0.5) * scale - 0.5
        boxes = torch.zeros(0, 4) if prompts.boxes is None else (prompts.boxes + 0.5) * scale - 0.5
        warm, cold = self._regions(planned, prepared, row)
        logits = heatmaps.logits
        shares = None if logits is None else logits[row].float().softmax(0)
        best = [] if shares is None else shares.argsort(descending=True)[:BEST].tolist()
        label = int(batch.labels[row])
        return {
            "image": {
                "key": batch.example_ids[row],
                "name": batch.image_id_of[row],
                "examples": list(batch.example_ids),
                "size": size,
                "scale": scale,
                "pixels": [width, height],
                "url": self._url("image", batch.image_id_of[row], lambda: image.permute(1, 2, 0).numpy(), size),
            },
            "class_name": names[label] if label >= 0 else None,
            "class_names": list(names),
            "predicted": names[int(prepared.predicted[row])],
            "explained": names[int(heatmaps.targets[row])],
            "ranked": [] if shares is None else [[names[k], round(float(shares[k]), 4)] for k in best],
            "heat": self._heat(heatmaps.values[row], size),
            "empty": bool(heatmaps.empty[row]),
            "warm": mask(warm),
            "cold": mask(cold),
            "prompts": [
                [round(at, 2) for at in points.flatten().tolist()],
                "".join(str(one) for one in prompts.labels.flatten()[real].tolist()),
                [round(at, 2) for at in boxes.flatten().tolist()],
            ],
            "candidates": self._candidates(outcome, own, mask, quality),
            "queries": len(own),
            "mask": mask(result.masks[row]),
            "iou": quality(result.masks[row]),
            "predicted_iou": _number(float(result.predicted_iou[row])),
            "rounds": int(result.rounds[row]),
            "truth": mask(truth),
            "upper_bound": planned.upper_bound and state.hand is None,
            "notes": planned.notes,
        }

    def _candidates(
        self,
        outcome: Outcome,
        own: Tensor,
        mask: Callable[[Tensor], str | None],
        quality: Callable[[Tensor], float | None],
    ) -> list[dict[str, Any]]:
        """The masks that the segmenter offers for one query: the kept one, or the first."""
        if not len(own):
            return []
        choice, segmentation = outcome.result.choice, outcome.result.segmentation
        kept = [(q, c) for q, c in zip(choice.query.tolist(), choice.candidate.tolist(), strict=True) if q in own]
        query = kept[0][0] if kept else int(own[0])
        embeddings = outcome.prepared.embeddings
        masks = outcome.segmenter.to_original(segmentation.logits[query], embeddings).cpu()
        predicted = segmentation.predicted_iou[query].tolist()
        alone = len(masks) == 1
        return [
            {
                "name": "mask" if alone else "single" if number == 0 else f"mask {number}",
                "mask": mask(one),
                "predicted_iou": _number(predicted[number]),
                "iou": quality(one),
                "kept": (query, number) in kept,
            }
            for number, one in enumerate(masks)
        ]

    def _regions(self, planned: Plan, prepared: Prepared, row: int) -> tuple[Tensor | None, Tensor | None]:
        """The strategy's warm and cold pixels, where it parts them by thresholds of its own."""
        strategy, own = planned.pipeline.strategy, prepared.heatmaps[torch.tensor([row])]
        ctx = PromptContext(prepared.batch.own_images[row : row + 1], own)
        names = [name for name in vars(strategy) if name.endswith("threshold")]
        warm = next((getattr(strategy, name) for name in names if not name.startswith("bg")), None)
        cold = getattr(strategy, "cold_pixels", None)
        return (
            None if warm is None or own.empty[0] else at_least(own.values, warm)[0],
            None if cold is None or "bg_threshold" in strategy.ignored else cold(ctx)[0],
        )

    def _heat(self, values: Tensor, size: tuple[int, int]) -> str:
        grey = (values * 255).round().byte().numpy()
        return self._url("heat", hash(grey.tobytes()), lambda: grey, size)

    def _url(self, kind: str, key: Any, make: Callable[[], np.ndarray], size: tuple[int, int]) -> str:
        """A picture as a ``data:`` URL, made once."""

        def made() -> str:
            resampling = Image.Resampling.LANCZOS if kind == "image" else Image.Resampling.BOX
            return as_url(Image.fromarray(make()).resize(size, resampling))

        return self._shown.made((kind, key, size), made)

    # What is measured

    def strip(self, state: State, key: str, values: Sequence[Value]) -> Work:
        """Compute the IoU of the image along the values of one knob; None where the setting is refused."""
        ious: list[float | None] = []
        for value in values[:STRIP]:
            try:
                outcome = yield from self._outcome(replace(state, knobs={**state.knobs, key: value}, hand=None))
                ious.append(self._iou(outcome))
            except InputError:
                ious.append(None)
            yield {"ious": list(ious)}
        return {"values": list(values[:STRIP]), "ious": ious}

    @staticmethod
    def _iou(outcome: Outcome) -> float | None:
        batch, row = outcome.prepared.batch, outcome.example
        if batch.masks is None:
            return None
        counted = None if batch.counted is None else batch.counted[row]
        return float(iou(*only_counted(outcome.result.masks[row], batch.masks[row], counted=counted)))

    def sample(self, state: State, other: State | None, *, everything: bool = False) -> Work:
        """Compute mIoU with its interval on a sample of the images or on all, and the difference to a setting."""
        table = yield from self._table(state, everything)
        units = Units.of(table)
        seed = self.config.seed
        ious = table["iou"].to_numpy("float64")
        found = summarize(ious, units=units.names, seed=seed)
        answer: dict[str, Any] = {
            "miou": _number(found.mean),
            "ci95": list(map(_number, found.ci95)),
            "n": found.n,
            "note": units.note,
            "of": len(self.dataset),
        }
        if other is not None:
            baseline = (yield from self._table(other, everything))["iou"].to_numpy("float64")
            pair = paired_difference(ious, baseline, units=units.names, seed=seed)
            answer["difference"] = {
                "mean": _number(pair.difference.mean),
                "ci95": list(map(_number, pair.difference.ci95)),
                "counts": [pair.wins, pair.ties, pair.losses],
                "p": _number(pair.p),
            }
        return answer

    def _table(self, state: State, everything: bool) -> Steps[pd.DataFrame]:
        """The per-example table of a setting, of the sample or of all images."""
        setting = State(choices=state.choices, knobs=state.knobs)
        key = (setting.setting, everything)
        if key not in self._scored:
            planned = self.plan(setting, sample=not everything)
            experiment = planned.experiment(among_others=True)
            tables, done, total = [], 0, len(planned.dataset)
            for chunk in SizeBuckets(planned.dataset, CHUNK, pixels=CHUNK_PIXELS):
                whole = self._is_stored(planned, experiment, chunk)
                parts = [chunk] if whole else [chunk[k : k + PART] for k in range(0, len(chunk), PART)]
                prepared = []
                for part in parts:
                    yield {"done": done, "total": total}
                    make = partial(self._chunk, planned, experiment, part)
                    kept = (tuple(experiment.prepare.recipe), planned.dataset.store_digest, tuple(part))
                    prepared.append(make() if everything else self._prepared.made(kept, make))
                    done += len(part)
                yield {"done": done, "total": total}
                tables.append(experiment.evaluate(prepared).per_image)
            table = pd.concat(tables).sort_values("example_id", kind="stable").reset_index(drop=True)
            if table["iou"].isna().all():
                raise InputError("the images have no true masks: there is no IoU to compute")
            self._scored[key] = table
        return self._scored[key]

    def _chunk(self, planned: Plan, experiment: Experiment, chunk: list[int]) -> Prepared:
        """Prepare some images together."""
        most = self.config.batch_size
        return next(iter(experiment.prepare(planned.dataset, batch_size=most, chunks=[chunk])))

    # Images

    def names(self) -> Work:
        """Name all images with their classes, chunk by chunk; then list the worst of the run, if there is one."""
        names = self.plan(State()).classifier.class_names
        index_of: dict[str, int] = {}
        for chunk, batch in self._batches():
            classes: list[list[str]] = [[] for _ in chunk]
            for image, label in zip(batch.image_of.tolist(), batch.labels.tolist(), strict=True):
                classes[image].append(names[label] if label >= 0 else "")
            index_of |= dict(zip(batch.image_ids, chunk, strict=True))
            yield {"names": [[k, *rest] for k, *rest in zip(chunk, batch.image_ids, classes, strict=True)]}
        worst: list[list[Any]] = []
        if self.run is not None:
            table = self.run.images.dropna(subset=["iou"]).sort_values("iou", kind="stable")
            found = zip(table.get("image_id", table.index), table["iou"], strict=True)
            worst = [[index_of[name], round(float(value), 4)] for name, value in found if name in index_of]
        return {"total": len(self.dataset), "worst": worst}

    def _batches(self) -> Iterator[tuple[list[int], ExampleBatch]]:
        """All images, chunk by chunk, with their numbers."""
        planned = self.plan(State())
        prepare = planned.preparation()
        for chunk in self._buckets:
            yield chunk, next(iter(prepare.images(planned.dataset, chunks=[chunk])))

    def find(self, name: str) -> State:
        """Return the state that shows an image or an example by its name.

        Raises:
            InputError: there is none of this name.
        """
        known: list[str] = []
        for chunk, batch in self._batches():
            images = batch.image_of.tolist()
            for number, example in zip(images, batch.example_ids, strict=True):
                if name in (example, batch.image_ids[number]):
                    first = images.index(number)
                    return State(image=chunk[number], example=batch.example_ids.index(example) - first)
            known += batch.example_ids
        raise InputError(
            f"task.image={name} is not among the {len(self.dataset)} images{did_you_mean(name, known)}"
        )

    def upload(self, name: str, content: bytes) -> Work:
        """Take a picture that was dropped on the page, read as any picture is."""
        if len(self._uploads) >= MOST_UPLOADS:
            raise InputError(f"{MOST_UPLOADS} pictures were dropped: start the explorer again for more")
        yield {"now": "reading the picture"}
        path = Path(self._folder.name) / f"dropped-{len(self._uploads)}"
        path.write_bytes(content)
        try:
            picture = GivenPictures([path], max_side=self.max_side, max_pixels=self.max_pixels)
        except InputError as error:
            path.unlink()
            raise InputError(str(error).replace(str(path), harmless(name))) from error
        self._uploads.append((harmless(name), picture))
        return {"upload": len(self._uploads) - 1, "name": harmless(name)}

    def figure(self, state: State) -> Work:
        """Draw the image, its heatmap, prompts, mask and truth, as in a run's ``figure1.png``."""
        outcome = yield from self._outcome(state)
        gallery = Gallery(outcome.plan.classifier.class_names, first=len(outcome.prepared.batch), worst=0)
        gallery(outcome.prepared, outcome.result)
        name = outcome.prepared.batch.example_ids[outcome.example]
        examples = [one for one in gallery.first_examples() if one.example_id == name]
        self.job.folder.mkdir(parents=True, exist_ok=True)
        number = 1 + len(list(self.job.folder.glob("figure-*.png")))
        path = figure1(examples, self.job.folder / f"figure-{number}.png", cell=_CELL)
        content = base64.b64encode(path.read_bytes()).decode("ascii")
        return {"url": f"data:image/png;base64,{content}", "name": path.name, "path": str(path)}

    def close(self) -> None:
        """Delete the pictures that were dropped."""
        self._folder.cleanup()


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else round(value, 6)
