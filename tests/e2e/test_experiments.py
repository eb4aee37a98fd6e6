"""The prepared experiments: they say what they ask, compose, and end in one compared table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_composes_and_says_what_it_asks(run, name: str):
    text = (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert text[0] == "# @package _global_"
    assert text[1].startswith("# ")
    done = run(f"experiment={name}", "--cfg=job", defaults=False)
    assert done.code == 0, done.err
    assert f"name: {name}" in done.out


@pytest.mark.slow
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
