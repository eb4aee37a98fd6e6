"""What every metric does: one value per image, NaN where something is not known, one mean over all processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from gradsam_exp.errors import InputError
from gradsam_exp.metrics.base import GROUPS, INPUTS, METRICS, ExampleMetric, build_metrics
from gradsam_exp.metrics.classification import Accuracy
from gradsam_exp.metrics.heatmaps import PointingGame, Sparsity
from gradsam_exp.metrics.masks import MeanMaskIoU
from gradsam_exp.metrics.points import PointDistance
from gradsam_exp.types import Heatmaps
from tests.faults.counts import only_soaking

CONF = Path(__file__).parents[2] / "conf" / "metrics"


def masks() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.rand(7, 8, 8) > 0.5, torch.rand(7, 8, 8) > 0.5


def test_the_mean_does_not_depend_on_the_order():
    values = torch.rand(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values[3] = torch.nan
    one, other = MeanMaskIoU(), MeanMaskIoU()
    one.record(values)
    for part in values.flip(0).split(7):
        other.record(part)
    assert torch.equal(one.compute(), other.compute())
    assert float(one.compute()) == pytest.approx(float(values.nanmean()))


def test_what_is_recorded_later_counts():
    metric = MeanMaskIoU()
    metric.record(torch.tensor([0.0]))
    assert metric.compute() == 0
    metric.record(torch.tensor([1.0]))
    assert metric.compute() == 0.5
    metric.reset()
    metric.record(torch.tensor([1.0]))
    assert metric.per_example().tolist() == [1.0]


def test_a_batch_gives_its_own_mean_when_the_metric_is_called():
    predicted, truth = masks()
    metric = MeanMaskIoU()
    parts = [metric(predicted[rows], truth[rows]) for rows in (slice(0, 4), slice(4, 7))]
    assert float(metric.compute()) == pytest.approx(float(4 * parts[0] + 3 * parts[1]) / 7)


def test_without_true_masks_no_image_has_a_value():
    predicted, _ = masks()
    metric = MeanMaskIoU()
    metric.update(predicted, None)
    assert metric.per_example().isnan().tolist() == [True] * 7
    assert metric.compute().isnan()
    assert PointDistance().measure_known({"prompts": object()}, 3).isnan().tolist() == [True] * 3


def test_an_image_without_a_label_does_not_count():
    metric = Accuracy()
    metric.update(torch.tensor([0, 1, 2]), torch.tensor([0, 2, -1]))
    assert metric.per_example().nan_to_num(-1).tolist() == [1, 0, -1]
    assert metric.compute() == 0.5


def test_an_empty_heatmap_does_not_count():
    values = torch.zeros(2, 2, 2)
    values[0, 0, 0] = 1
    heatmaps = Heatmaps(values, torch.tensor([False, True]), torch.zeros(2, dtype=torch.long))
    pointing, sparsity = PointingGame(), Sparsity()
    pointing.update(heatmaps, torch.ones(2, 2, 2, dtype=torch.bool))
    sparsity.update(heatmaps)
    assert pointing.per_example().isnan().tolist() == [False, True]
    assert sparsity.per_example().nan_to_num(-1).tolist() == [0.75, -1], "it needs no true masks"


def test_every_metric_says_what_it_is():
    for name in METRICS.names():
        metric = METRICS.get(name)()
        assert metric.name == name
        assert metric.title
        assert metric.group in GROUPS
        assert metric.needs
        assert set(metric.needs) <= set(INPUTS)
        assert metric.higher_is_better is not None


def test_facts_that_nobody_could_use_are_refused():
    with pytest.raises(TypeError, match="needs are of masks, truth"):
        type("Typo", (ExampleMetric,), {"name": "typo", "needs": ("mask",), "group": "masks"})
    with pytest.raises(TypeError, match="the group is of prompts, masks"):
        type("Typo", (ExampleMetric,), {"name": "typo", "needs": ("masks",), "group": "mask"})


def test_a_configuration_chooses_metrics_in_the_order_of_tables():
    node = {"sparsity": True, "boundary_iou": {"dilation": 0.05}, "road": False, "dice": None, "fg_hit_rate": True}
    chosen = build_metrics(node)
    assert [metric.name for metric in chosen] == ["fg_hit_rate", "boundary_iou", "sparsity"]
    assert chosen[1].arguments == {"dilation": 0.05}


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"dise": True}, "metrics.dise is not a metric; did you mean 'dice'"),
        ({"dice": 3}, "metrics.dice=3: must be true, false, or the metric's parameters"),
        ({"dice": {"dilation": 1}}, "metrics.dice.dilation is not a parameter"),
        (
            {"boundary_iou": {"dilatation": 1}},
            "boundary_iou.dilatation is not a parameter; did you mean 'dilation'",
        ),
        ({"boundary_iou": {"dilation": 0}}, "metrics.boundary_iou.dilation=0: input should be greater than 0"),
    ],
)
def test_what_does_not_fit_is_named(node: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        build_metrics(node)


def test_the_sets_state_the_defaults_that_the_classes_have():
    default, more = (OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml")) for name in ("default", "full"))
    assert more.pop("defaults") == ["default"]
    for metric in build_metrics(default | more):
        assert metric.arguments == METRICS.get(metric.name)().arguments


def test_a_value_is_known_by_name_parameters_and_code():
    one, other, again = (
        METRICS.get("best_threshold_iou")(**given) for given in ({}, {"steps": 9}, {"steps": 100})
    )
    assert one.depends_on == again.depends_on != other.depends_on
    assert one.depends_on[:2] == ["best_threshold_iou", {"steps": 100}]


ROWS = {"uneven": (slice(0, 4), slice(4, 7)), "one without": (slice(0, 7), None), "nobody": (None, None)}


def _measure(rank: int, port: int, folder: Path) -> None:
    """What a process finds: the mean over both processes' images, and its own afterwards."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    predicted, truth = masks()
    found = {}
    for name, shares in ROWS.items():
        metric = MeanMaskIoU()
        if (rows := shares[rank]) is not None:
            for row in range(7)[rows]:
                metric.update(predicted[row : row + 1], truth[row : row + 1])
        found[name] = (float(metric.compute()), len(metric.per_example()))
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@only_soaking
def test_processes_find_the_mean_over_all_images(tmp_path: Path):
    spawn(_measure, (_free_port(), tmp_path), nprocs=2)
    predicted, truth = masks()
    whole = MeanMaskIoU()
    whole.update(predicted, truth)
    assert float(whole.compute()) == pytest.approx(0.35182, abs=5e-6)
    own = {"uneven": (4, 3), "one without": (7, 0), "nobody": (0, 0)}
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["uneven"][0] == found["one without"][0] == float(whole.compute())
        assert found["nobody"][0] != found["nobody"][0], "no image, no mean"
        assert {name: count for name, (_, count) in found.items()} == {k: n[rank] for k, n in own.items()}


def _free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
