"""The configuration of explainers: what stands once holds for every option, and ranges hold without Hydra too."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pydantic import ValidationError

from gradsam_exp.config import register_schema
from gradsam_exp.explainers.gradient import FinerCAM, GradCAM, ShapleyCAM

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = sorted(path.stem for path in (CONF / "explainer").glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def hydra():
    register_schema()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.mark.parametrize("name", OPTIONS)
def test_target_and_augment_hold_for_every_explainer(name: str):
    by_default = compose("config", [f"explainer={name}"]).explainer
    assert (by_default.target, by_default.augment) == ("predicted", "none")
    given = compose(
        "config", [f"explainer={name}", "explainer.target=label", "explainer.augment=mirror"]
    ).explainer
    assert (given.name, given.target, given.augment) == (name, "label", "mirror")


def test_target_and_augment_stand_in_no_option():
    for path in (CONF / "explainer").rglob("*.yaml"):
        assert not {"target", "augment"} & set(OmegaConf.load(path)), path


def test_an_option_may_differ_from_what_it_shares():
    assert compose("config", ["explainer=shapleycam"]).explainer.score == "rest"
    assert compose("config", ["explainer=cam"]).explainer.target_layers == ["layer4.-1"]
    assert compose("config", ["explainer=gradcam", "model=swin_t"]).explainer.target_layers == ["features.5.-1"]


def test_a_knob_is_checked_where_no_configuration_is_involved(classifier):
    assert GradCAM(classifier, "layer2.-1").score == "logit"
    assert ShapleyCAM(classifier, "layer2.-1").score == "rest"
    with pytest.raises(ValidationError, match="'bilinear' or 'bicubic'"):
        GradCAM(classifier, ["layer2.-1"], upsample="cubic")
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        FinerCAM(classifier, ["layer2.-1"], similar=0)
    with pytest.raises(ValidationError, match="score"):
        FinerCAM(classifier, ["layer2.-1"], score="logit")
    with pytest.raises(ValidationError, match="name at least one layer"):
        GradCAM(classifier, [])
