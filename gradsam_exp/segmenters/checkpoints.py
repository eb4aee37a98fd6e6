"""This module finds, checks and reads the weights of ``sam=compact|vit_b|vit_l|vit_h``.

Official checkpoints are looked for at an explicit path, then in the user cache, else downloaded with a
progress bar. Everything that can be wrong with a file is found before a model is built.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor

from gradsam_exp.errors import InputError
from gradsam_exp.segmenters.base import SEGMENTERS, Segmenter
from gradsam_exp.segmenters.compact import build_compact
from gradsam_exp.segmenters.sam import Precision, SamSegmenter
from gradsam_exp.segmenters.tta import Tta, augmented
from gradsam_exp.weights import WeightsFile, file_digest, open_weights, read_pickle, shape_differences, shipped

BASE_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
OFFICIAL = {
    "vit_b": ("sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    "vit_l": ("sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    "vit_h": ("sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
}
MakeSam = Callable[[], Sam]
ReadState = Callable[[], Mapping[str, Tensor]]
MaxQueries = Annotated[int, Field(ge=1)]


def compact_weights(checkpoint: str | Path | None, *, key: str) -> WeightsFile:
    """Open a weights file of ``task=train_sam``; None or ``shipped`` is the one that comes with the package.

    Raises `InputError`, naming ``key``, if the file is missing, damaged, or holds something else.
    """
    if checkpoint in {None, "shipped"}:
        return shipped("compact")
    file = open_weights(str(checkpoint), key=key)
    if file.header.get("kind") != "compact":
        raise InputError(
            f"{key}={file.path} holds a {file.header.get('kind')!r}, not a compact SAM; "
            "train one with task=train_sam"
        )
    return file


@SEGMENTERS.register("compact")
def compact(
    *,
    checkpoint: str | Path | None = None,
    max_queries: MaxQueries = 256,
    precision: Precision = "fp32",
    compile: bool = False,
    tta: Tta = 1,
) -> Segmenter:
    """Build the small SAM that ships with the package, or one trained by ``task=train_sam``.

    Args:
        checkpoint: a weights file of ``task=train_sam``; None is the shipped one.
        max_queries, precision, compile: see `SamSegmenter`.
        tta: see `Augmented`.
    """
    file = compact_weights(checkpoint, key="sam.checkpoint")
    read = partial(_read_checked, build_compact, file.tensors, file.path)
    return _segmenter(build_compact, read, file.digest, max_queries, precision, compile, tta)


def _official(name: str) -> None:
    @SEGMENTERS.register(name)
    def build(
        *,
        checkpoint: str | Path | None = None,
        url: str | None = None,
        sha256: str | None = None,
        max_queries: MaxQueries = 64,
        precision: Precision = "fp32",
        compile: bool = False,
        tta: Tta = 1,
    ) -> Segmenter:
        file, known_digest = OFFICIAL[name]
        if checkpoint is not None:
            path, expected = Path(checkpoint).expanduser(), sha256
        else:
            expected = sha256 or known_digest
            path = cached_or_downloaded(url or BASE_URL + file, file, expected)
        digest = file_digest(path, sha256=expected, key="sam.checkpoint")
        make: MakeSam = sam_model_registry[name]
        state = _read_checked(make, partial(read_state, path), path)
        return _segmenter(make, lambda: state, digest, max_queries, precision, compile, tta)

    build.__doc__ = f"""Build the official {name} model.

    Args:
        checkpoint: path of ``{OFFICIAL[name][0]}`` or of weights of the same architecture.
        url: where to download from if it is in neither place; None is the official address.
        sha256: expected digest; None is the official one for a download, and none for a given path.
        max_queries, precision, compile: see `SamSegmenter`.
        tta: see `Augmented`.
    """


for _name in OFFICIAL:
    _official(_name)


def _segmenter(
    make: MakeSam, read: ReadState, digest: str, max_queries: int, precision: Precision, compiled: bool, tta: Tta
) -> Segmenter:
    decoder, encoder = partial(load_decoder, make, read), partial(load_encoder, read)
    segmenter = SamSegmenter(
        decoder, digest, load_encoder=encoder, max_queries=max_queries, precision=precision, compiled=compiled
    )
    return augmented(segmenter, tta)


def load_segmenter(name: str = "compact", *, device: torch.device | str = "cpu", **parameters: Any) -> Segmenter:
    """Load a segmenter with its weights, by name: ``load_segmenter("vit_b", checkpoint="sam_vit_b_01ec64.pth")``.

    Raises `InputError`: unknown name or parameter, or weights that are missing or damaged.
    """
    segmenter = SEGMENTERS.build({"name": name, **parameters})
    segmenter.load(torch.device(device))
    return segmenter


def cached_or_downloaded(url: str, file: str, sha256: str) -> Path:
    """Find the checkpoint's path in the user cache; fetch it there first if need be, under a temporary name.

    Raises `InputError` if it cannot be downloaded or what arrives fails its digest.
    """
    import pooch  # noqa: PLC0415  (only who downloads needs it)

    cache = pooch.os_cache("gradsam_exp")
    try:
        return Path(pooch.retrieve(url, known_hash=f"sha256:{sha256}", fname=file, path=cache, progressbar=True))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"sam.checkpoint: {file} is not in {cache} and could not be downloaded from {url} ({reason}); "
            "fetch it elsewhere and give sam.checkpoint=PATH, or use sam=compact"
        ) from error


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a PyTorch state dict, memory-mapped and without running code in it; `InputError` if it is none."""
    state = read_pickle(path, "PyTorch state dict", key="sam.checkpoint", mmap=True)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"sam.checkpoint={path} holds no plain state dict of tensors")
    return state


def _read_checked(make: MakeSam, read: ReadState, path: Path) -> Mapping[str, Tensor]:
    """Read weights; `InputError` with the first tensor whose name or shape is not the model's."""
    state = read()
    with torch.device("meta"):
        different = shape_differences(state, make().state_dict())
    if different:
        name, given, wanted = different[0]
        raise InputError(
            f"sam.checkpoint={path} is of another architecture: {len(different)} tensors differ, such as {name} "
            f"with shape {given or 'missing'} instead of {wanted or 'none'}"
        )
    return state


def load_decoder(make: MakeSam, read: ReadState) -> Sam:
    """Make a model with the weights of its prompt encoder and mask decoder; its image encoder is empty."""
    state = read()
    with torch.device("meta"):
        model = make()
    for name in ("prompt_encoder", "mask_decoder"):
        model.get_submodule(name).load_state_dict(_part(state, name), assign=True)
    defaults = inspect.signature(Sam.__init__).parameters  # these two are in no checkpoint
    model.pixel_mean, model.pixel_std = (
        torch.tensor(defaults[name].default).view(-1, 1, 1) for name in ("pixel_mean", "pixel_std")
    )
    return model


def load_encoder(read: ReadState, model: Sam) -> None:
    """Give a model its image encoder's weights."""
    model.image_encoder.load_state_dict(_part(read(), "image_encoder"), assign=True)


def _part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Take the tensors below ``name``, in fp32 whatever the file has."""
    return {
        key.removeprefix(f"{name}."): value.float() if value.is_floating_point() else value
        for key, value in state.items()
        if key.startswith(f"{name}.")
    }
