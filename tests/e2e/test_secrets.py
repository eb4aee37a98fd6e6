"""What a resolver gives (``${oc.env:KEY}``) may be a secret: it stays where it is used, own runs included."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradsam_exp.classifiers.checkpoints import find_classifier
from tests.e2e.conftest import Finished

SECRET = "s3cret-0123456789"


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", SECRET)


def leaks(done: Finished) -> list[str]:
    """Where the secret can be read: files, and what was printed."""
    files = [path for path in done.folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    printed = [name for name in ("out", "err") if SECRET in getattr(done, name)]
    return [*map(str, files), *printed]


@pytest.fixture
def weights(random_weights: list[str], tmp_path: Path) -> str:
    """A classifier whose path holds the secret, as an override that does not."""
    given = find_classifier(random_weights[0].partition("=")[2]).path
    (tmp_path / SECRET).mkdir()
    (tmp_path / SECRET / "classifier.safetensors").write_bytes(given.read_bytes())
    return f"model.checkpoint={tmp_path}/${{oc.env:SECRET}}/classifier.safetensors"


@pytest.mark.slow
def test_a_run_that_uses_a_secret_keeps_it(run, weights: str):
    done = run(weights, "logger=wandb", "logger.images=1")
    assert done.code == 0, done.err
    assert leaks(done) == []
    assert list(done.folder.rglob("*.wandb"))
    report = run("task=report", f"runs={done.folder}/evaluate", weights)
    assert report.code == 0, report.err
    assert leaks(report) == []
    assert "${oc.env:SECRET}" in next(report.folder.rglob("report.html")).read_text()


@pytest.mark.slow
def test_a_sweep_that_uses_a_secret_keeps_it(run, weights: str):
    done = run("-m", "pipeline=fg,argmax", f"{weights}", "logger=wandb", "logger.images=0")
    assert done.code == 0, done.err
    assert leaks(done) == []
    (table,) = done.folder.rglob("sweep.csv")
    assert "${oc.env:SECRET}" in table.read_text(), "as it was given"


@pytest.mark.parametrize("flags", [(), ("-m",)], ids=["run", "sweep"])
def test_an_error_names_the_variable_and_not_its_value(run, flags: tuple[str, ...]):
    choice = "selector=predicted_iou" + (",single" if flags else "")
    done = run(*flags, "pipeline=fgbg", choice, "pipeline.tie='a ${oc.env:SECRET}'")
    assert done.code == 1
    assert leaks(done) == []
    assert "a ${oc.env:SECRET}" in done.out + done.err
    assert all("${oc.env:SECRET}" in (folder / "metrics.json").read_text() for folder in done.runs)


def test_a_bug_that_says_a_secret_is_told_without(run, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError(f"cannot open http://host/{SECRET}")

    monkeypatch.setattr("gradsam_exp.prompts.foreground.Foreground.propose", broken)
    done = run("-m", "pipeline=fg", "model.checkpoint=${oc.env:SECRET},shipped:resnet18-shapes",
               "data.root=${oc.env:SECRET}")  # fmt: skip
    assert done.code == 1
    assert leaks(done) == []
