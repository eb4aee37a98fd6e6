"""This package holds the shipped weights, and reads and writes the file format of all trained weights.

A weights file is safetensors, in half precision where that changes nothing that matters, with a JSON header that
says what it is. The digests of the shipped ones are in ``index.json`` and are checked on every load.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from gradsam_exp.errors import InputError, did_you_mean, first_line
from gradsam_exp.types import is_finite

FOLDER = Path(__file__).parent
"""Where the shipped weights lie."""
Shape = tuple[int, ...] | None


@dataclass(frozen=True)
class WeightsFile:
    """A weights file on disk has a path, a header that says what it is, and the SHA-256 of its bytes."""

    path: Path
    header: Mapping[str, Any]
    digest: str

    def tensors(self) -> dict[str, Tensor]:
        """Read all tensors, in single precision; `InputError` if the file is truncated or has NaN or infinity."""
        try:
            stored = load_file(self.path)
        except SafetensorError as error:
            raise InputError(f"{self.path} is damaged ({error}); replace it") from error
        require_finite(stored, str(self.path))
        return {name: value.float() if value.is_floating_point() else value for name, value in stored.items()}


def shipped(name: str) -> WeightsFile:
    """Find weights that come with the package; `InputError` for an unknown name or a file not as released."""
    index = json.loads((FOLDER / "index.json").read_text())
    if name not in index:
        raise InputError(f"no weights named {name!r} ship with gradsam_exp{did_you_mean(name, index)}")
    return open_weights(FOLDER / index[name]["file"], sha256=index[name]["sha256"])


def open_weights(path: str | Path, *, sha256: str | None = None, key: str = "checkpoint") -> WeightsFile:
    """Read a weights file's header; `InputError` if it is missing, damaged, not ours, or not of this digest."""
    path = Path(path).expanduser()
    digest = file_digest(path, sha256=sha256, key=key)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{key}={path} is not a whole safetensors file ({error}); replace it") from error
    if "gradsam_exp" not in metadata:
        raise InputError(
            f"{key}={path} was not written by gradsam_exp: its header does not say what it holds; "
            "give such weights together with their network, as model=timm, torchvision and module do"
        )
    try:
        header = json.loads(metadata["gradsam_exp"])
    except (ValueError, RecursionError) as error:
        raise InputError(f"{key}={path} is damaged: its header is no JSON; replace it") from error
    if not isinstance(header, dict):
        raise InputError(f"{key}={path} is damaged: its header says nothing of what it holds; replace it")
    return WeightsFile(path, header, digest)


def read_pickle(path: Path, what: str, *, key: str, mmap: bool = False) -> Any:
    """Read a PyTorch file as tensors and plain values only, without running any code in it.

    Raises `InputError`, with ``what`` it should be, if it is truncated or holds anything else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # of many kinds: the file says what is called with what
        raise InputError(f"{key}={path} is not a whole {what} ({first_line(error)})") from error


def file_digest(path: Path, *, sha256: str | None = None, key: str = "checkpoint") -> str:
    """Compute the SHA-256 of a file; `InputError` if it is missing, or this is not the expected one."""
    if not path.is_file():
        raise InputError(f"{key}={path} does not exist; give a file that does, or leave {key} at its default")
    state = path.stat()
    digest = _sha256(path, state.st_mtime_ns, state.st_size)
    if sha256 is not None and digest != sha256:
        raise InputError(
            f"{key}={path} fails its check: SHA-256 {digest[:12]}… instead of {sha256[:12]}…; "
            "it is damaged or another file: delete it and fetch it again"
        )
    return digest


@lru_cache(maxsize=16)
def _sha256(path: Path, modified: int, size: int) -> str:
    """Read an unchanged file once a process, since the jobs of a sweep ask again and again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shape_differences(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[tuple[str, Shape, Shape]]:
    """List by name the tensors of which two state dicts have different shapes; None stands for a missing one."""
    shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in (one, other)]
    pairs = [(name, shapes[0].get(name), shapes[1].get(name)) for name in sorted(one.keys() | other.keys())]
    return [(name, mine, theirs) for name, mine, theirs in pairs if mine != theirs]


def not_finite(state: Mapping[str, Tensor]) -> str | None:
    """Name the first tensor with a value that is NaN or infinite; None if all are finite."""
    return next((name for name, value in state.items() if not is_finite(value)), None)


def unnested(content: Any, keys: Sequence[str]) -> Any:
    """Go down to what lies below the first of ``keys`` that holds a mapping, as long as there is one."""
    while isinstance(content, Mapping):
        below = next((content[key] for key in keys if isinstance(content.get(key), Mapping)), None)
        if below is None:
            break
        content = below
    return content


def require_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raise `InputError`, with the ``source`` of the tensors, if one has a value that is NaN or infinite."""
    if name := not_finite(state):
        raise InputError(
            f"{source}: the weights in {name} are not all finite numbers, so that the network computes nothing; "
            "use another file, or train again with a lower task.learning_rate"
        )


def save_weights(
    path: Path, state: Mapping[str, Tensor], header: Mapping[str, Any], *, exact: bool = False
) -> Path:
    """Write tensors with their header; the file appears whole or not at all.

    Matrices and kernels are written in half precision if no value is above 65504 or moves by more than a
    thousandth of the tensor's largest; biases, scales and running statistics, which are few, in single precision.

    Args:
        exact: write all of them in single precision.
    """
    stored = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    for key, value in stored.items():
        if value.is_floating_point():
            stored[key] = value.float() if exact or value.ndim < 2 else _as_half_if_alike(value.float())
    partial = path.with_name(path.name + ".partial")
    save_file(stored, partial, metadata={"gradsam_exp": json.dumps(header)})
    partial.replace(path)
    return path


def _as_half_if_alike(value: Tensor) -> Tensor:
    half = value.half()
    error, largest = (half.float() - value).abs(), value.abs()
    return half if not value.numel() or error.max() <= 1e-3 * largest.max() else value
