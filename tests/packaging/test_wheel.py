"""What is installed is whole: configurations, weights, templates, types, and a command that works anywhere."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from gradsam_exp import __version__
from tests.packaging.conftest import ROOT, Environment

pytestmark = pytest.mark.slow
FOUR_IMAGES = ("limit=4", "logger=none", "task.figures=false")


def test_the_wheel_holds_what_a_run_reads_and_nothing_else(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    for kind, folder, place in [
        ("*.yaml", "conf", "gradsam_exp/conf"),
        ("*.py", "gradsam_exp", "gradsam_exp"),
        ("*.py", "hydra_plugins", "hydra_plugins"),
        ("*.safetensors", "gradsam_exp/weights", "gradsam_exp/weights"),
        ("*.*", "gradsam_exp/reports/templates", "gradsam_exp/reports/templates"),
        ("*.*", "gradsam_exp/explorer/templates", "gradsam_exp/explorer/templates"),
    ]:
        files = [path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob(kind) if path.is_file()]
        assert files
        assert names >= {f"{place}/{file.as_posix()}" for file in files}
    assert names >= {"gradsam_exp/py.typed", "gradsam_exp/__init__.pyi", "gradsam_exp/weights/index.json"}
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert {name.partition("/")[0] for name in names} == {
        "gradsam_exp",
        "hydra_plugins",
        f"gradsam_exp-{__version__}.dist-info",
    }


def test_four_images_from_another_folder(environment: Environment, tmp_path: Path):
    done = environment.run("gradsam-exp", *FOUR_IMAGES, cwd=tmp_path)
    (run,) = (tmp_path / "outputs" / "evaluate").iterdir()
    assert json.loads((run / "metrics.json").read_text())["metrics"]["miou"]["n"] == 4
    assert "mIoU" in done.stdout
    code = environment.run("python", "-c", "import gradsam_exp; print(gradsam_exp.__file__)", cwd=tmp_path).stdout
    assert Path(code.strip()).is_relative_to(environment.bin.parent), "not this checkout's"


@pytest.mark.parametrize("command", [("gradsam-exp",), ("python", "-m", "gradsam_exp")])
def test_the_program_knows_its_version_and_ends_with_its_code(
    environment: Environment, tmp_path: Path, command: tuple[str, ...]
):
    assert environment.run(*command, "--version", cwd=tmp_path).stdout == f"gradsam_exp {__version__}\n"
    done = environment.run(*command, "pipeline=fgb", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("gradsam_exp: pipeline='fgb' is not known; did you mean 'fgbg'?")
