"""How many rows are handled at once, and that none stays."""

from __future__ import annotations

import gc
import logging

import pytest
import torch

from gradsam_exp.classifiers.classifier import ImageClassifier
from gradsam_exp.data.backgrounds import Noise
from gradsam_exp.data.shapes import SHAPES, Shapes
from gradsam_exp.errors import InputError
from gradsam_exp.experiment import Experiment
from gradsam_exp.explainers.gradient import GradCAM
from gradsam_exp.memory import Portion
from gradsam_exp.pipeline import Pipeline
from gradsam_exp.preparation import Explained, Preparation
from gradsam_exp.prompts.foreground import Foreground
from gradsam_exp.refinement.base import Unrefined
from gradsam_exp.segmenters.sam import SamSegmenter
from gradsam_exp.selectors.score import PredictedIoU


def out_of_memory(rows: int) -> RuntimeError:
    return RuntimeError(f"CUDA out of memory. Tried to allocate {rows} GiB")


def test_a_portion_that_does_not_fit_is_halved_and_nothing_is_lost(caplog: pytest.LogCaptureFixture):
    tried = []

    def call(rows: slice) -> list[int]:
        tried.append(rows.stop - rows.start)
        if tried[-1] > 5:
            raise out_of_memory(tried[-1])
        return list(range(rows.start, rows.stop))

    portion = Portion("encode", 16)
    with caplog.at_level(logging.WARNING):
        parts = list(portion.slices(20, call))
    assert [row for part in parts for row in part] == list(range(20))
    assert tried == [16, 8, 4, 4, 4, 4, 4]
    assert "encode: out of memory with 16 at once; going on with 8" in caplog.text
    portion.fit(16)
    assert portion.size == 4, "what was too much once is not tried again"


def test_the_cpus_own_error_is_understood():
    def call(rows: slice) -> int:
        if rows.stop - rows.start > 1:
            torch.empty(2**60, dtype=torch.uint8)  # no machine has that
        return rows.start

    assert list(Portion("explain", 2).slices(3, call)) == [0, 1, 2]


def test_one_image_that_does_not_fit_is_said():
    def call(rows: slice) -> None:
        raise out_of_memory(1)

    with pytest.raises(InputError, match="segment: one image alone does not fit into memory"):
        list(Portion("segment", 4).slices(4, call))


def test_other_errors_pass():
    def call(rows: slice) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        list(Portion("segment", 4).slices(4, call))


def test_a_small_first_portion_may_grow():
    sizes = []
    portion = Portion("segment", 64, first=8)
    for size in portion.slices(100, lambda rows: rows.stop - rows.start):
        sizes.append(size)
        portion.fit(1000)
    assert sizes == [8, 64, 28]


@pytest.mark.slow
def test_a_run_keeps_no_tensors(
    classifier: ImageClassifier, segmenter: SamSegmenter, monkeypatch: pytest.MonkeyPatch
):
    """Bytes of living tensors after each chunk: as many after the tenth as after the third."""
    monkeypatch.setattr("gradsam_exp.preparation.CHUNK", 4)
    explained = Explained(SHAPES, lambda: (classifier, GradCAM(classifier, ["layer2.-1"])))
    pipeline = Pipeline(Foreground(), segmenter, PredictedIoU())
    experiment = Experiment(Preparation(explained, Unrefined(), segmenter), pipeline)
    living: list[int] = []

    def count(*_: object) -> None:
        gc.collect()
        living.append(sum(item.nbytes for item in gc.get_objects() if type(item) is torch.Tensor))

    table = experiment.run(Shapes("test", Noise("test"), length=40), batch_size=4, on_batch=count).per_image
    assert len(table) == 40
    one_heatmap = 48 * 64 * 4
    assert living[-1] - living[len(living) // 3] < one_heatmap, living
