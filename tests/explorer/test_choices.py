"""What is chosen on the page is what the command line would give, and nothing else can be chosen there."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from gradsam_exp.app.composing import compose
from gradsam_exp.errors import InputError
from gradsam_exp.explorer.choices import Choices, State
from gradsam_exp.runs.overrides import written

BASE = ["task=explore", "task.port=0", "pipeline=fg", "pipeline.region=peak", "limit=4", "bg_threshold=0.2"]


@pytest.fixture(scope="module")
def choices(composing: None) -> Choices:
    return Choices(BASE)


FIXED = "pipeline=fg pipeline.region=peak limit=4 bg_threshold=0.2"


@pytest.mark.parametrize(
    ("chosen", "knobs", "command"),
    [
        ({}, {}, FIXED),
        (
            {"pipeline": "fgbg"},
            {"bg_threshold": 0.05, "pipeline.n": 2},
            "limit=4 pipeline=fgbg bg_threshold=0.05 pipeline.n=2",
        ),
        (
            {"pipeline": "fg"},
            {"pipeline.region": "all"},
            "pipeline=fg limit=4 bg_threshold=0.2 pipeline.region=all",
        ),
        (
            {},
            {"fg_threshold": "quantile:0.9", "grid_offset": "2%"},
            f"{FIXED} fg_threshold=quantile:0.9 grid_offset=2%",
        ),
        (
            {"explainer": "layercam"},
            {"explainer.target_layers": ["layer3.0", "layer2"], "explainer.target": "circle"},
            f"{FIXED} explainer=layercam 'explainer.target_layers=[layer3.0,layer2]' explainer.target=circle",
        ),
        ({"pipeline": "grid_match"}, {}, "limit=4 bg_threshold=0.2 pipeline=grid_match"),
    ],
)
def test_the_command_gives_the_same_configuration(choices: Choices, chosen: Any, knobs: Any, command: str):
    state = State(choices=chosen, knobs=knobs)
    assert choices.command(state) == f"python run.py {command}"
    assert asdict(choices.config(state)) == asdict(compose(shlex.split(command)))


def test_a_strategy_may_bring_a_selector(choices: Choices):
    assert choices.chosen(State())["selector"] == "predicted_iou"
    assert choices.chosen(State(choices={"pipeline": "grid_match"}))["selector"] == "heatmap_agreement"


def test_a_sweep_varies_what_is_asked_for(choices: Choices):
    state = State(choices={"pipeline": "fgbg"}, knobs={"bg_threshold": 0.3})
    assert choices.sweep(state, {"bg_threshold": [0.1, 0.3, 0.1], "pipeline": ["fg", "fgbg"]}) == (
        "python run.py -m limit=4 bg_threshold=0.1,0.3 pipeline=fg,fgbg"
    )


def test_texts_are_written_as_the_command_line_reads_them(composing: None):
    names = [
        "a b",
        'quote " and \\',
        r"back\slash, \" and \\",
        r"\x1b\xff.png",
        "comma, and [brackets]",
        "null",
        "1e5",
        "ümlaut",
        "layer2.-1",
        "x:y",
        "-",
        "a=b",
    ]
    assert compose([f"explainer.target_layers={written(names)}"]).explainer["target_layers"] == names


@pytest.mark.parametrize(
    ("chosen", "knobs"),
    [
        ({}, {"sam.checkpoint": "/etc/passwd"}),
        ({}, {"data.root": "/etc"}),
        ({}, {"pipeline.name": "oracle"}),
        ({}, {"pipeline.no_such": 1}),
        ({}, {"hydra.run.dir": "x"}),
        ({"sam": "vit_b"}, {}),
        ({"data": "folder"}, {}),
        ({"pipeline": "../../etc/passwd"}, {}),
        ({"pipeline": "base/foreground"}, {}),
        ({}, {"grid_size": "many"}),
    ],
)
def test_nothing_else_can_be_chosen(choices: Choices, chosen: Any, knobs: Any):
    with pytest.raises(InputError):
        choices.config(State(choices=chosen, knobs=knobs))


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "x\ny", "x" * 201, float("nan"), {"a": 1}, ["${x}"], [[1]]])
def test_values_are_plain(value: Any):
    with pytest.raises(ValidationError):
        TypeAdapter(State).validate_python({"knobs": {"explainer.target": value}})
