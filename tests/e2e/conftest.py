"""Run commands as a person would: in this process where it is about results, in a fresh one where it matters."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def runs(self) -> list[Path]:
        """Folders of single runs, or of a sweep's jobs."""
        return sorted(path.parent for path in self.folder.rglob("metrics.json"))


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that choose a classifier and a compact SAM with random weights."""
    import torch

    from gradsam_exp.classifiers.checkpoints import save_classifier
    from gradsam_exp.classifiers.classifier import ImageClassifier
    from gradsam_exp.data.shapes import SHAPES
    from gradsam_exp.segmenters.compact import build_compact
    from gradsam_exp.weights import save_weights

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    classifier = save_classifier(ImageClassifier("resnet18", SHAPES), folder / "classifier.safetensors")
    compact = save_weights(folder / "compact.safetensors", build_compact().state_dict(), {"kind": "compact"})
    return [f"model.checkpoint={classifier}", f"sam.checkpoint={compact}"]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], random_weights: list[str]
) -> Callable[..., Finished]:
    """``run("pipeline=fg")`` is ``python run.py pipeline=fg`` on eight images with random weights."""
    from gradsam_exp.engine.session import Session

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*overrides: str, defaults: bool = True) -> Finished:
        folder = tmp_path / "outputs"
        small = [f"output_root={folder}", *(["limit=8", "logger=none", *random_weights] if defaults else [])]
        given = {o.lstrip("+").partition("=")[0] for o in overrides}
        if defaults and "task" not in given:
            small.append("task.figures=false")  # drawing takes longer than everything else
        flags = [o for o in overrides if o.startswith("-")]
        plain = [o for o in overrides if not o.startswith("-")]
        arguments = flags + [o for o in small if o.partition("=")[0] not in given] + plain
        monkeypatch.setattr(sys, "argv", [str(ROOT / "run.py"), *arguments])
        GlobalHydra.instance().clear()
        monkeypatch.setattr("gradsam_exp.app.process.SESSION", Session())  # a fresh process has nothing to share
        capsys.readouterr()
        with monkeypatch.context() as patch:
            if "task.figures" not in given:
                patch.setattr("gradsam_exp.reports.sweep.write_curves", lambda *_: None)
            if not given & {"experiment", "hydra.mode"}:  # nothing else sets it, and Hydra would compose to see it
                patch.setattr(Hydra, "get_mode", lambda *_, **__: None)
            with pytest.raises(SystemExit) as end:
                runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
        printed = capsys.readouterr()
        return Finished(int(end.value.code or 0), printed.out, printed.err, folder)

    return call


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``python run.py …`` in a fresh process, outputs below the test's folder."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "run.py", *arguments, f"output_root={tmp_path / 'outputs'}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    return call


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A browser, the one that is installed."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("NO CHROMIUM HERE: pages were not tried in a browser (apt-get install chromium)")
    api = pytest.importorskip("playwright.sync_api", reason="NO PLAYWRIGHT: pages were not tried in a browser")
    with api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
