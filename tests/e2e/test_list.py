"""What ``task=list`` says."""

from __future__ import annotations

import runpy

import pytest

from gradsam_exp.errors import InputError
from gradsam_exp.tasks.list import PICTURED, show
from tests.e2e.conftest import ROOT


def test_a_group_has_its_options_their_knobs_and_where_they_are_drawn(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    show(group="pipeline")
    said = capsys.readouterr().out
    for text in ("fgbg", "bg_threshold", str(ROOT / "docs/site/html/docs/site/generated/pipeline.html")):
        assert text in said
    show(group="logger")
    said = capsys.readouterr().out
    assert "mlflow" in said
    assert "picture" not in said


def test_the_groups_that_are_said_to_be_drawn_are_those_of_the_gallery(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs/site"))
    assert runpy.run_path(str(ROOT / "docs/site/pages.py"))["DRAWN"] == PICTURED


def test_a_group_that_is_not_known_is_named():
    with pytest.raises(InputError, match="pipelin"):
        show(group="pipelin")
