"""These functions save and find what ``task=train`` makes: weights files, Lightning checkpoints, shipped ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from gradsam_exp.classifiers.base import CLASSIFIERS
from gradsam_exp.classifiers.classifier import ImageClassifier, backbone_name, without_weights
from gradsam_exp.errors import InputError, harmless
from gradsam_exp.weights import file_digest, open_weights, read_pickle, require_finite, save_weights, shipped
from gradsam_exp.weights.transfer import LIMITS, DownloadLimits

HINT = (
    "weights of another program need a network and class names: "
    "model=torchvision|timm|module model.name=… model.checkpoint=PATH model.names=FILE"
)
_read_lightning = partial(read_pickle, what="Lightning checkpoint", key="model.checkpoint")


@dataclass(frozen=True)
class ClassifierFile:
    """A classifier file describes a classifier on disk and reads its weights when they are needed.

    Attributes:
        path: the file.
        hyper_parameters: arguments of `ImageClassifier`.
        digest: SHA-256 of the file.
    """

    path: Path
    hyper_parameters: Mapping[str, Any]
    digest: str

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name what the outputs mean, in order."""
        return tuple(map(harmless, self.hyper_parameters["class_names"]))

    def check_ready(self) -> None:
        """Do nothing: a file has weights and names."""

    @property
    def backbone(self) -> str:
        """Return the network's name."""
        return backbone_name(self.hyper_parameters["backbone"])

    @property
    def size(self) -> tuple[int, int] | None:
        """Return ``(height, width)`` px to which images are resized; None keeps their own."""
        size = (self.hyper_parameters.get("transform") or {}).get("size")
        return None if size is None else (int(size[0]), int(size[1]))

    def skeleton(self) -> ImageClassifier:
        """Build the classifier with random weights."""
        return ImageClassifier(**self.hyper_parameters)

    def outline(self) -> ImageClassifier:
        """Build the classifier without any weights, its network in eval mode: to look up layers."""
        model = without_weights(self.skeleton)
        model.backbone.eval()
        return model

    def load(self) -> ImageClassifier:
        """Build the classifier with its weights, in eval mode.

        Raises:
            InputError: if the weights do not belong to the architecture that the file names.
        """
        model = self.skeleton()
        try:
            model.backbone.load_state_dict(self._tensors())
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise InputError(f"model.checkpoint={self.path} is of another architecture: {reason[:200]}") from error
        return model.eval().requires_grad_(False)

    def _tensors(self) -> dict[str, Tensor]:
        if self.path.suffix == ".ckpt":
            state = _read_lightning(self.path)["state_dict"]
            require_finite(state, f"model.checkpoint={self.path}")
            return {key.removeprefix("backbone."): v for key, v in state.items() if key.startswith("backbone.")}
        return open_weights(self.path, key="model.checkpoint").tensors()


def find_classifier(checkpoint: str | Path, *, key: str = "model.checkpoint") -> ClassifierFile:
    """Describe the classifier in a file.

    Args:
        checkpoint: ``shipped:<name>``, a weights file (``.safetensors``) or a Lightning checkpoint (``.ckpt``).
        key: the config key it comes from, named in errors.

    Raises:
        InputError: missing, damaged, or not a classifier of gradsam_exp.
    """
    text = str(checkpoint)
    if text.startswith("shipped:"):
        file = shipped(text.removeprefix("shipped:"))
    elif text.endswith(".ckpt"):
        path = Path(text).expanduser()
        digest = file_digest(path, key=key)
        return ClassifierFile(path, _hyper_parameters(_read_lightning(path), path), digest)
    elif text.endswith(".safetensors"):
        file = open_weights(text, key=key)
    else:
        raise InputError(f"{key}={text} is no .safetensors or .ckpt file of task=train; {HINT}")
    if file.header.get("kind") != "classifier":
        raise InputError(f"{key}={file.path} holds a {file.header.get('kind')!r}, not a classifier")
    return ClassifierFile(file.path, file.header["hyper_parameters"], file.digest)


@CLASSIFIERS.register("checkpoint")
def from_checkpoint(
    checkpoint: str | None,
    *,
    backbone: str | None = None,
    size: tuple[int, int] | None = None,
    pretrained: bool = False,
    download: DownloadLimits = LIMITS,
) -> ClassifierFile:
    """Describe a classifier of ``task=train``, as ``model.source=checkpoint`` asks for it.

    Args:
        checkpoint: see `find_classifier`.
        backbone, size, pretrained, download: how ``task=train`` makes one; a file says itself what it holds.

    Raises:
        InputError: no file was given, or see `find_classifier`.
    """
    del backbone, size, pretrained, download
    if checkpoint is None:
        raise InputError(
            "model.checkpoint is null: train a classifier with task=train and give its classifier.safetensors"
        )
    return find_classifier(checkpoint)


def save_classifier(model: ImageClassifier, path: Path, *, exact: bool = False, **facts: Any) -> Path:
    """Save a classifier as a weights file, see `save_weights`; ``facts`` join its header."""
    header = {"kind": "classifier", "hyper_parameters": dict(model.hparams), **facts}
    return save_weights(path, model.backbone.state_dict(), header, exact=exact)


def _hyper_parameters(checkpoint: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    parameters = checkpoint.get("hyper_parameters")
    if not parameters or "class_names" not in parameters:
        raise InputError(f"model.checkpoint={path} does not say which classes it knows; {HINT}")
    return parameters
