from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from omegaconf import OmegaConf
from pydantic import Field

from gradsam_exp.errors import InputError, did_you_mean
from gradsam_exp.prompts.base import STRATEGIES
from gradsam_exp.registry import Registry, build_checked, check_value


def make(
    size: Annotated[int, Field(ge=1)], mode: Literal["a", "b"] = "a", *, share: float | None = None
) -> tuple[int, str, float | None]:
    return size, mode, share


def test_parameters_are_converted_and_defaults_filled():
    assert build_checked("thing", make, {"name": "x", "size": 3}) == (3, "a", None)
    assert build_checked("thing", make, {"size": 3, "share": 1, "mode": "b"}) == (3, "b", 1.0)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({}, "thing.size is missing"),
        ({"size": 0}, "thing.size=0: input should be greater than or equal to 1"),
        ({"size": "many"}, "thing.size='many': input should be a valid integer"),
        ({"size": 1, "mod": "a"}, "thing.mod is not a parameter; did you mean 'mode'"),
        ({"size": 1, "mode": "c"}, "thing.mode='c': input should be 'a' or 'b'"),
    ],
)
def test_what_does_not_fit_is_named(node, message: str):
    with pytest.raises(InputError, match=message):
        build_checked("thing", make, node)


def test_runtime_arguments_are_not_for_configs():
    assert build_checked("thing", make, {"mode": "b"}, size=5) == (5, "b", None)
    with pytest.raises(InputError, match=r"thing\.size is not a parameter"):
        build_checked("thing", make, {"size": 3}, size=5)


def test_a_plug_in_registers_itself_and_is_found_by_name():
    registry: Registry[object] = Registry("thing", "tests.data")
    registry.register("made")(make)
    assert registry.get("made") is make
    assert registry.build({"name": "made", "size": 2}) == (2, "a", None)
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("made")(lambda: None)


def test_strategies_of_other_distributions_are_found(monkeypatch):
    """Entry points of the group ``gradsam_exp.prompts`` join the built-in names."""

    offered = [
        EntryPoint("theirs", f"{__name__}:make", STRATEGIES.package),
        EntryPoint("broken", "nowhere.at_all:Strategy", STRATEGIES.package),
    ]
    monkeypatch.setattr("gradsam_exp.registry.entry_points", lambda group: offered if "prompts" in group else [])
    registry: Registry[object] = Registry("pipeline", STRATEGIES.package)
    assert {"theirs", "broken"} <= set(registry.names())
    assert registry.build({"name": "theirs", "size": 1}) == (1, "a", None)
    with pytest.raises(InputError, match=r"pipeline=broken comes from nowhere\.at_all:Strategy, which can"):
        registry.get("broken")


def named_by(node: Any, group: str, key: str, conf: Path) -> str:
    """The plug-in that a YAML names: itself, below its group (@package _global_), or by what it is based on."""
    if key in node or group in node:
        return node[key] if key in node else node[group][key]
    (base,) = (default.partition("@")[0] for default in node["defaults"])
    return named_by(OmegaConf.load(conf / group / f"{base}.yaml"), group, key, conf)


def test_all_configs_name_registered_things():
    """Every YAML of a plug-in group builds, or says that it needs a path: none names what does not exist."""

    from gradsam_exp.classifiers.base import CLASSIFIERS
    from gradsam_exp.data.backgrounds import BACKGROUNDS
    from gradsam_exp.data.base import DATASETS
    from gradsam_exp.explainers.base import EXPLAINERS
    from gradsam_exp.segmenters.base import SEGMENTERS
    from gradsam_exp.selectors.base import SELECTORS

    groups = {
        "pipeline": STRATEGIES, "selector": SELECTORS, "sam": SEGMENTERS,
        "explainer": EXPLAINERS, "data": DATASETS, "background": BACKGROUNDS, "model": CLASSIFIERS,
    }  # fmt: skip
    conf = Path(__file__).parents[1] / "conf"
    for group, registry in groups.items():
        files = sorted((conf / group).glob("*.yaml"))
        named = {named_by(OmegaConf.load(path), group, registry.by, conf) for path in files}
        assert named <= set(registry.names())
        assert set(registry.names()) - named <= {"blend"}, f"every {group} has its YAML"
        for path in files:
            assert path.read_text().startswith("#"), f"{path} says what it is"


def test_nearest_names():
    assert did_you_mean("fgb", ["fg", "fgbg", "center"]).startswith(
        "; did you mean 'fgbg'? Known: center, fg, fgbg"
    )
    assert did_you_mean("zzz", ["fg"]) == ". Known: fg"
    assert did_you_mean("zzz", []) == "."


def test_bounds_in_annotations_are_checked():
    assert check_value("x", Annotated[float, Field(ge=0)], 1) == 1.0
    with pytest.raises(InputError, match="x=-1"):
        check_value("x", Annotated[float, Field(ge=0)], -1)
