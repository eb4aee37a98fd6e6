"""Two commands at once in one folder: one wins, the other is refused and leaves no trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filelock import FileLock

from gradsam_exp.app.alone import LOCK
from gradsam_exp.prompts.background import ForegroundBackground
from gradsam_exp.runs.folder import Run


@pytest.mark.parametrize(("flags", "key"), [((), "hydra.run.dir"), (("-m",), "hydra.sweep.dir")])
def test_the_second_in_one_folder_is_refused(run, tmp_path: Path, flags: tuple[str, ...], key: str):
    folder = tmp_path / "mine"
    folder.mkdir()
    with FileLock(folder / LOCK):
        done = run(*flags, "limit=4", f"{key}={folder}")
    assert done.code == 1
    assert done.err == (
        f"gradsam_exp: {key}={folder} is in use by another command, whose files would mix with these; "
        "give another folder\n"
    )
    assert [path.name for path in folder.rglob("*")] in ([LOCK], [])


def test_the_first_holds_its_folder_until_its_end(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """While it works, another process could not reserve the folder; afterwards nothing of the lock is left."""
    folder, held, propose = tmp_path / "mine", [], ForegroundBackground.propose

    def looking(self, ctx):
        held.append((folder / LOCK).exists())
        return propose(self, ctx)

    monkeypatch.setattr(ForegroundBackground, "propose", looking)
    for threshold in ("0.1", "0.2"):  # one after the other is no mixture: the second run replaces the first
        done = run("limit=4", "pipeline=fgbg", f"bg_threshold={threshold}", f"hydra.run.dir={folder}")
        assert done.code == 0, done.err
        assert not (folder / LOCK).exists()
        assert Run(folder).config["bg_threshold"] == float(threshold)
        assert json.loads((folder / "metrics.json").read_text())["status"] == "finished"
    assert held
    assert all(held)


def test_a_folder_is_free_again_after_an_error(run, tmp_path: Path):
    for _ in range(2):
        done = run("limit=4", "device=nonsense", f"hydra.run.dir={tmp_path / 'mine'}")
        assert done.code == 1
        assert "device=nonsense" in done.err
