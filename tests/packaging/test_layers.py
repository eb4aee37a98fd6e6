"""The rooms are where the map says, and nobody reaches up."""

from __future__ import annotations

from importlinter.cli import lint_imports

from tests.packaging.conftest import ROOT


def test_imports_point_down_and_make_no_circle(capsys, monkeypatch):
    monkeypatch.setattr("logging.config.dictConfig", lambda _: None)  # it would silence every other test's loggers
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0, capsys.readouterr().out


def test_few_modules_stand_outside_of_the_rooms():
    assert len(list((ROOT / "gradsam_exp").glob("*.py"))) <= 10
