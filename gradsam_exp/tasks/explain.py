"""``task=explain`` shows what a classifier sees in any picture, where, and the mask SAM makes of it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from PIL import Image
from pydantic import Field
from torch import Tensor

from gradsam_exp.config import Config
from gradsam_exp.console import console
from gradsam_exp.data.given import GivenPictures, find_pictures
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


def explain(config: Config, job: Job, *, max_side: Annotated[int, Field(ge=16)] = 512) -> None:
    """See ``conf/task/explain.yaml``."""
    if config.image is None:
        raise InputError(
            "image is missing: give a picture, a folder of pictures, or a glob, as in image=photo.jpg"
        )
    pictures = GivenPictures(find_pictures(config.image), max_side=max_side)
    planned = plan(config, job, pictures.with_classes)
    names = planned.classifier.class_names
    gallery = Gallery(names, first=len(pictures), worst=0)
    seen: dict[str, tuple[int, Tensor | None, float]] = {}

    def on_batch(item: Prepared, result: PipelineResult) -> None:
        gallery(item, result)
        logits = item.heatmaps.logits
        for k, name in enumerate(item.batch.image_ids):
            shares = None if logits is None else logits[k].float().softmax(0)
            seen[name] = int(item.predicted[k]), shares, float(result.predicted_iou[k])

    planned.experiment().run(pictures, batch_size=min(config.batch_size, _AT_ONCE), on_batch=on_batch)
    examples = {example.image_id: example for example in gallery.first_examples()}
    for name, size in zip(pictures.names, pictures.original_sizes, strict=True):
        predicted, shares, score = seen[name]
        example = examples[name]
        _write(example, size, job.folder)
        console.print(f"{name}: {_ranked(names, predicted, shares)}", soft_wrap=True)
        covered = f"mask: {example.mask.mean():.1%} of the picture, predicted IoU {score:.2f}"
        console.print(f"  {covered} → {job.folder / name}.png, .pdf, _mask.png", soft_wrap=True)


def _write(example: Example, size: tuple[int, int], folder: Path) -> None:
    """The figure, and the mask in the picture's own size."""
    shown = replace(example, class_name=f"seen as {example.class_name}")
    figure1([shown], folder / f"{example.image_id}.png", cell=CELL)
    mask = Image.fromarray(example.mask).convert("L").resize(size, Image.Resampling.NEAREST)
    mask.save(folder / f"{example.image_id}_mask.png")


def _ranked(names: Sequence[str], predicted: int, shares: Tensor | None, *, most: int = 5) -> str:
    """``circle 97.1 %, star 2.0 %, …``."""
    if shares is None:
        return names[predicted]
    best = shares.argsort(descending=True)[:most].tolist()
    text = ", ".join(f"{names[k]} {float(shares[k]):.1%}" for k in best)
    return text + (f" and {len(names) - most} others" if len(names) > most else "")
