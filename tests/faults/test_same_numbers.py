"""The same seed gives the same tables, whatever the batches, threads, launcher and order of the jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from gradsam_exp.runs.folder import Run
from tests.faults.counts import SOAKING, only_soaking

pytestmark = only_soaking

# Behind layer4 there is only the mean and a linear layer: a ReLU that rounding turns would show in the heatmap.
SWEEP = ("-m", "limit=12", "explainer=gradcam++", "explainer.target_layers=[layer4.-1]")
JOBS = ("pipeline=fgbg,adaptive", "bg_threshold=0.1,0.2")
OTHER_ORDER = ("bg_threshold=0.2,0.1", "pipeline=adaptive,fgbg")
VARIANTS = {
    "batches": (*JOBS, "batch_size=5"),
    "one by one": (*JOBS, "batch_size=1"),
    "order": OTHER_ORDER,
    "no store": (*JOBS, "store.enabled=false"),
    "threads": JOBS,
    "joblib": (*JOBS, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
}


@pytest.fixture
def threads() -> Iterator[None]:
    """Another number of threads, and the old one again."""
    before = torch.get_num_threads()
    torch.set_num_threads(before + 2)
    yield
    torch.set_num_threads(before)


def tables(folder: Path) -> dict[tuple[str, str], pd.DataFrame]:
    """The tables of a sweep's jobs by what they were given."""
    runs = [Run(path.parent) for path in folder.rglob("metrics.json")]
    return {(run.given["pipeline"], run.given["bg_threshold"]): run.images.sort_index() for run in runs}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_tables_are_equal(run, name: str, tmp_path: Path, request: pytest.FixtureRequest):
    if name == "joblib" and not SOAKING:
        pytest.skip("minutes of CPU: make soak")
    right = run(*SWEEP, *JOBS, "name=right")
    if name == "threads":
        request.getfixturevalue("threads")
    other = run(*SWEEP, *VARIANTS[name], "name=other", f"store.root={tmp_path / 'another'}")
    assert (right.code, other.code) == (0, 0), other.err
    expected, found = tables(right.folder / "right"), tables(other.folder / "other")
    assert len(expected) == 4
    assert found.keys() == expected.keys()
    for job, table in expected.items():
        pd.testing.assert_frame_equal(found[job], table, rtol=1e-5, atol=1e-6, check_dtype=False, obj=str(job))
