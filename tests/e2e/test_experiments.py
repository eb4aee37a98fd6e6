"""The prepared experiments: they say what they ask, compose, and end in one compared table."""

from __future__ import annotations

import re
import shlex
from itertools import takewhile
from pathlib import Path

import pandas as pd
import pytest

from tests.faults.counts import only_soaking

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))


PARTS = ("Question", "Command", "Time", "Expect")
WITHIN = 0.002
"""How far a figure may lie from a stated one, which has three digits: rounding differs between machines."""


def parts(name: str) -> dict[str, str]:
    """What an experiment's file opens with, by the word before the colon."""
    lines = (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# @package _global_"
    head = "\n".join(line.removeprefix("#") for line in takewhile(lambda line: line.startswith("#"), lines[1:]))
    found = re.findall(r"^ ([A-Z][a-z]+): (.*(?:\n   .*)*)", head, re.MULTILINE)
    return {word: " ".join(text.split()) for word, text in found}


STATED = {name: own["Small"] for name in EXPERIMENTS if "Small" in (own := parts(name))}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_composes_and_opens_with_its_four_parts(run, name: str):
    found = parts(name)
    assert tuple(found)[:4] == PARTS
    assert f"python run.py experiment={name}" in found["Command"]
    assert re.search(r"\b(minutes?|hours?)\b", found["Time"])
    assert re.search(r"\d\.\d{2}", found["Expect"]), "figures"
    assert re.search(r"\b(val|test|on the|held out)\b|split=|docs/", found["Expect"]), (
        "and the setting that gave them"
    )
    done = run(f"experiment={name}", "--cfg=job", defaults=False)
    assert done.code == 0, done.err
    assert f"name: {name}" in done.out


@pytest.mark.slow
@only_soaking
@pytest.mark.parametrize("name", STATED)
def test_a_stated_command_gives_its_figures(run, name: str):
    """`Small: COMMAND: METRIC figures of the jobs, in order; …`, with the weights that ship."""
    stated, figures = STATED[name].removeprefix("python run.py ").split(": ", 1)
    done = run(*shlex.split(stated), "logger=none", "task.figures=false", defaults=False)
    assert done.code == 0, done.err
    (path,) = done.folder.rglob("sweep.csv")
    table = pd.read_csv(path)
    for metric, values in (part.split(" ", 1) for part in figures.split("; ")):
        expected = [float(value) for value in values.split(", ")]
        assert table[metric].tolist() == pytest.approx(expected, abs=WITHIN), metric


def test_three_experiments_state_figures_that_a_test_makes_again():
    assert len(STATED) >= 3


@pytest.mark.slow
@only_soaking
def test_the_oracles_run_by_name(run):
    done = run("experiment=oracles", "limit=2")
    assert done.code == 0, done.err
    (path,) = done.folder.rglob("sweep.csv")
    table = pd.read_csv(path)
    assert list(zip(table["pipeline"], table["selector"], strict=True)) == [
        (pipeline, selector)
        for pipeline in ("fg", "oracle_heatmap", "oracle", "oracle_box")
        for selector in ("predicted_iou", "oracle")
    ]
    assert table["upper_bound"].fillna(False).tolist() == [False, *[True] * 7]
    assert (table["miou"][1::2].to_numpy() >= table["miou"][::2].to_numpy()).all()
    assert "oracles" in str(path)


def test_every_part_has_a_config_of_its_name():
    from gradsam_exp.explainers.base import EXPLAINERS
    from gradsam_exp.prompts.base import STRATEGIES
    from gradsam_exp.refiners.base import REFINERS
    from gradsam_exp.selectors.base import SELECTORS

    for group, registry in (("explainer", EXPLAINERS), ("pipeline", STRATEGIES), ("selector", SELECTORS),
                            ("refine", REFINERS)):  # fmt: skip
        assert sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml")) == registry.names()
