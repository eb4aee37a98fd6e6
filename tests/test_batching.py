"""How many rows are handled at once, and that none stays."""

from __future__ import annotations

import gc
import logging

import pytest
import torch

from gradsam_exp.batching import AdaptiveBatch, filled
from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.data.backgrounds import Noise
from gradsam_exp.data.shapes import SHAPES, Shapes
from gradsam_exp.engine.experiment import Experiment
from gradsam_exp.engine.pipeline import Pipeline
from gradsam_exp.engine.preparation import Explained, Preparation
from gradsam_exp.errors import InputError
from gradsam_exp.explainers.gradient import GradCAM
from gradsam_exp.metrics.masks import MeanMaskIoU
from gradsam_exp.prompts.foreground import Foreground
from gradsam_exp.refiners.base import Unrefined
from gradsam_exp.segmenters.sam import SamSegmenter
from gradsam_exp.selectors.score import PredictedIoU
from gradsam_exp.types import ExampleBatch, Heatmaps, Prompts


def out_of_memory(rows: int) -> RuntimeError:
    return RuntimeError(f"CUDA out of memory. Tried to allocate {rows} GiB")


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(caplog: pytest.LogCaptureFixture):
    tried = []

    def call(rows: slice) -> list[int]:
        tried.append(rows.stop - rows.start)
        if tried[-1] > 5:
            raise out_of_memory(tried[-1])
        return list(range(rows.start, rows.stop))

    batch = AdaptiveBatch("encode", 16)
    with caplog.at_level(logging.WARNING):
        parts = list(batch.slices(20, call))
    assert [row for part in parts for row in part] == list(range(20))
    assert tried == [16, 8, 4, 4, 4, 4, 4]
    assert "encode: out of memory with 16 at once; going on with 8" in caplog.text
    batch.fit(16)
    assert batch.size == 4, "what was too much once is not tried again"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
        MemoryError("Unable to allocate 8.00 GiB for an array"),
        RuntimeError("could not create a primitive"),
        RuntimeError("unable to mmap 22426748 bytes from file <a.safetensors>: Cannot allocate memory (12)"),
        RuntimeError(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 GiB")),
    ],
)
def test_all_that_says_so_is_understood(error: Exception):
    def call(rows: slice) -> int:
        if rows.stop - rows.start > 1:
            raise error
        return rows.start

    assert list(AdaptiveBatch("explain", 2).slices(3, call)) == [0, 1, 2]


def test_rows_are_filled_up_to_eight_where_these_fit():
    assert len(filled(torch.arange(5), most=32)) == 8
    assert filled(torch.arange(5), most=32)[5:].tolist() == [4, 4, 4]
    assert len(filled(torch.arange(9), most=16)) == 16
    assert len(filled(torch.arange(9), most=15)) == 9
    assert len(filled(torch.arange(4), most=4)) == 4
    assert len(filled(torch.arange(1), most=32)) == 1


def test_a_heatmap_is_made_of_as_few_images_as_fit(classifier: ImageClassifier):
    seen: list[int] = []

    def explainer(images: torch.Tensor, targets: torch.Tensor | None) -> Heatmaps:
        seen.append(len(images))
        if len(images) > 4:
            raise out_of_memory(len(images))
        return Heatmaps(
            torch.zeros(len(images), 6, 8),
            torch.ones(len(images), dtype=torch.bool),
            torch.zeros(len(images)).long(),
        )

    explained = Explained(SHAPES, lambda: (classifier, explainer))
    images, labels = torch.zeros(13, 3, 6, 8, dtype=torch.uint8), torch.zeros(13).long()
    batch = ExampleBatch.one_each(images, None, labels, [str(k) for k in range(13)])
    heatmaps = explained.heatmaps(batch, AdaptiveBatch("explain", 16))
    assert len(heatmaps) == 13
    assert seen == [16, 6, 3, 3, 3, 3, 1]


def test_queries_that_do_not_fit_are_decoded_in_halves(segmenter: SamSegmenter):
    prompts = Prompts(torch.zeros(40).long(), torch.rand(40, 1, 2) * 40, torch.ones(40, 1).long())
    embeddings = segmenter.encode(torch.randint(0, 256, (1, 3, 48, 64), dtype=torch.uint8))
    whole = segmenter.decode(embeddings, prompts)
    small, seen = SamSegmenter(lambda: segmenter.model, "random", max_queries=64), []
    small.load(torch.device("cpu"))

    def limited(_: torch.nn.Module, __: tuple[()], given: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        seen.append(len(given["points"][0]))
        if seen[-1] > 12:
            raise out_of_memory(seen[-1])

    limit = small.model.prompt_encoder.register_forward_pre_hook(limited, with_kwargs=True)
    try:
        halved = small.decode(embeddings, prompts)
    finally:
        limit.remove()
    assert seen == [40, 20, 10, 10, 10, 10]
    assert torch.allclose(halved.logits, whole.logits, atol=1e-4)
    assert torch.allclose(halved.predicted_iou, whole.predicted_iou, atol=1e-5)


def test_the_cpus_own_error_is_understood():
    def call(rows: slice) -> int:
        if rows.stop - rows.start > 1:
            torch.empty(2**60, dtype=torch.uint8)  # no machine has that
        return rows.start

    assert list(AdaptiveBatch("explain", 2).slices(3, call)) == [0, 1, 2]


def test_one_image_that_does_not_fit_is_said():
    def call(rows: slice) -> None:
        raise out_of_memory(1)

    with pytest.raises(InputError, match="segment: one image alone does not fit into memory"):
        list(AdaptiveBatch("segment", 4).slices(4, call))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("something else"),
        RuntimeError(28, "no space"),
        RuntimeError(ValueError("the cause")),
        RuntimeError(),
    ],
)
def test_other_errors_pass_as_they_are(error: RuntimeError):
    """Also those whose first argument is no text, as of the file system or of another error."""

    def call(rows: slice) -> None:
        raise error

    with pytest.raises(RuntimeError) as raised:
        list(AdaptiveBatch("segment", 4).slices(4, call))
    assert raised.value is error


def test_a_small_first_batch_may_grow():
    sizes = []
    batch = AdaptiveBatch("segment", 64, first=8)
    for size in batch.slices(100, lambda rows: rows.stop - rows.start):
        sizes.append(size)
        batch.fit(1000)
    assert sizes == [8, 64, 28]


@pytest.mark.slow
def test_a_run_keeps_no_tensors(
    classifier: ImageClassifier, segmenter: SamSegmenter, monkeypatch: pytest.MonkeyPatch
):
    """Bytes of living tensors after each chunk: as many after the seventh as after the third."""
    monkeypatch.setattr("gradsam_exp.engine.preparation.CHUNK", 4)
    explained = Explained(SHAPES, lambda: (classifier, GradCAM(classifier, ["layer2.-1"])))
    pipeline = Pipeline(Foreground(), segmenter, PredictedIoU())
    experiment = Experiment(Preparation(explained, Unrefined(), segmenter, metrics=[MeanMaskIoU()]), pipeline)
    living: list[int] = []

    def count(*_: object) -> None:
        gc.collect()
        living.append(sum(item.nbytes for item in gc.get_objects() if type(item) is torch.Tensor))

    table = experiment.run(Shapes("test", Noise("test"), length=28), batch_size=4, on_batch=count).per_image
    assert len(table) == 28
    one_heatmap = 48 * 64 * 4
    assert living[-1] - living[len(living) // 3] < one_heatmap, living
