"""These functions find models and weights of other packages, in folders, caches and on hubs."""

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from gradsam_exp.errors import InputError, first_line
from gradsam_exp.weights.transfer import LIMITS, DownloadLimits, fetch_weights


def needed(package: str, extra: str) -> Any:
    """Import an optional package.

    Raises:
        InputError: it is not installed; says which extra brings it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise InputError(
            f'this needs the package {package}, which is not installed: pip install "gradsam_exp[{extra}]"'
        ) from error


def find_folder(id: str, patterns: Sequence[str], *, key: str, instead: str, revision: str | None = None) -> Path:
    """Find a model's folder: a local one, or the hub's in its cache, into which files are downloaded if need be.

    Args:
        id: a folder, or the name of a model on the hub.
        patterns: of the files that are needed from the hub.
        key: the config key that ``id`` comes from, named in errors.
        instead: what can be used without any download, named in errors.
        revision: of the hub's model: a branch, tag or commit.

    Raises:
        InputError: it is in neither place and cannot be downloaded.
    """
    if Path(id).expanduser().is_dir():
        return Path(id).expanduser()
    if id.startswith((".", "/", "~")) or id.count("/") > 1:
        raise InputError(f"{key}={id} is not a folder")
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (slow to import)
    from huggingface_hub.errors import GatedRepoError  # noqa: PLC0415

    try:
        return Path(snapshot_download(id, revision=revision, allow_patterns=list(patterns)))
    except GatedRepoError as error:
        raise InputError(
            f"{key}={id} is gated: accept its licence at https://huggingface.co/{id}, then run hf auth login"
        ) from error
    except Exception as error:  # of many kinds
        raise InputError(
            f"{key}={id} is no folder, is not in the hub's cache and could not be downloaded "
            f"({first_line(error)}); fetch it elsewhere and give its folder, or use {instead}"
        ) from error


def load_pretrained(kind: Any, folder: Path, place: str) -> tuple[Any, list[str]]:
    """Load a model of transformers in float32; returns it and the names of tensors that the weights do not fill.

    Args:
        kind: its class in transformers, or one of the ``Auto`` classes.
        place: what names the weights in errors.

    Raises:
        InputError: the weights cannot be read.
    """
    try:
        model, found = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise InputError(f"the weights of {place} cannot be read ({first_line(error)})") from error
    return model, sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]]))


def hub_file(url: str, limits: DownloadLimits = LIMITS) -> Path:
    """Find torchvision's or timm's weights in torch's hub cache, or download them there, with their hash.

    Raises:
        InputError: they are not there and cannot be downloaded.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    starts = re.search(r"-([0-9a-f]{8,})$", path.stem)
    try:
        return fetch_weights(url, path, starts="" if starts is None else starts[1], limits=limits)
    except (OSError, ValueError) as error:
        raise InputError(
            f"model: {path.name} is not in {path.parent} and could not be downloaded from {url} "
            f"({first_line(error)}); fetch it elsewhere and put it there, or give model.checkpoint=PATH"
        ) from error
