"""This module finds, checks and reads the weights of ``sam=compact|vit_b|vit_l|vit_h|mobile_sam``.

Official checkpoints are looked for at an explicit path, then in the user cache, else downloaded with a
progress bar. Everything that can be wrong with a file is found before a model is built.
"""

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor

from gradsam_exp.digest import digest
from gradsam_exp.errors import InputError, first_line
from gradsam_exp.segmenters.base import SEGMENTERS, Segmenter
from gradsam_exp.segmenters.batched import Coordinates, MaxQueries, Precision
from gradsam_exp.segmenters.compact import build_compact
from gradsam_exp.segmenters.compact_lite import LiteEncoder, build_compact_lite
from gradsam_exp.segmenters.mobile import build_mobile_sam
from gradsam_exp.segmenters.sam import SamSegmenter
from gradsam_exp.segmenters.tta import Tta, augmented
from gradsam_exp.weights import (
    Shape,
    WeightsFile,
    file_digest,
    open_weights,
    read_pickle,
    shape_differences,
    shipped,
    unnested,
)
from gradsam_exp.weights.transfer import LIMITS, DownloadLimits, fetch_weights

MakeSam = Callable[[], Sam]
ReadState = Callable[[], Mapping[str, Tensor]]
_META = "https://dl.fbaipublicfiles.com/segment_anything/"
_NESTS = ("model", "state_dict", "model_state_dict")
_PREFIXES = ("module.", "sam.", "model.")


@dataclass(frozen=True)
class Official:
    """An official model has an architecture and a checkpoint that can be downloaded.

    Attributes:
        url: where the checkpoint lies.
        sha256: its digest; None if it is not known.
        make: builds the architecture.
    """

    url: str
    sha256: str | None
    make: MakeSam

    @property
    def file(self) -> str:
        """Return the checkpoint's file name."""
        return self.url.rpartition("/")[2]


OFFICIAL = {
    "vit_b": Official(
        f"{_META}sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        sam_model_registry["vit_b"],
    ),
    "vit_l": Official(
        f"{_META}sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        sam_model_registry["vit_l"],
    ),
    "vit_h": Official(
        f"{_META}sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        sam_model_registry["vit_h"],
    ),
    "mobile_sam": Official(
        "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt", None, build_mobile_sam
    ),
}


def compact_weights(checkpoint: str | Path | None, *, key: str) -> WeightsFile:
    """Open a weights file of ``task=train_sam``; None or ``shipped`` is ``sam=compact``'s, that of the package.

    ``shipped:compact_drawn`` is another of the package's.

    Raises `InputError`, naming ``key``, if the file is missing, damaged, or holds something else.
    """
    if checkpoint in {None, "shipped"}:
        return shipped("compact")
    place, _, name = str(checkpoint).partition(":")
    file = shipped(name) if place == "shipped" else open_weights(str(checkpoint), key=key)
    if file.header.get("kind") != "compact":
        raise InputError(
            f"{key}={file.path} holds a {file.header.get('kind')!r}, not a compact SAM; "
            "train one with task=train_sam"
        )
    return file


ARCHITECTURES: Mapping[str, MakeSam] = {"vit": build_compact, "lite0": build_compact_lite}
"""The architectures of compact SAM, by the name in a weights file's header; ``vit`` where it says none."""


def compact_architecture(file: WeightsFile) -> MakeSam:
    """Return what builds the architecture of a weights file; `InputError` for one that is not known."""
    name = file.header.get("architecture", "vit")
    if name not in ARCHITECTURES:
        raise InputError(f"{file.path} is of the architecture {name!r}, which this version does not know")
    return ARCHITECTURES[name]


def _compact(name: str, text: str) -> None:
    @SEGMENTERS.register(name)
    def build(
        *,
        checkpoint: str | Path | None = None,
        max_queries: MaxQueries = 256,
        precision: Precision = "fp32",
        compile: bool = False,
        coordinates: Coordinates = "centres",
        tta: Tta = 1,
    ) -> Segmenter:
        file = shipped(name) if checkpoint is None else compact_weights(checkpoint, key="sam.checkpoint")
        make = compact_architecture(file)
        read = partial(_checked, make, file.tensors, file.path)
        return _segmenter(make, read, file.digest, max_queries, precision, compile, coordinates, tta)

    build.__doc__ = f"""{text}

    Args:
        checkpoint: a weights file of ``task=train_sam``; None is the shipped one.
        max_queries, precision, compile, coordinates: see `SamSegmenter`.
        tta: see `Augmented`.
    """


_compact("compact", "Build the small SAM that ships with the package, or one trained by ``task=train_sam``.")
_compact("compact_drawn", "Build compact SAM as it was before photographs: trained on drawn scenes alone.")


def _official(name: str, official: Official) -> None:
    @SEGMENTERS.register(name)
    def build(
        *,
        checkpoint: str | Path | None = None,
        base: str | Path | None = None,
        url: str | None = None,
        sha256: str | None = None,
        download: DownloadLimits = LIMITS,
        max_queries: MaxQueries = 64,
        precision: Precision = "fp32",
        compile: bool = False,
        coordinates: Coordinates = "centres",
        tta: Tta = 1,
    ) -> Segmenter:
        with torch.device("meta"):
            official.make()  # whether its package is there is known before anything is downloaded
        if checkpoint is not None:
            path, expected = Path(checkpoint).expanduser(), sha256
        else:
            expected = sha256 or official.sha256
            path = cached_or_downloaded(url or official.url, official.file, expected, download)
        content = file_digest(path, sha256=expected, key="sam.checkpoint")
        state: Mapping[str, Tensor] = read_state(path)
        if base is not None:
            below = Path(base).expanduser()
            content = digest([content, file_digest(below, key="sam.base")], size=32)
            state = {**read_state(below, key="sam.base"), **state}
        state = _checked(official.make, lambda: state, path)
        return _segmenter(official.make, lambda: state, content, max_queries, precision, compile, coordinates, tta)

    build.__doc__ = f"""Build the official {name} model.

    Args:
        checkpoint: path of ``{official.file}`` or of weights of the same architecture, also fine-tuned ones, see
            `read_state`.
        base: path of a whole checkpoint that ``checkpoint`` holds a part of, such as the mask decoder.
        url: where to download from if it is in neither place; None is the official address.
        sha256: expected digest; None is the official one for a download, and none for a given path.
        download: when a download is given up.
        max_queries, precision, compile, coordinates: see `SamSegmenter`.
        tta: see `Augmented`.
    """


for _name, _one in OFFICIAL.items():
    _official(_name, _one)


def _segmenter(
    make: MakeSam,
    read: ReadState,
    digest: str,
    max_queries: int,
    precision: Precision,
    compiled: bool,
    coordinates: Coordinates,
    tta: Tta,
) -> Segmenter:
    segmenter = SamSegmenter(
        partial(load_decoder, make, read),
        digest,
        load_encoder=partial(load_encoder, read),
        max_queries=max_queries,
        precision=precision,
        compiled=compiled,
        coordinates=coordinates,
    )
    return augmented(segmenter, tta)


def load_segmenter(name: str = "compact", *, device: torch.device | str = "cpu", **parameters: Any) -> Segmenter:
    """Load a segmenter with its weights, by name: ``load_segmenter("vit_b", checkpoint="sam_vit_b_01ec64.pth")``.

    Raises `InputError`: unknown name or parameter, or weights that are missing or damaged.
    """
    segmenter = SEGMENTERS.build({"name": name, **parameters})
    segmenter.load(torch.device(device))
    return segmenter


def cache_folder() -> Path:
    """Return the folder in the user's cache where downloaded checkpoints lie."""
    import pooch  # noqa: PLC0415  (only who downloads needs it)

    return Path(pooch.os_cache("gradsam_exp"))


def cached_or_downloaded(url: str, file: str, sha256: str | None, limits: DownloadLimits = LIMITS) -> Path:
    """Find the checkpoint's path in the user cache; fetch it there first if need be, under a temporary name.

    Raises `InputError` if it cannot be downloaded or what arrives fails its digest.
    """
    cache = cache_folder()
    try:
        return fetch_weights(url, cache / file, digest=sha256, limits=limits)
    except (OSError, ValueError) as error:
        raise InputError(
            f"sam.checkpoint: {file} is not in {cache} and could not be downloaded from {url} "
            f"({first_line(error)}); "
            "fetch it elsewhere and give sam.checkpoint=PATH, or use sam=compact"
        ) from error


def read_state(path: Path, *, key: str = "sam.checkpoint") -> dict[str, Tensor]:
    """Read a SAM's state dict from a PyTorch file, memory-mapped and without running code in it.

    It may lie under ``model``, ``state_dict`` or ``model_state_dict``, and its names may start with ``module.``,
    ``sam.`` or ``model.``; those of a mask decoder alone may lack ``mask_decoder.``.

    Raises:
        InputError: if it is none.
    """
    state = unnested(read_pickle(path, "PyTorch state dict", key=key, mmap=True), _NESTS)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{key}={path} holds no plain state dict of tensors, also not under {', '.join(_NESTS)}")
    while prefix := next((one for one in _PREFIXES if state and all(name.startswith(one) for name in state)), ""):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    if "mask_tokens.weight" in state:
        state = {f"mask_decoder.{name}": value for name, value in state.items()}
    return state


def _checked(make: MakeSam, read: ReadState, path: Path) -> Mapping[str, Tensor]:
    """Read weights; `InputError` with the first tensor whose name or shape is not the model's."""
    state = read()
    different = _differences(state, make)
    if not different:
        return state
    if not any(name.startswith("image_encoder.") for name in state) and all(
        given is None for _, given, _ in different
    ):
        raise InputError(
            f"sam.checkpoint={path} holds no image encoder: give sam.base=PATH, the checkpoint it was trained from"
        )
    name, given, wanted = different[0]
    raise InputError(
        f"sam.checkpoint={path} is of another architecture: {len(different)} tensors differ, such as {name} "
        f"with shape {given or 'missing'} instead of {wanted or 'none'}{_nearest(state, len(different))}"
    )


def _nearest(state: Mapping[str, Tensor], least: int) -> str:
    """Word the end of an error: the official architecture from which fewer than ``least`` tensors differ."""
    nearest = ""
    for name, official in OFFICIAL.items():
        with suppress(InputError):  # its package is not installed
            count = len(_differences(state, official.make))
            if count < least:
                least, nearest = count, name
    if not nearest:
        return ""
    return (
        f"; nearest is sam={nearest}, of which {least} differ"
        if least
        else f"; it is a {nearest}: use sam={nearest}"
    )


def _differences(state: Mapping[str, Tensor], make: MakeSam) -> list[tuple[str, Shape, Shape]]:
    with torch.device("meta"):
        return shape_differences(state, make().state_dict())


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
    if isinstance(model.image_encoder, LiteEncoder):
        model.image_encoder.fuse()


def _part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Take the tensors below ``name``, in fp32 whatever the file has."""
    return {
        key.removeprefix(f"{name}."): value.float() if value.is_floating_point() else value
        for key, value in state.items()
        if key.startswith(f"{name}.")
    }
