"""Files that belong to a run: its results, the weights it made, the weights it used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradsam_exp.runs.folder import Run

if TYPE_CHECKING:
    import wandb


def results_artifact(run: Run, identity: str) -> wandb.Artifact:
    """A finished run's tables, metrics, provenance and composed configuration; equal runs have equal names."""
    import wandb  # noqa: PLC0415

    artifact = wandb.Artifact(f"results-{identity[:12]}", type="results", metadata={"identity": identity})
    for name, path in run.results().items():
        artifact.add_file(str(path), name, skip_cache=True)
    return artifact


def weights_name(digest: str) -> str:
    """Of the artifact that holds the classifier with this SHA-256."""
    return f"classifier-{digest[:12]}"


def weights_artifact(path: Path, digest: str, **facts: Any) -> wandb.Artifact:
    """A classifier's weights.

    The file is not copied: it is read from where it lies when the run is uploaded.
    """
    import wandb  # noqa: PLC0415

    artifact = wandb.Artifact(weights_name(digest), type="model", metadata={"sha256": digest, **facts})
    artifact.add_file(str(path.resolve()), path.name, policy="immutable", skip_cache=True)
    return artifact


def use_weights(run: wandb.Run, path: Path, digest: str) -> bool:
    """Say that a run uses weights which ``task=train`` has made; whether it could be said.

    ``Run.use_artifact`` refuses to work offline, but what it does with an artifact that is not yet uploaded
    works: the log says "make it and use it", and the server recognises by the content that it is what the
    training has made, in whichever order the two are uploaded.
    """
    use = getattr(run, "_log_artifact", None)
    if use is None or not _was_trained_here(path):
        return False
    use(weights_artifact(path, digest), is_user_created=False, use_after_commit=True)
    return True


def _was_trained_here(path: Path) -> bool:
    return path.name == "classifier.safetensors" and (path.parent / "accuracy.json").is_file()


def described(digests: Mapping[str, str]) -> dict[str, Any]:
    """For a run's configuration: digests of data and weights, and the name of the classifier's artifact."""
    named = {f"{what}_digest": digest for what, digest in digests.items()}
    return {**named, "classifier_artifact": weights_name(digests["classifier"])}
