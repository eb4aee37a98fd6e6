"""What the page shows is what a run computes."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gradsam_exp.engine.predictions import decode_mask
from gradsam_exp.errors import InputError
from gradsam_exp.explorer.choices import ByHand, State
from gradsam_exp.explorer.views import Explorer
from gradsam_exp.runs.folder import Run
from tests.explorer.conftest import answered
from tests.reports.finished_runs import write_run

FGBG = {"pipeline": "fgbg"}


@pytest.fixture(scope="module")
def run_ious(explorer: Explorer) -> dict[str, float]:
    """The IoU of each image as a run has it."""
    planned = explorer.outcomes.plan(State(choices=FGBG))
    table = planned.experiment().run(planned.dataset).per_image
    return dict(zip(table["example_id"], table["iou"], strict=True))


def test_a_picture_has_everything_that_became_of_it(explorer: Explorer, run_ious: dict[str, float]):
    shown = answered(explorer.picture(State(choices=FGBG, image=3)))
    assert shown["iou"] == pytest.approx(run_ious[shown["image"]["key"]])
    assert shown["image"]["size"] == (64, 48)
    (kept,) = [one for one in shown["candidates"] if one["kept"]]
    assert (kept["mask"], kept["iou"], kept["predicted_iou"]) == (
        shown["mask"],
        shown["iou"],
        shown["predicted_iou"],
    )
    assert [one["name"] for one in shown["candidates"]] == ["single", "mask 1", "mask 2", "mask 3"]
    mask, truth = (decode_mask(shown[name], 48, 64) for name in ("mask", "truth"))
    assert (mask & truth).sum() / (mask | truth).sum() == pytest.approx(shown["iou"])
    xy, labels, boxes = shown["prompts"]
    assert (labels, boxes, len(xy)) == ("1" * 9 + "0" * 4, [], 26)
    warm, cold = (decode_mask(shown[name], 48, 64) for name in ("warm", "cold"))
    points = np.array(xy).reshape(-1, 2).round().astype(int)
    assert warm.any()
    assert not (warm & cold).any()
    assert cold[points[9:, 1], points[9:, 0]].all(), "background points lie on cold pixels"
    assert shown["image"]["url"].startswith("data:image/webp;base64,")
    assert shown["command"].endswith("pipeline=fgbg")


def test_knobs_without_effect_say_why(explorer: Explorer):
    state = State(choices=FGBG, knobs={"pipeline.placement": "argmin", "pipeline.n": 1})
    shown = answered(explorer.picture(state))
    knobs = {one["name"]: one for one in shown["controls"]["groups"]["pipeline"]["knobs"]}
    reason = "has no effect with pipeline=fgbg pipeline.placement=argmin"
    assert [knobs[name]["off"] for name in ("bg_threshold", "tie", "n")] == [reason, reason, ""]
    assert knobs["bg_threshold"]["key"] == "bg_threshold"
    assert knobs["n"]["key"] == "pipeline.n"
    assert shown["cold"] is None, "this placement looks at no threshold"
    off = answered(explorer.picture(State(choices={"pipeline": "s2c_peaks"})))["controls"]["groups"]["selector"][
        "off"
    ]
    assert off == "has no effect with pipeline=s2c_peaks, which keeps masks by a rule of its own"


def test_a_conflict_is_the_programs_own_message_and_leaves_the_controls(explorer: Explorer):
    shown = answered(explorer.picture(State(choices=FGBG, knobs={"bg_threshold": 0.9})))
    assert shown["problem"].startswith("pipeline: bg_threshold=0.9 must be below fg_threshold=0.8")
    knobs = {one["name"]: one["value"] for one in shown["controls"]["groups"]["pipeline"]["knobs"]}
    assert knobs["bg_threshold"] == 0.9


def test_the_explained_class_and_the_layer_are_chosen(explorer: Explorer):
    knobs = {"explainer.target": "star", "explainer.target_layers": ["layer3.1"]}
    shown = answered(explorer.picture(State(knobs=knobs)))
    before = answered(explorer.picture(State()))
    assert (shown["explained"], before["explained"]) == ("star", "circle")
    assert shown["heat"] != before["heat"]
    assert shown["controls"]["layer"] == ["layer3.1"]
    assert {"layer2.1", "layer3.1"} <= set(shown["controls"]["layers"])


def test_prompts_by_hand_take_the_strategys_place(explorer: Explorer):
    by_truth = answered(explorer.picture(State(image=1)))
    truth = decode_mask(by_truth["truth"], 48, 64)
    y, x = np.argwhere(truth).mean(0)
    hand = ByHand([(float(x), float(y), 1), (-0.4, 1000.0, 0)], (60.0, 40.0, 2.0, 3.0))
    shown = answered(explorer.picture(State(image=1, hand=hand)))
    xy, labels, box = shown["prompts"]
    assert labels == "10"
    assert xy[2:] == [0, 47], "points outside come to the border"
    assert box == [2, 3, 60, 40], "corners come in order"
    knobs = shown["controls"]["groups"]["pipeline"]["knobs"]
    assert {one["off"] for one in knobs} == {"has no effect on prompts given by hand"}
    nothing = answered(explorer.picture(State(image=1, hand=ByHand([]))))
    assert (nothing["candidates"], nothing["prompts"], nothing["iou"]) == ([], [[], "", []], 0)


def test_the_strip_is_the_iou_along_a_knob(explorer: Explorer):
    state = State(choices=FGBG, image=2)
    found = answered(explorer.strip(state, "bg_threshold", [0.05, 0.1, 0.9]))
    assert found["values"] == [0.05, 0.1, 0.9]
    assert found["ious"][1] == answered(explorer.picture(state))["iou"]
    assert found["ious"][2] is None, "it is refused"


def test_the_sample_is_measured_as_a_run_is(explorer: Explorer, run_ious: dict[str, float]):
    found = answered(explorer.sample(State(choices=FGBG), State()))
    assert found["miou"] == pytest.approx(np.mean(list(run_ious.values())), abs=1e-6)
    assert (found["n"], found["of"]) == (8, 8)
    assert found["ci95"][0] <= found["miou"] <= found["ci95"][1]
    baseline = answered(explorer.sample(State(), None))
    assert found["difference"]["mean"] == pytest.approx(found["miou"] - baseline["miou"], abs=2e-6)
    assert sum(found["difference"]["counts"]) == 8
    everything = list(explorer.sample(State(choices=FGBG), None, everything=True))
    assert everything[0] == {"done": 0, "total": 8}
    same = answered(explorer.sample(State(choices=FGBG), State(choices=FGBG)))["difference"]
    assert (same["mean"], same["counts"]) == (0, [0, 8, 0])


def test_images_are_named_with_their_classes(explorer: Explorer):
    (told,) = list(explorer.names())
    assert told["names"][:2] == [[0, "test-00000", ["circle"]], [1, "test-00001", ["square"]]]
    assert answered(explorer.names()) == {"total": 8, "worst": []}


def test_an_image_is_found_by_its_name(explorer: Explorer):
    assert [explorer.find(f"test-0000{k}").image for k in range(8)] == list(range(8))
    with pytest.raises(InputError, match=r"^task\.image=nope is not among the 8 images"):
        explorer.find("nope")


def test_the_worst_of_a_run_are_listed(explorer: Explorer, monkeypatch: pytest.MonkeyPatch):
    names = ["test-00003", "test-00001", "test-00002", "of another set"]
    table = pd.DataFrame({"image_id": names, "iou": [0.2, 0.1, float("nan"), 0.0]})
    monkeypatch.setattr(explorer, "run", SimpleNamespace(images=table))
    assert answered(explorer.names())["worst"] == [[1, 0.1], [3, 0.2]]


def test_a_run_on_other_images_is_refused(explorer: Explorer, tmp_path: Path):
    other = Run(write_run(tmp_path / "there", {"limit": "3"}, [0.5] * 4, data="another"))
    with pytest.raises(InputError, match=r"^task\.run=.*there is on other images .* python run\.py limit=3$"):
        Explorer(["limit=4"], explorer.job, run=other)


def picture(size: tuple[int, int] = (80, 60)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_a_dropped_picture_is_explained_and_segmented(explorer: Explorer):
    taken = answered(explorer.upload("../../<b>\x1b[31m.png", picture((800, 600))))
    assert taken["name"] == "../../<b>\\x1b[31m.png", "a name is only shown"
    shown = answered(explorer.picture(State(upload=taken["upload"])))
    assert shown["image"]["pixels"] == [512, 384]
    assert shown["truth"] is None
    assert shown["iou"] is None


@pytest.mark.parametrize("content", [b"", b"no picture", picture()[:500]])
def test_what_is_no_picture_is_refused_by_its_name(explorer: Explorer, content: bytes):
    with pytest.raises(InputError, match=r"^evil\.png "):
        answered(explorer.upload("evil.png", content))


def test_a_picture_that_is_not_there_is_an_error(explorer: Explorer):
    shown = answered(explorer.picture(State(upload=40)))
    assert shown["problem"] == "the picture that was dropped is not here any more: drop it again"


def test_a_figure_is_drawn_and_kept(explorer: Explorer):
    found = answered(explorer.figure(State(image=1)))
    assert found["url"].startswith("data:image/png;base64,")
    with Image.open(Path(found["path"])) as drawn:
        assert drawn.width > 300
