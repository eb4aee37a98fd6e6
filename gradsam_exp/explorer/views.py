"""This module answers what the page asks: what is shown, what is measured, and what images there are."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradsam_exp.data.given import GivenPictures
from gradsam_exp.data.pictures import MAX_PIXELS
from gradsam_exp.engine.session import Job
from gradsam_exp.errors import InputError, did_you_mean, harmless
from gradsam_exp.explainers.base import EXPLAINERS
from gradsam_exp.explainers.dry_run import default_frame, dry_run
from gradsam_exp.explorer.choices import Choices, State, Value
from gradsam_exp.explorer.controls import controls_of, summary_of
from gradsam_exp.explorer.description import Descriptions, rounded
from gradsam_exp.explorer.desk import Work
from gradsam_exp.explorer.outcomes import Outcomes
from gradsam_exp.prompts.base import STRATEGIES
from gradsam_exp.refiners.base import REFINERS
from gradsam_exp.reports.figures import figure1
from gradsam_exp.reports.gallery import Gallery
from gradsam_exp.runs.folder import Run
from gradsam_exp.runs.paired import paired_difference
from gradsam_exp.runs.summary import summarize
from gradsam_exp.runs.units import Units
from gradsam_exp.selectors.base import SELECTORS

REGISTRIES: dict[str, Any] = {
    "explainer": EXPLAINERS,
    "refine": REFINERS,
    "pipeline": STRATEGIES,
    "selector": SELECTORS,
}
STRIP = 20  # values along one knob
MOST_UPLOADS = 50
_CELL = 2.2  # inches, of a saved figure


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
        self.outcomes, self._descriptions = Outcomes(self.choices, job), Descriptions()
        self.config, self.dataset = self.outcomes.config, self.outcomes.dataset
        self._folder = tempfile.TemporaryDirectory(prefix="gradsam-explore-")
        self.run = run
        first = self.outcomes.plan(State())
        self.segmenter_name = first.segmenter_name
        if run is not None and run.data_digest != first.dataset.digest:
            raise InputError(
                f"task.run={run.folder} is on other images than these: start the explorer with what the run "
                f"was given, {run.command}"
            )

    # What is chosen

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
            source = self.outcomes.plan(State()).classifier
            network = self.job.session.keep("outline", source.digest, source.outline)
            try:
                seen = dry_run(network, source.size or default_frame(network))
            except Exception:  # it needs values to run: the layers can still be given on the command line
                return []
            return list(dict.fromkeys(call.name for call, _, _ in seen.maps() if call.name))

        return self.job.session.keep("layers", self.config.model, make)

    # What is shown

    def picture(self, state: State) -> Work:
        """Compute everything that is shown of one image; see `Descriptions.of`."""
        answer: dict[str, Any] = {"controls": self.controls(state), "command": self.choices.command(state)}
        try:
            outcome = yield from self.outcomes.of(state)
        except InputError as error:  # the controls are there, so that the conflict can be solved
            return {**answer, "problem": str(error)}
        return {**answer, **self._descriptions.of(outcome, by_hand=state.hand is not None)}

    # What is measured

    def strip(self, state: State, key: str, values: Sequence[Value]) -> Work:
        """Compute the IoU of the image along the values of one knob; None where the setting is refused."""
        ious: list[float | None] = []
        for value in values[:STRIP]:
            try:
                outcome = yield from self.outcomes.of(replace(state, knobs={**state.knobs, key: value}, hand=None))
                ious.append(outcome.iou)
            except InputError:
                ious.append(None)
            yield {"ious": list(ious)}
        return {"values": list(values[:STRIP]), "ious": ious}

    def sample(self, state: State, other: State | None, *, everything: bool = False) -> Work:
        """Compute mIoU with its interval on a sample of the images or on all, and the difference to a setting."""
        table = yield from self.outcomes.table(state, everything)
        units = Units.of(table)
        seed = self.config.seed
        ious = table["iou"].to_numpy("float64")
        found = summarize(ious, units=units.names, seed=seed)
        answer: dict[str, Any] = {
            "miou": rounded(found.mean),
            "ci95": list(map(rounded, found.ci95)),
            "n": found.n,
            "note": units.note,
            "of": len(self.dataset),
        }
        if other is not None:
            baseline = (yield from self.outcomes.table(other, everything))["iou"].to_numpy("float64")
            pair = paired_difference(ious, baseline, units=units.names, seed=seed)
            answer["difference"] = {
                "mean": rounded(pair.difference.mean),
                "ci95": list(map(rounded, pair.difference.ci95)),
                "counts": [pair.wins, pair.ties, pair.losses],
                "p": rounded(pair.p),
            }
        return answer

    # Images

    def names(self) -> Work:
        """Name all images with their classes, chunk by chunk; then list the worst of the run, if there is one."""
        names = self.outcomes.plan(State()).classifier.class_names
        index_of: dict[str, int] = {}
        for chunk, batch in self.outcomes.batches():
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

    def find(self, name: str) -> State:
        """Return the state that shows an image or an example by its name.

        Raises:
            InputError: there is none of this name.
        """
        known: list[str] = []
        for chunk, batch in self.outcomes.batches():
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
        if len(self.outcomes.uploads) >= MOST_UPLOADS:
            raise InputError(f"{MOST_UPLOADS} pictures were dropped: start the explorer again for more")
        yield {"now": "reading the picture"}
        path = Path(self._folder.name) / f"dropped-{len(self.outcomes.uploads)}"
        path.write_bytes(content)
        try:
            picture = GivenPictures([path], max_side=self.max_side, max_pixels=self.max_pixels)
        except InputError as error:
            path.unlink()
            raise InputError(str(error).replace(str(path), harmless(name))) from error
        self.outcomes.uploads.append(picture)
        return {"upload": len(self.outcomes.uploads) - 1, "name": harmless(name)}

    def figure(self, state: State) -> Work:
        """Draw the image, its heatmap, prompts, mask and truth, as in a run's ``figure1.png``."""
        outcome = yield from self.outcomes.of(state)
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
