"""Values that cannot be meant are refused in one line, wherever they come in."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from gradsam_exp.data.base import DATASETS
from gradsam_exp.errors import InputError
from gradsam_exp.explainers.base import EXPLAINERS
from gradsam_exp.prompts.base import STRATEGIES, check_knobs
from gradsam_exp.prompts.foreground import Foreground
from gradsam_exp.refiners.base import REFINERS
from gradsam_exp.registry import build_checked
from gradsam_exp.segmenters.base import Embeddings, check_prompts
from gradsam_exp.tasks.train import TrainSettings
from gradsam_exp.types import Heatmaps, PromptContext, Prompts

KNOBS: dict[str, Any] = {"fg_threshold": 0.8, "bg_threshold": 0.1, "grid_size": 3, "grid_offset": 1.0}
ENDLESS = [math.inf, -math.inf, math.nan]


@pytest.mark.parametrize("value", ENDLESS)
@pytest.mark.parametrize("knob", ["fg_threshold", "bg_threshold", "grid_offset"])
def test_a_shared_knob_is_a_finite_number(knob: str, value: float):
    with pytest.raises(InputError, match=rf"^{knob}=-?(inf|nan): "):
        check_knobs({**KNOBS, knob: value})


@pytest.mark.parametrize("value", [*ENDLESS, "inf"])
@pytest.mark.parametrize(
    ("registry", "name", "knob"),
    [
        (STRATEGIES, "fg", "grid_offset"),
        (STRATEGIES, "fgbg", "ring_distance"),
        (STRATEGIES, "adaptive", "max_area_ratio"),
        (STRATEGIES, "box", "margin"),
        (STRATEGIES, "mask", "gain"),
        (STRATEGIES, "topk_far", "distance"),
        (EXPLAINERS, "finercam", "alpha"),
        (REFINERS, "guided", "eps"),
    ],
)
def test_a_knob_of_a_plug_in_is_a_finite_number(registry: Any, name: str, knob: str, value: object):
    given = {"target_layers": ["layer2"]} if registry is EXPLAINERS else {}
    runtime = {"model": torch.nn.Linear(1, 1)} if registry is EXPLAINERS else {}
    with pytest.raises(InputError, match=rf"^{registry.key}\.{knob}="):
        registry.build({"name": name, **given, knob: value}, **runtime)


def test_the_library_refuses_them_as_well():
    with pytest.raises(ValueError, match="finite"):
        Foreground(grid_offset=math.inf)


@pytest.mark.parametrize("size", [103, 2147483647])
def test_a_grid_has_an_upper_bound(size: int):
    with pytest.raises(InputError, match=rf"^grid_size={size}: must be at most 101"):
        check_knobs({**KNOBS, "grid_size": size})


def test_sizes_have_an_upper_bound():
    with pytest.raises(InputError, match=r"^data\.width=1000000: input should be less than or equal to 8192"):
        DATASETS.build({"name": "shapes", "background": {"name": "noise"}, "width": 1000000}, split="test")
    with pytest.raises(InputError, match=r"^pipeline\.k=1000000: "):
        STRATEGIES.build({"name": "topk_smoothed", "k": 1000000})
    settings = {
        "epochs": 1, "batch_size": 8, "learning_rate": 0.1, "weight_decay": 0, "flip": True, "fresh": True,
        "patience": None, "workers": 1000000, "batch_pixels": 8000000, "class_weights": "none", "start": None,
        "resume": None, "freeze": [], "mixup": 0, "cutmix": 0,
    }  # fmt: skip
    with pytest.raises(InputError, match=r"^task\.workers=1000000: input should be less than or equal to 256"):
        build_checked("task", TrainSettings, settings)


EMBEDDINGS = Embeddings.of_one_size([torch.zeros(2, 1, 4, 4)], (1024, 683), (30, 20))  # two images of 20×30 px


def asked(points: Any = None, labels: Any = None, boxes: Any = None, index: int = 1) -> Prompts:
    xy = torch.tensor(points or [[5.0, 5.0]])[None]
    given = torch.tensor(labels or [1] * xy.shape[1])[None]
    return Prompts(torch.tensor([index]), xy, given, None if boxes is None else torch.tensor([boxes]))


@pytest.mark.parametrize(
    "prompts",
    [
        asked([[-0.5, -0.5], [19.5, 29.5]], [1, 0]),
        asked([[1e9, math.nan], [3.0, 4.0]], [-1, 1]),  # no point there
        asked(boxes=[-0.5, -0.5, 19.5, 29.5]),
        asked(boxes=[3.0, 3.0, 3.0, 3.0]),
    ],
)
def test_prompts_inside_of_the_image_are_taken(prompts: Prompts):
    check_prompts(prompts, EMBEDDINGS, "a caller")


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (asked([[25.0, 5.0]]), r"a point at x=25, y=5 px, outside of an image of 20×30 px"),
        (asked([[5.0, 1000.0]]), r"a point at x=5, y=1000 px"),
        (asked([[-0.6, 0.0]]), r"a point at x=-0\.6"),
        (asked([[math.nan, 0.0]]), r"a point at x=nan"),
        (asked([[1.0, 1.0], [2.0, math.inf]]), r"a point at x=2, y=inf"),
        (asked(labels=[2]), r"the label 2; labels are 1"),
        (asked(boxes=[8.0, 2.0, 4.0, 9.0]), r"the box \[8\.0, 2\.0, 4\.0, 9\.0\], but .* x0 ≤ x1"),
        (asked(boxes=[2.0, 9.0, 4.0, 8.0]), r"the box"),
        (asked(boxes=[2.0, 9.0, 25.0, 12.0]), r"a box at x=25, y=12 px"),
        (asked(boxes=[2.0, 9.0, math.nan, 12.0]), r"a box at x=nan"),
        (asked(index=2), r"example 2, but there are 2"),
        (replace(asked(), mask_logits=torch.full((1, 1, 4, 4), math.nan)), r"mask logits"),
    ],
)
def test_other_prompts_are_refused(prompts: Prompts, message: str):
    with pytest.raises(InputError, match=rf"^the strategy Mine .*{message}"):
        check_prompts(prompts, EMBEDDINGS, "the strategy Mine")


def context(values: torch.Tensor, size: tuple[int, int] = (4, 6)) -> PromptContext:
    images = torch.zeros(len(values), 3, *size, dtype=torch.uint8)
    nothing = torch.zeros(len(values), dtype=torch.bool)
    return PromptContext(images, Heatmaps(values, nothing, torch.zeros(len(values), dtype=torch.long)))


def test_heatmaps_of_another_size_are_refused():
    with pytest.raises(ValueError, match="heatmaps of 224×224 px do not belong to images of 500×338 px"):
        context(torch.ones(1, 224, 224), (338, 500))


@pytest.mark.parametrize("value", ENDLESS)
def test_heatmaps_that_are_not_finite_are_refused(value: float):
    with pytest.raises(ValueError, match="NaN or infinite"):
        context(torch.full((1, 4, 6), value))


def test_a_heatmap_of_zeros_is_empty_and_its_points_lie_in_the_middle():
    ctx = context(torch.stack([torch.zeros(4, 6), torch.eye(6)[:4]]))
    assert ctx.heatmaps.empty.tolist() == [True, False]
    points = Foreground(grid_size=1).propose(ctx).points
    assert points[0, 0].tolist() == [2.5, 1.5]
