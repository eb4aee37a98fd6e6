"""``task=probe_sam`` measures a segmenter by single clicks on known and unseen shapes and on the background.

With ``task.photographs`` it is measured on outlined photographs instead, see `probe_photographs`.
No classifier is involved: what is measured is the segmenter alone.
"""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from gradsam_exp.config import Config
from gradsam_exp.console import console
from gradsam_exp.data.backgrounds import BACKGROUNDS
from gradsam_exp.data.base import ExampleDataset, loader
from gradsam_exp.data.novel_shapes import NovelFills, NovelOutlines, NovelShapes
from gradsam_exp.data.shapes import Shapes
from gradsam_exp.engine.devices import find_device
from gradsam_exp.engine.session import Job
from gradsam_exp.overlap import iou
from gradsam_exp.prompts.foreground import point_prompts
from gradsam_exp.prompts.reference import Oracle
from gradsam_exp.registry import build_checked
from gradsam_exp.reports.tables import results_table
from gradsam_exp.runs.summary import Summary, summarize
from gradsam_exp.runs.writing import write_json
from gradsam_exp.segmenters.base import SEGMENTERS, Segmenter
from gradsam_exp.selectors.score import PredictedIoU
from gradsam_exp.training.photograph_probe import probe_photographs
from gradsam_exp.training.photographs import read_photographs
from gradsam_exp.types import ExampleBatch, Heatmaps, PromptContext

Findings = dict[str, Summary]
NOVEL = {"unseen shapes": NovelShapes, "unseen outlines": NovelOutlines, "unseen fills": NovelFills}
"""What no training drew, by its name in the findings."""


def run(config: Config, job: Job) -> float:
    """Probe ``sam`` on ``background``; returns the mIoU of one click."""
    return build_checked("task", probe, config.task, config=config, job=job)


def probe(
    config: Config,
    job: Job,
    *,
    images: Annotated[int, Field(ge=1)] = 500,
    novel_sizes: tuple[int, int] = (16, 30),
    distance_px: Annotated[float, Field(gt=0)] = 6.0,
    shape_covered: Annotated[float, Field(gt=0, lt=1)] = 0.1,
    photographs: str | None = None,
    most: Annotated[int, Field(ge=1)] | None = None,
) -> float:
    """See ``conf/task/probe_sam.yaml``."""
    segmenter = SEGMENTERS.build(config.sam)
    if photographs is not None:
        sets = read_photographs(photographs, held_out=True, key="task.photographs")
        segmenter.load(find_device(config.device))
        found = probe_photographs(segmenter, sets, most)
        findings = {
            name: summarize(np.array([iou for _, iou in pairs]), units=[image for image, _ in pairs])
            for name, pairs in found.items()
        }
        return _told(f"{config.sam['name']} on held-out photographs", findings, job)
    background = BACKGROUNDS.build(config.background, split=config.split)
    seed = config.data.get("seed", 0)
    shapes = Shapes(config.split, background, length=images, seed=seed)
    low, high = novel_sizes
    novel = {
        what: drawn(config.split, background, length=images, seed=seed, min_size=low, max_size=high)
        for what, drawn in NOVEL.items()
    }
    segmenter.load(find_device(config.device))
    findings = {
        **_one_click(segmenter, shapes, "built-in shapes"),
        **{name: own for what, drawn in novel.items() for name, own in _one_click(segmenter, drawn, what).items()},
        **_background_clicks(segmenter, shapes, distance_px, shape_covered, config.seed),
    }
    return _told(f"{config.sam['name']} on {config.background['name']}/{config.split}", findings, job)


def _told(what: str, findings: Findings, job: Job) -> float:
    """Write and print what was found; return the first mean."""
    write_json(job.folder / "probe.json", {name: summary.as_json() for name, summary in findings.items()})
    console.print(what, style="bold")
    console.print(results_table(findings))
    console.print(str(job.folder), soft_wrap=True)
    return next(iter(findings.values())).mean


def _one_click(segmenter: Segmenter, dataset: ExampleDataset, what: str) -> Findings:
    """Measure the IoU of a click at the true centre of mass, overall and by class; predicted IoU chooses."""
    ious, labels = [], []
    for batch in loader(dataset, 32):
        labels.append(batch.labels)
        ctx = PromptContext(batch.images, _no_heatmaps(batch), masks=batch.masks)
        assert batch.masks is not None
        ious.append(iou(_masks(segmenter, batch, Oracle().propose(ctx).points), batch.masks))
    values, label_of = torch.cat(ious).numpy(), torch.cat(labels).numpy()
    by_class = {f"  {name}": values[label_of == label] for label, name in enumerate(dataset.class_names)}
    return {f"one click, {what}": summarize(values), **{k: summarize(v) for k, v in by_class.items() if len(v)}}


def _background_clicks(
    segmenter: Segmenter, dataset: ExampleDataset, distance_px: float, shape_covered: float, seed: int
) -> Findings:
    """Click at a random pixel at least ``distance_px`` from the shape, and measure if the mask avoids it."""
    rng = np.random.default_rng(seed)
    contains, overlap = [], []
    for batch in loader(dataset, 32):
        truth = batch.masks
        assert truth is not None
        clicks = torch.tensor([_far_pixel(rng, mask.numpy(), distance_px) for mask in truth])
        masks = _masks(segmenter, batch, clicks[:, None].float())
        rows = torch.arange(len(batch))
        contains.append(masks[rows, clicks[:, 1], clicks[:, 0]])
        overlap.append((masks & truth).sum((1, 2)) / truth.sum((1, 2)))
    inside, covered = torch.cat(contains), torch.cat(overlap)
    off = covered <= shape_covered
    named: dict[str, Tensor] = {
        "background click: mask contains the click": inside,
        f"background click: covers ≤ {shape_covered:.0%} of the shape": off,
        "background click: both": inside & off,
        "background click: share of the shape covered": covered,
    }
    return {name: summarize(values.double().numpy()) for name, values in named.items()}


def _far_pixel(rng: np.random.Generator, mask: np.ndarray, distance_px: float) -> tuple[int, int]:
    far = np.argwhere(distance_transform_edt(~mask) >= distance_px)
    y, x = far[rng.integers(len(far))].tolist()
    return x, y


def _masks(segmenter: Segmenter, batch: ExampleBatch, points: Tensor) -> Tensor:
    embeddings = segmenter.encode(batch.images)
    segmentation = segmenter.decode(embeddings, point_prompts(points))
    choice = PredictedIoU()(PromptContext(batch.images, _no_heatmaps(batch)), segmentation)
    return segmenter.to_original(segmentation.logits[choice.query, choice.candidate], embeddings).cpu()


def _no_heatmaps(batch: ExampleBatch) -> Heatmaps:
    count, (height, width) = len(batch), batch.size
    return Heatmaps(torch.zeros(count, height, width), torch.ones(count, dtype=torch.bool), batch.labels)
