"""Weights & Biases, offline: what the run holds is read back with W&B's own tool."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from gradsam_exp.tracking import has_api_key, run_name

WANDB = Path(sys.executable).with_name("wandb")


def inspect(run_folder: Path) -> dict:
    text = subprocess.run(
        [str(WANDB), "leet", "inspect", "--summary", "--json", str(run_folder)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return json.loads(text)


def flat(node: object, prefix: str = "") -> dict[str, object]:
    if isinstance(node, dict):
        return {k: v for key, value in node.items() for k, v in flat(value, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): node}


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.mark.slow
def test_an_offline_run_holds_config_summary_table_and_figure(run):
    done = run("pipeline=fgbg", "logger=wandb", "task.figures=true")
    assert done.code == 0, done.err
    (folder,) = done.runs
    (offline,) = (folder / "wandb").glob("offline-run-*")
    assert f"wandb sync {offline}" in done.out
    content = json.dumps(inspect(offline))
    metrics = json.loads((folder / "metrics.json").read_text())
    facts = flat(inspect(offline))
    summary = {k.rpartition("summary.")[2]: v for k, v in facts.items() if "summary" in k}
    assert any(
        k.endswith("miou") and v == pytest.approx(metrics["metrics"]["miou"]["mean"]) for k, v in summary.items()
    )
    for word in ("per_image", "figure1", "bg_threshold", metrics["identity"]):
        assert word in content


@pytest.mark.slow
def test_every_job_of_a_sweep_is_its_own_run_in_one_group(run):
    done = run("-m", "pipeline=fg,fgbg", "logger=wandb")
    assert done.code == 0, done.err
    offline = sorted(done.folder.rglob("offline-run-*"))
    assert len(offline) == 2
    assert len({path.name.rpartition("-")[2] for path in offline}) == 2
    contents = [json.dumps(inspect(path)) for path in offline]
    assert '"fg"' in contents[0]
    assert '"fgbg"' in contents[1]


def test_the_table_has_one_row_per_image(run):
    done = run("logger=wandb")
    (path,) = done.folder.rglob("per_image_*.table.json")
    table = json.loads(path.read_text())
    expected = pd.read_parquet(done.runs[0] / "per_image.parquet")
    assert table["columns"] == list(expected.columns)
    assert [row[0] for row in table["data"]] == expected["image_id"].tolist()


def test_nothing_is_written_outside_of_the_run(run, tmp_path: Path):
    run("logger=wandb")
    assert not (tmp_path / "home").exists() or not list((tmp_path / "home").rglob("*wandb*/artifacts"))


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["pipeline=fgbg", "bg_threshold=0.10", "grid_offset=1"], "fgbg·bg0.10·off1"),
        (["explainer=gradcam", "pipeline.tie=median"], "gradcam·tie=median"),
        (["task=evaluate", "logger.mode=offline", "device=cpu"], "evaluate"),
        (["seed=3"], "seed=3"),
        ([], "evaluate"),
    ],
)
def test_runs_are_named_after_what_was_varied(overrides: list[str], name: str):
    assert run_name(overrides, "evaluate") == name


def test_api_keys_are_found_where_wandb_looks(monkeypatch, tmp_path: Path):
    assert not has_api_key()
    (tmp_path / "netrc").write_text(
        "machine api.wandb.ai login user password 0123456789012345678901234567890123456789"
    )
    (tmp_path / "netrc").chmod(0o600)
    assert has_api_key()
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert has_api_key()
