"""``task=explain`` draws predicted class, heatmap, prompts and SAM's mask for given picture files."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from PIL import Image
from pydantic import Field
from torch import Tensor

from gradsam_exp.config import Config
from gradsam_exp.console import console
from gradsam_exp.data.given import GivenPictures, find_pictures
from gradsam_exp.data.pictures import MAX_PIXELS
from gradsam_exp.engine.pipeline import PipelineResult
from gradsam_exp.engine.plan import plan
from gradsam_exp.engine.preparation import Prepared
from gradsam_exp.engine.session import Job
from gradsam_exp.errors import InputError
from gradsam_exp.registry import build_checked
from gradsam_exp.reports.figures import figure1
from gradsam_exp.reports.gallery import Example, Gallery

CELL = 2.2  # inches
_AT_ONCE = 8  # photographs are large


def run(config: Config, job: Job) -> None:
    """Write ``<name>.png``, ``<name>.pdf`` and ``<name>_mask.png`` of every picture, and say what it shows.

    Raises:
        InputError: before any model is read, if something given is wrong.
    """
    build_checked("task", explain, config.task, config=config, job=job)


def explain(
    config: Config,
    job: Job,
    *,
    max_side: Annotated[int, Field(ge=16)] = 512,
    max_pixels: Annotated[int, Field(ge=1)] = MAX_PIXELS,
) -> None:
    """See ``conf/task/explain.yaml``."""
    if config.image is None:
        raise InputError(
            "image is missing: give a picture, a folder of pictures, or a glob, as in image=photo.jpg"
        )
    pictures = GivenPictures(find_pictures(config.image), max_side=max_side, max_pixels=max_pixels)
    planned = plan(config, job, pictures.with_classes)
    names = planned.classifier.class_names
    gallery = Gallery(names, first=sys.maxsize, worst=0, max_side=None)
    seen: dict[str, list[_Seen]] = {}

    def on_batch(item: Prepared, result: PipelineResult) -> None:
        gallery(item, result)
        logits = item.heatmaps.logits
        for k, (name, image) in enumerate(zip(item.batch.example_ids, item.batch.image_of.tolist(), strict=True)):
            shares = None if logits is None else logits[k].float().softmax(0)
            target = names[int(item.heatmaps.targets[k])]
            found = _Seen(name, int(item.predicted[k]), shares, target, float(result.predicted_iou[k]))
            seen.setdefault(item.batch.image_ids[image], []).append(found)

    for note in [*planned.notes, *pictures.notes]:
        console.print(note, soft_wrap=True)
    planned.experiment().run(planned.dataset, batch_size=min(config.batch_size, _AT_ONCE), on_batch=on_batch)
    examples = {example.example_id: example for example in gallery.first_examples()}
    for name, size in zip(pictures.names, pictures.original_sizes, strict=True):
        console.print(f"{name}: {_ranked(names, seen[name][0].predicted, seen[name][0].shares)}", soft_wrap=True)
        for one in seen[name]:
            example = examples[one.example_id]
            path = job.folder / re.sub("[:/]", "-", one.example_id)
            _write(example, one.target, size, path)
            covered = f"{example.mask.mean():.1%} of the picture"
            if not math.isnan(one.predicted_iou):
                covered += f", predicted IoU {one.predicted_iou:.2f}"
            what = "mask" if one.target == names[one.predicted] else f"mask of {one.target}"
            console.print(f"  {what}: {covered} → {path}.png, .pdf, _mask.png", soft_wrap=True)


@dataclass(frozen=True)
class _Seen:
    """What the classifier says of an example, which class was explained, and how sure the segmenter is."""

    example_id: str
    predicted: int
    shares: Tensor | None
    target: str
    predicted_iou: float


def _write(example: Example, target: str, size: tuple[int, int], path: Path) -> None:
    """The figure, and the mask in the picture's own size."""
    seen = example.predicted_class
    titled = replace(example, class_name=f"asked for {target}")
    if target == seen:
        titled = replace(example, class_name=f"seen as {seen}", predicted_class="")
    figure1([titled], Path(f"{path}.png"), cell=CELL)
    mask = Image.fromarray(example.mask).convert("L").resize(size, Image.Resampling.NEAREST)
    mask.save(f"{path}_mask.png")


def _ranked(names: Sequence[str], predicted: int, shares: Tensor | None, *, most: int = 5) -> str:
    """``circle 97.1 %, star 2.0 %, …``."""
    if shares is None:
        return names[predicted]
    best = shares.argsort(descending=True)[:most].tolist()
    text = ", ".join(f"{names[k]} {float(shares[k]):.1%}" for k in best)
    return text + (f" and {len(names) - most} others" if len(names) > most else "")
