"""What the README says is what happens."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
import torch

from gradsam_exp.metrics.base import build_metrics

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
STUDY = (ROOT / "docs" / "background-points.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


COMMANDS = [
    line.removeprefix("python run.py ")
    for block in blocks("bash") + blocks("bash", STUDY)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("python run.py ")
]


def test_the_library_example(capsys):
    example, *_ = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    name, value = capsys.readouterr().out.split()
    assert name == "mIoU"
    assert float(value) > 0.7


def test_the_plug_in_example(batch, monkeypatch):
    import gradsam_exp as gs

    monkeypatch.setattr(gs.STRATEGIES, "_factories", dict(gs.STRATEGIES._factories))  # forget it afterwards

    _, example, _ = blocks("python")
    exec(compile(example, "README.md", "exec"), {"__name__": "hottest"})
    (yaml,) = blocks("yaml")
    name = yaml.splitlines()[1].removeprefix("name: ")
    heatmaps = gs.GradCAM(gs.find_classifier("shipped:resnet18-shapes").load(), ["layer2.-1"])(batch.images)
    prompts = gs.STRATEGIES.build({"name": name}).propose(
        gs.PromptContext(batch.images, heatmaps, batch.image_ids)
    )
    for image in range(len(batch)):
        ((x, y),) = prompts.points[image].long().tolist()
        assert heatmaps.values[image, y, x] == 1


def test_the_metric_example(monkeypatch):
    import gradsam_exp as gs

    monkeypatch.setattr(gs.METRICS, "_factories", dict(gs.METRICS._factories))  # forget it afterwards

    *_, example = blocks("python")
    exec(compile(example, "README.md", "exec"), {"__name__": "leak"})
    (metric,) = build_metrics({"leak": True})
    masks, truth = torch.zeros(2, 2, 2, dtype=torch.bool), torch.zeros(2, 2, 2, dtype=torch.bool)
    masks[0] = truth[0, 0] = True
    metric.update(masks, truth)
    assert metric.per_example().nan_to_num(-1).tolist() == [0.5, -1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(run, command: str):
    """Of a sweep, the first job."""
    arguments = shlex.split(os.path.expandvars(command), comments=True)
    if "-m" in arguments:
        arguments.remove("-m")
        arguments = [a if "[" in a else a.replace("interval(", "").split(",")[0] for a in arguments]
    if "--cfg" not in arguments:
        arguments.append("--cfg=job")
    done = run(*arguments, defaults=False)
    assert done.code == 0, done.err


def test_links_lead_somewhere():
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in t]
    assert targets
    assert [t for t in targets if not (ROOT / t).exists()] == []
