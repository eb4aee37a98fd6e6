"""This module makes W&B's artifacts of a run's files: its results, and the weights that it made or used."""

from pathlib import Path
from typing import Any

import wandb

from gradsam_exp.runs.folder import Run
from gradsam_exp.tracking.content import weights_name


def results_artifact(run: Run, identity: str) -> wandb.Artifact:
    """Collect a finished run's tables, metrics, provenance and configuration; equal runs have equal names."""
    artifact = wandb.Artifact(f"results-{identity[:12]}", type="results", metadata={"identity": identity})
    for name, path in run.results().items():
        artifact.add_file(str(path), name, skip_cache=True)
    return artifact


def weights_artifact(path: Path, digest: str, **facts: Any) -> wandb.Artifact:
    """Describe a classifier's weights; the file is read from where it lies when the run is uploaded."""
    artifact = wandb.Artifact(weights_name(digest), type="model", metadata={"sha256": digest, **facts})
    artifact.add_file(str(path.resolve()), path.name, policy="immutable", skip_cache=True)
    return artifact


def use_weights(run: wandb.Run, path: Path, digest: str) -> None:
    """Say that a run uses weights, if ``task=train`` has made them here.

    ``Run.use_artifact`` refuses to work offline, but what it does with an artifact that is not yet uploaded
    works: the log says "make it and use it", and the server recognises by the content that it is what the
    training has made, in whichever order the two are uploaded.
    """
    use = getattr(run, "_log_artifact", None)
    trained_here = path.name == "classifier.safetensors" and (path.parent / "accuracy.json").is_file()
    if use is not None and trained_here:
        use(weights_artifact(path, digest), is_user_created=False, use_after_commit=True)
