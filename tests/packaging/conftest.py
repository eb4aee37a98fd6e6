"""Build the package and install it into an environment of its own, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def started(command: Sequence[str | Path], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)


def succeeded(command: Sequence[str | Path], **options: object) -> str:
    done = started(command, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Environment:
    """An environment that holds the built package, and sees the packages it needs in the present one."""

    bin: Path

    def run(
        self, *command: str, cwd: Path, path: Path | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """A command of the environment, started from ``cwd``; ``path`` holds further packages."""
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        variables |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | ({"PYTHONPATH": str(path)} if path else {})
        done = started([self.bin / command[0], *command[1:]], cwd=cwd, env=variables)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    succeeded([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("environment") / "venv"
    succeeded([sys.executable, "-m", "venv", "--without-pip", folder])
    python = folder / "bin" / "python"
    here = Path(succeeded([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    # A plain path: the .pth files that lie there, such as an editable install's of this checkout, do not count.
    (here / "beneath.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    succeeded([*pip, "install", "--no-deps", "--no-index", "--force-reinstall", wheel])
    return Environment(python.parent)


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds ``examples/plugin``, installed."""
    return install_plugin(tmp_path_factory.mktemp("plugin"))


def install_plugin(folder: Path) -> Path:
    """Installs ``examples/plugin`` into a folder, which it returns."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index"]
    succeeded([*pip, "--no-build-isolation", "--target", folder, ROOT / "examples" / "plugin"])
    return folder
