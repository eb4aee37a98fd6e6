"""The weights that ship: whole, small enough, and as good as their cards say (on fewer images)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import gradsam_exp
from gradsam_exp.weights import shipped

WEIGHTS = Path(gradsam_exp.__file__).parent / "weights"


def test_every_file_is_listed_whole_and_has_a_card():
    index = json.loads((WEIGHTS / "index.json").read_text())
    assert set(index) == {"compact", "resnet18-shapes"}
    assert {entry["file"] for entry in index.values()} == {path.name for path in WEIGHTS.glob("*.safetensors")}
    for name, limit_mb in (("compact", 12), ("resnet18-shapes", 25)):
        file = shipped(name)  # checks the digest
        assert file.path.stat().st_size < limit_mb * 2**20
        card = (WEIGHTS / f"{name}.md").read_text(encoding="utf-8")
        assert "## Training" in card
        assert "## Quality" in card


@pytest.mark.slow
def test_the_default_run_is_as_good_as_promised(run):
    done = run("logger=none", "limit=60", defaults=False)
    assert done.code == 0, done.err
    (folder,) = done.runs
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert metrics["accuracy"]["mean"] > 0.93
    assert metrics["fg_hit_rate"]["mean"] > 0.9
    assert metrics["distance_px"]["mean"] < 3.6
    assert metrics["miou"]["mean"] > 0.82
