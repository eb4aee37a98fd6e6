"""What W&B shows of a training, and that an evaluation leads back to it."""

from __future__ import annotations

import json

import pytest

from gradsam_exp.classifiers.checkpoints import find_classifier
from gradsam_exp.engine.session import Job
from gradsam_exp.tracking import training
from tests.faults.counts import only_soaking
from tests.tracking.conftest import artifact, inspect, offline_runs, records
from tests.tracking.server import Server, closed_port

pytestmark = pytest.mark.slow
SMALL = ["task=train", "task.epochs=2", "background=noise", "data.lengths.train=128", "data.lengths.val=32"]
SMALL += ["data.lengths.test=32", "trainer.precision=32-true", "task.workers=0"]


def test_the_curve_the_accuracies_and_the_weights_are_shown(run):
    done = run(*SMALL, defaults=False)
    assert done.code == 0, done.err
    (weights,) = done.folder.rglob("classifier.safetensors")
    (offline,) = offline_runs(done.folder)
    assert f"W&B: wandb sync {offline}" in done.out
    found = inspect(offline)
    assert found["state"] == "finished"
    expected = {"epochs": 2, "learning_rate": 0.002, "model": "resnet18", "data": "shapes", "background": "noise"}
    assert expected.items() <= found["config"].items()
    accuracies = json.loads((weights.parent / "accuracy.json").read_text())
    assert found["summary"]["test_accuracy"] == pytest.approx(accuracies["test"]["overall"])
    assert found["summary"]["val_accuracy_star"] == pytest.approx(accuracies["val"]["classes"]["star"])
    curve = json.dumps(records(offline, "history"))
    assert curve.count("val/accuracy/star") == 2, "one point an epoch"
    digest = find_classifier(weights).digest
    assert found["config"]["classifier_digest"] == digest
    files = artifact(offline, f"classifier-{digest[:12]}")
    assert files == {"classifier.safetensors": weights.resolve()}, "not copied"


@only_soaking
def test_an_evaluation_leads_back_to_the_training(run, monkeypatch):
    """Offline first; the server is told later, and by then knows the same artifact from both."""
    run(*SMALL, "task.epochs=1", defaults=False)
    (train,) = (path for path in (run("limit=2").folder / "train").rglob("offline-run-*"))
    (weights,) = train.parents[1].glob("classifier.safetensors")
    done = run(f"model.checkpoint={weights}", "logger=wandb")
    assert done.code == 0, done.err
    (evaluation,) = offline_runs(done.folder / "evaluate")
    made, used = (
        next(a for a in records(path, "artifact") if a["type"] == "model") for path in (train, evaluation)
    )
    assert (made["name"], made["digest"]) == (used["name"], used["digest"])
    assert not made.get("use_after_commit")
    assert used["use_after_commit"] is True
    assert inspect(evaluation)["config"]["classifier_artifact"] == made["name"]
    server = Server()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert training.deliver(training.WandbSettings(), Job(evaluation.parents[1]), evaluation)
    assert "UseArtifact" in server.seen
    assert made["digest"] in {sent.get("digest") for sent in server.artifacts}
    server.close()


def test_the_shipped_weights_are_named_but_not_uploaded(run):
    done = run("logger=wandb", "limit=2", "model.checkpoint=shipped:resnet18-shapes")
    (offline,) = offline_runs(done.folder)
    digest = find_classifier("shipped:resnet18-shapes").digest
    assert inspect(offline)["config"]["classifier_artifact"] == f"classifier-{digest[:12]}"
    assert "model" not in {a["type"] for a in records(offline, "artifact")}


@only_soaking
def test_a_dead_server_costs_a_training_a_warning(run, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", closed_port())
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    done = run(*SMALL, "task.epochs=1", defaults=False)
    assert done.code == 0, done.err
    (line,) = (line for line in done.err.splitlines() if "W&B" in line)
    assert "cannot be reached" in line
    assert line.endswith(f"wandb sync {offline_runs(done.folder)[0]}")


def test_what_goes_wrong_in_wandb_does_not_end_a_training(run, monkeypatch):
    import wandb

    def broken(*_: object, **__: object) -> None:
        raise wandb.Error("no space left")

    monkeypatch.setattr(wandb.Run, "log", broken)
    done = run(*SMALL, "task.epochs=1", defaults=False)
    assert done.code == 0, done.err
    (line,) = (line for line in done.err.splitlines() if "W&B" in line)
    assert "no space left" in line
    assert list(done.folder.rglob("classifier.safetensors"))
