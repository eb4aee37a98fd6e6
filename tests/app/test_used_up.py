"""What is said of memory that is used up, wherever it was asked for."""

from __future__ import annotations

import pytest

from gradsam_exp.app.cli import run_program
from gradsam_exp.errors import InputError, OutOfMemory


def raising(error: Exception, cause: Exception | None = None):
    def job() -> None:
        raise error from cause

    return job


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (MemoryError("realloc of size 94208 failed"), None),
        (InputError("model.checkpoint=a is of another architecture"), RuntimeError("Cannot allocate memory (12)")),
        (OSError(12, "Cannot allocate memory"), None),
    ],
)
def test_memory_is_named_and_not_what_followed(error: Exception, cause, capsys: pytest.CaptureFixture[str]):
    assert run_program(raising(error, cause)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gradsam_exp: there is no memory left (")
    assert "architecture" not in line


def test_what_helps_in_a_stage_is_said_there(capsys: pytest.CaptureFixture[str]):
    error = OutOfMemory("encode: one image alone does not fit into memory; use smaller images")
    assert run_program(raising(error, MemoryError())) == 1
    assert capsys.readouterr().err == f"gradsam_exp: {error}\n"


def test_other_errors_are_what_they_are(capsys: pytest.CaptureFixture[str]):
    assert run_program(raising(InputError("limit=0: give at least 1"), ValueError("0"))) == 1
    assert capsys.readouterr().err == "gradsam_exp: limit=0: give at least 1\n"
    with pytest.raises(ValueError, match="unknown"):
        run_program(raising(ValueError("unknown")))
