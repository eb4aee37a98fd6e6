"""An explorer of eight drawn images, with the shipped weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest

from gradsam_exp.app.composing import HYDRA, prepare_hydra
from gradsam_exp.engine.session import Job
from gradsam_exp.explorer.views import Explorer


@pytest.fixture(scope="module")
def composing() -> Iterator[None]:
    """Hydra as it is inside a task."""
    with hydra.initialize_config_dir(str(prepare_hydra()), version_base=HYDRA):
        yield


@pytest.fixture(scope="module")
def explorer(composing: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explorer]:
    folder = tmp_path_factory.mktemp("explorer")
    found = Explorer(["task=explore", "limit=8", "logger=none", f"output_root={folder}"], Job(folder / "run"))
    yield found
    found.close()


def answered(work: Any) -> dict[str, Any]:
    """What work returns in the end."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            return done.value


def folder_of(explorer: Explorer) -> Path:
    return explorer.job.folder
