"""``task=doctor`` says what is here and what is missing, tries the chain, and tells no secret."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gradsam_exp.prompts.background import ForegroundBackground
from tests.e2e.conftest import ROOT

SECTIONS = ["versions", "machine", "environment", "folders", "weights", "missing", "self-test"]


def test_it_says_what_a_bug_report_needs(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "s3cret-0123456789")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = run("task=doctor", "task.images=4", "explainer.target_layers=[layer4.-1]")  # which has no kink
    assert done.code == 0, done.err
    (path,) = done.folder.rglob("doctor.md")
    text = path.read_text()
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == SECTIONS
    assert f"torch {torch.__version__.partition('+')[0]}" in text
    assert "- WANDB_API_KEY: set" in text
    assert "s3cret" not in text + done.out + done.err
    assert str(tmp_path) not in text
    assert "- mIoU: 0." in text
    assert "4 examples, twice" in text
    largest = text.split("with another batch size: ")[1].split()[0]
    assert float(largest) <= 1e-4, text
    assert not (done.folder / ".store").exists(), "the self-test leaves nothing in the store"
    assert done.out.startswith(text[:200])


def test_a_chain_that_fails_is_said_at_the_end(run, monkeypatch: pytest.MonkeyPatch):
    def broken(self, ctx):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(ForegroundBackground, "propose", broken)
    done = run("task=doctor", "pipeline=fgbg")
    assert done.code == 1
    assert done.err.strip().startswith("gradsam_exp: the self-test has failed, RuntimeError: broken on purpose")
    assert "## missing" in done.out
    assert list(done.folder.rglob("error.txt"))


def test_the_template_of_a_bug_report_asks_for_it():
    assert "task=doctor" in (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.md").read_text()
