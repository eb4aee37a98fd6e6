"""A sweep of 20 jobs against the naive way, and against the least that must be computed.

``python -m benchmarks.sweep``: ``pipeline=fg,fgbg`` × five ``bg_threshold`` × two ``grid_offset`` on test images.

- *sweep*: ``run.py -m`` with an empty store, from the first job's start to the last job's end (imports are done);
- *limit*: encode every image once, and decode once for each of the 12 different runs, prompts given;
- *once*: the limit, and draw and explain every image once, which a sweep with an empty store must do as well;
- *naive*: for each of the 20 jobs and each image, Grad-CAM, `SamPredictor.set_image` and `predict`; timed on a
  part and scaled.

Then the same sweep again with ``resume=true``, as a command, imports included. ``--sam vit_b`` has random weights.

The sweep can fall below the limit: its jobs decode only prompts that no job before them had.

Limits: the naive way neither scores nor writes anything; with vit_b the few images' time is what is compared, so
what a job costs whatever the number of images weighs more than it would with 500.
"""

from __future__ import annotations

import argparse
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from segment_anything import SamPredictor, sam_model_registry

from benchmarks.timing import report, result
from gradsam_exp.app import cli, process
from gradsam_exp.app.startup import load_task
from gradsam_exp.classifiers.checkpoints import find_classifier
from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.data.backgrounds import Mixed
from gradsam_exp.data.base import collate
from gradsam_exp.data.shapes import Shapes
from gradsam_exp.engine.session import Session
from gradsam_exp.explainers.gradient import GradCAM
from gradsam_exp.prompts.base import STRATEGIES
from gradsam_exp.segmenters.base import Embeddings
from gradsam_exp.segmenters.checkpoints import load_segmenter
from gradsam_exp.segmenters.sam import SamSegmenter
from gradsam_exp.types import ExampleBatch, Heatmaps, PromptContext, Prompts

JOBS = ["pipeline=fg,fgbg", "bg_threshold=0.05,0.1,0.15,0.2,0.3", "grid_offset=1,2"]
JOB_COUNT = 20
RUN = Path(__file__).parent.parent / "run.py"


def main() -> None:
    """Take turns, then resume."""
    load_task("evaluate")  # before any clock starts
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sam", default="compact", choices=["compact", "vit_b"])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--part", type=int, default=32, help="images that the naive way is timed on")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        overrides, parameters = _weights(arguments.sam, Path(folder))
        overrides += [f"limit={arguments.images}", f"sam={arguments.sam}", "logger=none"]
        segmenter = load_segmenter(arguments.sam, **parameters)
        assert isinstance(segmenter, SamSegmenter)
        dataset = Shapes("test", Mixed("test"), length=arguments.images)
        batches = _draw(dataset)
        asked = [_different_runs(batch, _explain(batch)) for batch in batches]
        seconds: dict[str, list[float]] = {"sweep": [], "limit": [], "once": [], "naive": []}
        for turn in range(arguments.rounds):
            root = Path(folder) / str(turn)
            seconds["sweep"].append(_sweep([*overrides, f"output_root={root}"]))
            seconds["limit"].append(_timed(lambda: _limit(segmenter, batches, asked)))
            drawn = _timed(lambda: [_explain(batch) for batch in _draw(dataset)])
            seconds["once"].append(seconds["limit"][-1] + drawn)
            part = min(arguments.part, arguments.images)
            naive = _timed(lambda part=part: _naive(segmenter, batches[0], part))
            seconds["naive"].append(naive * JOB_COUNT * arguments.images / part)
        ratios = report(f"20 jobs, {arguments.images} images, {arguments.sam}", seconds, against="sweep")
        again = [sys.executable, str(RUN), "-m", *JOBS, *overrides, f"output_root={root}", "resume=true"]
        resumed = _timed(lambda: subprocess.run(again, check=True, capture_output=True))
    result(
        sam=arguments.sam,
        images=arguments.images,
        speedup_vs_naive=round(ratios["naive"], 2),
        ratio_to_limit=round(1 / ratios["limit"], 2),
        ratio_to_once=round(1 / ratios["once"], 2),
        seconds_resumed=round(resumed, 1),
    )


def _weights(name: str, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Overrides and parameters that give the segmenter its weights: random ones where none ship."""
    if name == "compact":
        return [], {}
    torch.manual_seed(0)
    path = folder / f"{name}.pth"
    torch.save(sam_model_registry[name]().state_dict(), path)
    return [f"sam.checkpoint={path}"], {"checkpoint": path}


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _sweep(overrides: list[str]) -> float:
    """Seconds from the first job's start to the last job's end."""
    times: list[float] = []
    run_job = cli.run_job

    def timed_job(*arguments: Any) -> float | None:
        times.append(time.perf_counter())
        answer = run_job(*arguments)
        times.append(time.perf_counter())
        return answer

    before, cli.run_job = sys.argv, timed_job
    process.SESSION = Session()  # without what the round before has decoded
    sys.argv = [str(RUN), "-m", *JOBS, *overrides]
    try:
        runpy.run_path(str(RUN), run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.argv, cli.run_job = before, run_job
    assert len(times) == 2 * JOB_COUNT
    return times[-1] - times[0]


def _draw(dataset: Shapes) -> list[ExampleBatch]:
    starts = range(0, len(dataset), 64)
    return [collate([dataset[k] for k in range(start, min(start + 64, len(dataset)))]) for start in starts]


@cache
def _classifier() -> ImageClassifier:
    return find_classifier("shipped:resnet18-shapes").load()


def _explain(batch: ExampleBatch) -> Heatmaps:
    explainer = GradCAM(_classifier(), ["layer2.-1"])
    return Heatmaps.joined([explainer(images) for images in batch.images.split(32)])


def _different_runs(batch: ExampleBatch, heatmaps: Heatmaps) -> list[Prompts]:
    ctx = PromptContext(batch.images, heatmaps, batch.example_ids)
    strategies = [{"name": "fg", "grid_offset": offset} for offset in (1, 2)]
    strategies += [
        {"name": "fgbg", "grid_offset": offset, "bg_threshold": threshold}
        for offset in (1, 2)
        for threshold in (0.05, 0.1, 0.15, 0.2, 0.3)
    ]
    return [STRATEGIES.build(node).propose(ctx) for node in strategies]


def _limit(segmenter: SamSegmenter, batches: list[ExampleBatch], asked: list[list[Prompts]]) -> None:
    for batch, different in zip(batches, asked, strict=True):
        embeddings = segmenter.encode(batch.images)
        for prompts in different:
            _best_masks(segmenter, embeddings, prompts)


def _best_masks(segmenter: SamSegmenter, embeddings: Embeddings, prompts: Prompts) -> None:
    answer = segmenter.decode(embeddings, prompts)
    best = 1 + answer.predicted_iou[:, 1:].argmax(1)
    segmenter.to_original(answer.logits[torch.arange(len(best)), best], embeddings)


def _naive(segmenter: SamSegmenter, batch: ExampleBatch, count: int) -> None:
    """One job on ``count`` images, one after the other, as scripts do it."""
    explain, predictor = GradCAM(_classifier(), ["layer2.-1"]), SamPredictor(segmenter.model)
    strategy = STRATEGIES.build({"name": "fgbg"})
    for row in range(count):
        image = batch.images[row : row + 1]
        prompts = strategy.propose(PromptContext(image, explain(image)))
        predictor.set_image(image[0].permute(1, 2, 0).contiguous().numpy())
        predictor.predict(prompts.points[0].numpy(), prompts.labels[0].numpy(), multimask_output=True)


if __name__ == "__main__":
    main()
