"""``task=export_masks`` writes a run's masks as class maps in PASCAL VOC's layout, for training on them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from gradsam_exp.config import Config
from gradsam_exp.console import console
from gradsam_exp.data.voc import CLASSES, VOID
from gradsam_exp.engine.predictions import decode_mask
from gradsam_exp.engine.session import Job
from gradsam_exp.errors import InputError
from gradsam_exp.metrics.class_miou import merged
from gradsam_exp.registry import build_checked
from gradsam_exp.runs.folder import PER_IMAGE, PREDICTIONS, Run

FOLDER = "SegmentationClass"


def run(config: Config, job: Job) -> None:
    """Write the class maps of the run ``task.run``, and the list of images and the classes beside them.

    Raises:
        InputError: the run is not finished or is damaged, or a class has no index.
    """
    build_checked("task", write, config.task, job=job)


def write(job: Job, *, run: str, to: str | None = None, classes: list[str] | None = None) -> None:
    """See ``conf/task/export_masks.yaml``.

    The masks of an image's examples are merged as ``metrics=wsss`` merges them
    (`gradsam_exp.metrics.class_miou.merged`): the one with the largest predicted IoU × mean heat is on top.
    """
    source = Run(Path(run).expanduser())
    if source.outcome.status != "finished":
        raise InputError(f"task.run={run} did not finish; give the folder of a finished task=evaluate")
    table = source.images
    missing = {"explained_class", "merge_score", "image_id"} - set(table)
    if missing:
        raise InputError(f"{source.folder / PER_IMAGE} has no {', '.join(sorted(missing))}; make the run again")
    if not table.index.sort_values().equals(source.predictions.index.sort_values()):
        raise InputError(
            f"{source.folder / PREDICTIONS} is of other examples than {PER_IMAGE}; make the run again"
        )
    names = _names(table["explained_class"].unique().tolist(), classes)
    index = {name: number for number, name in enumerate(names, 1)}
    root = Path(to).expanduser() if to is not None else job.folder
    images = table.groupby("image_id", sort=True)
    for image, own in images:
        path = _inside(root / FOLDER, f"{image}.png")
        try:
            rows = source.predictions.loc[own.index]
            masks = np.stack(
                [decode_mask(r["mask_rle"], int(r["height"]), int(r["width"])) for _, r in rows.iterrows()]
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{source.folder / PREDICTIONS}: {image} cannot be read ({error})") from error
        labels = torch.tensor([index[name] for name in own["explained_class"]])
        classes_of = merged(torch.from_numpy(masks), labels, torch.tensor(own["merge_score"].to_numpy()))
        path.parent.mkdir(parents=True, exist_ok=True)
        save_indices(path, classes_of.numpy().astype(np.uint8))
    listed = root / "ImageSets" / "Segmentation" / f"{source.config.get('split', 'all')}.txt"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("".join(f"{image}\n" for image, _ in images), encoding="utf-8")
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in ("background", *names)), encoding="utf-8")
    console.print(f"{len(images)} class maps of {len(names)} classes → {root / FOLDER}", soft_wrap=True)


def save_indices(path: Path, values: UInt8[np.ndarray, "height width"]) -> None:
    """Write an index for each pixel as a PNG with VOC's palette."""
    picture = Image.fromarray(values).convert("L")
    picture.putpalette(voc_palette().tobytes())
    picture.save(path)


def voc_palette() -> UInt8[np.ndarray, "256 3"]:
    """Make the colours of VOC's devkit: bits 0, 3, 6 of an index are red's highest bits, 1, 4, 7 green's, ….

    They are those of ``VOClabelcolormap.m``: 0 is black, 1 is (128, 0, 0), 255 is (224, 224, 192).
    """
    index = np.arange(256)
    channels = [sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)]
    return np.stack(channels, 1).astype(np.uint8)


def _names(found: Sequence[str], given: Sequence[str] | None) -> Sequence[str]:
    """The names of the indices from 1 on."""
    unknown = sorted(set(found) - set(given or found))
    if unknown:
        raise InputError(f"task.classes lacks {', '.join(unknown)}, which the run has; add it")
    names = given or (CLASSES if set(found) <= set(CLASSES) else sorted(set(found)))
    if len(set(names)) < len(names):
        raise InputError("task.classes names a class twice")
    if len(names) >= VOID:
        raise InputError(f"a class map has at most {VOID - 1} classes, the run has {len(names)}")
    return names


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"the image {name!r} would be written outside of {folder}")
    return path
