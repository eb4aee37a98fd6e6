"""Controls come from a plug-in's fields."""

from __future__ import annotations

import dataclasses
import typing
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from gradsam_exp.explorer.controls import attributes_of, controls_of, summary_of
from gradsam_exp.prompts.base import STRATEGIES, Fraction, Length, OddInt, WholeLength
from gradsam_exp.prompts.thresholds import Threshold
from gradsam_exp.refiners.base import REFINERS
from gradsam_exp.registry import check_value
from gradsam_exp.selectors.base import SELECTORS


@dataclass(frozen=True)
class Base:
    """Base does nothing.

    Attributes:
        share: a share
            of something.
        odd, length: two of a kind.
    """

    share: Fraction = 0.25
    odd: OddInt = 3
    length: Length = 1.0


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("must be even")
    return value


@dataclass(frozen=True)
class Plugin(Base):
    """Plugin (eq. 3 of Somebody et al.) is of another package. It has a second sentence.

    Attributes:
        mode: what is done.
    """

    mode: Literal["first", "last"] = "first"
    on: bool = True
    heat: Threshold = 0.5
    whole: WholeLength = 20
    count: Annotated[int, Field(ge=2, le=5)] = 3
    even: Annotated[int, AfterValidator(_even)] = 4
    gain: Annotated[float, Field(gt=0)] = 30.0
    signed: Annotated[float, Field(ge=-1, le=1)] = 0.0
    word: str = "anything"
    layers: list[str] = dataclasses.field(default_factory=list)
    either: Literal["auto"] | Literal["none"] = "auto"


def controls(factory: Any = Plugin) -> dict[str, dict[str, Any]]:
    values = dataclasses.asdict(factory())
    return {one["name"]: one for one in controls_of(factory, values, values)}


def test_every_field_has_a_control_of_its_kind():
    kinds = {name: one["kind"] for name, one in controls().items()}
    numbers = ("share", "odd", "length", "heat", "whole", "count", "even", "gain", "signed")
    assert kinds == {
        **dict.fromkeys(numbers, "range"),
        "mode": "choice", "either": "choice", "on": "check", "word": "text", "layers": "fixed",
    }  # fmt: skip


def test_ranges_are_those_that_the_field_takes():
    found = controls()
    reach = {name: (one["low"], one["high"], one["step"]) for name, one in found.items() if one["kind"] == "range"}
    assert reach["share"] == (0, 1, 0.01)
    assert reach["heat"] == (0, 1, 0.01)
    assert reach["signed"] == (-1, 1, 0.01)
    assert reach["count"] == (2, 5, 1)
    assert (reach["odd"][0], reach["odd"][2]) == (1, 2)
    assert (reach["even"][0], reach["even"][2]) == (0, 2)
    assert reach["gain"][0] > 0
    assert found["gain"]["high"] > 30, "there is room above the default"
    assert found["heat"]["words"] == ["otsu", "quantile:0.9"]
    assert found["length"]["words"] == found["whole"]["words"] == ["2%"]
    assert found["mode"]["choices"] == ["first", "last"]
    assert found["either"]["choices"] == ["auto", "none"]


def test_how_far_a_slider_reaches_follows_from_the_default():
    (one,) = [one for one in controls_of(Plugin, {"gain": 90.0}, {"gain": 30.0}) if one["name"] == "gain"]
    assert (one["value"], one["high"]) == (90.0, controls()["gain"]["high"])


def test_explanations_are_the_docstrings():
    assert attributes_of(Plugin) | {"mode": "what is done."} == attributes_of(Plugin)
    assert controls()["share"]["about"] == "a share of something."
    assert controls()["odd"]["about"] == controls()["length"]["about"] == "two of a kind."
    assert summary_of(Plugin) == "Plugin (eq. 3 of Somebody et al.) is of another package."


@pytest.mark.parametrize("registry", [STRATEGIES, SELECTORS, REFINERS], ids=lambda one: one.key)
def test_what_a_control_offers_is_accepted(registry: Any):
    seen = 0
    for name in registry.names():
        factory = registry.get(name)
        hints = typing.get_type_hints(factory, include_extras=True)
        values = {
            field.name: field.default
            for field in dataclasses.fields(factory)
            if field.default is not dataclasses.MISSING
        }
        for one in controls_of(factory, values, values):
            offered = [*one.get("choices", ()), *one.get("words", ())]
            if one["kind"] == "range":
                assert one["low"] <= one["value"] <= one["high"] or isinstance(one["value"], str), (name, one)
                offered += [one["low"], one["low"] + one["step"], one["high"]]
            for value in offered:
                check_value(f"{name}.{one['name']}", hints[one["name"]], value)
                seen += 1
            assert one["about"], f"{registry.key}={name}: {one['name']} has no explanation"
    assert seen > 3
