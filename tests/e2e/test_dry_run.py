"""``dry_run=true``: what a run or a sweep would make, take and cost is said, and nothing is kept."""

from __future__ import annotations

import re
from pathlib import Path


def sizes(root: Path) -> float:
    """Megabytes of what the store keeps of images."""
    return sum(path.stat().st_size for path in root.rglob("*.safetensors")) / 1e6


def files(root: Path) -> set[Path]:
    return {path.relative_to(root) for path in root.rglob("*") if path.is_file()}


def foretold(out: str) -> float:
    found = re.search(r"the store would grow by ([\d.]+) MB; [\d.]+ GB are free: it fits", out)
    assert found, out
    return float(found[1])


def test_a_run_is_foretold_and_nothing_is_kept(run):
    done = run("dry_run=true")
    assert done.code == 0, done.err
    for kind in ("images", "heatmaps", "embeddings"):
        assert f"{kind}: 0 images in the store, 8 missing" in done.out
    assert re.search(r"about \d+ s on this machine as busy as it is now, from 8 images of each run", done.out)
    assert done.out.rstrip().endswith("dry_run=true: nothing was run or kept")
    assert not sizes(done.folder)
    assert not done.runs
    made = run()
    assert made.code == 0, made.err
    assert sizes(made.folder) > 1
    assert abs(foretold(done.out) - sizes(made.folder)) < 0.1 * sizes(made.folder)
    before = files(made.folder)
    again = run("dry_run=true")
    for kind in ("images", "heatmaps", "embeddings"):
        assert f"{kind}: 8 images in the store, 0 missing" in again.out
    assert foretold(again.out) == 0
    assert files(made.folder) == before


def test_the_different_runs_of_a_sweep_are_foretold_once(run):
    done = run("-m", "pipeline=fg,fgbg", "bg_threshold=0.1,0.2", "dry_run=true")
    assert done.code == 0, done.err
    assert "4 jobs, 3 different runs" in done.out
    assert "embeddings: 0 images in the store, 8 missing" in done.out
    assert done.out.count("nothing was run or kept") == 1
    assert not sizes(done.folder)
    assert not done.runs
