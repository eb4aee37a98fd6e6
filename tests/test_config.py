"""A knob's default stands once in code, and in conf/config.yaml."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from gradsam_exp.config import KNOBS, Config
from gradsam_exp.errors import InputError
from gradsam_exp.prompts.base import KNOBS as SHARED
from gradsam_exp.prompts.base import STRATEGIES, check_knobs

CONF = Path(__file__).parents[1] / "conf"


def test_the_command_lines_defaults_are_those_of_the_code():
    written = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"), resolve=False)
    defaults = {name: getattr(STRATEGIES.get("fgbg"), name) for name in SHARED}
    own = [f for f in fields(Config) if f.name in KNOBS and f.name not in SHARED]
    defaults |= {f.name: f.default_factory() if f.default is MISSING else f.default for f in own}
    defaults["name"] = "${task.name}"
    assert MISSING not in defaults.values()
    assert {name: written[name] for name in KNOBS} == defaults


def test_what_a_strategy_brings_is_what_its_configuration_chooses():
    for name in STRATEGIES.names():
        brought = STRATEGIES.get(name).brings_selector
        chosen = OmegaConf.load(CONF / f"pipeline/{name}.yaml").get("defaults", [])
        found = [entry["override /selector"] for entry in chosen if "override /selector" in entry]
        assert found == ([] if brought is None else [brought])


@pytest.mark.parametrize(("name", "value"), [("bg_threshold", 1.5), ("grid_size", 4), ("grid_offset", 0.0)])
def test_a_knob_out_of_its_range_is_refused_by_its_own_name_even_if_unused(name: str, value: float):
    good = {"fg_threshold": 0.8, "bg_threshold": 0.1, "grid_size": 3, "grid_offset": 1.0}
    check_knobs(good)
    with pytest.raises(InputError, match=f"^{name}={value}: "):
        check_knobs(good | {name: value})
