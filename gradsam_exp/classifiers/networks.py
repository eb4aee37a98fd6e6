"""These functions build a classifier's network from a description that a file can hold, and give it weights."""

import sys
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from gradsam_exp.errors import InputError, did_you_mean, first_line, some
from gradsam_exp.types import logits_of
from gradsam_exp.weights import not_finite, read_pickle, shape_differences, unnested
from gradsam_exp.weights.hub import needed

Architecture = str | Mapping[str, Any]
"""What a network is built from: a torchvision name, or plain values, of which ``source`` names the package."""
NESTED = ("state_dict", "model_state_dict", "model", "network", "net", "module", "weights", "params")
"""Keys below which files keep a state dict."""


def build_network(architecture: Architecture, classes: int | None = None) -> nn.Module:
    """Build a network with random weights.

    Args:
        architecture: see `Architecture`.
        classes: the number of its outputs; None keeps the architecture's own.

    Raises:
        InputError: an unknown name, or a package that is not installed.
    """
    if isinstance(architecture, str):
        check_torchvision_name(architecture)
        own = {} if classes is None else {"num_classes": classes}
        return torchvision.models.get_model(architecture, weights=None, **own)
    described = dict(architecture)
    return _BUILDERS[described.pop("source")](classes, **described)


def check_torchvision_name(name: str) -> None:
    """Refuse, by an `InputError`, what is no classifier of torchvision."""
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise InputError(f"model.backbone={name!r} is not a torchvision classifier{did_you_mean(name, known)}")


def _of_timm(classes: int | None, name: str, arguments: Mapping[str, Any]) -> nn.Module:
    import timm  # noqa: PLC0415  (slow to import)

    if not timm.is_model(name.partition(".")[0]):
        known = timm.list_models()
        raise InputError(f"model.name={name!r} is not a classifier of timm{did_you_mean(name, known)}")
    own = {} if classes is None else {"num_classes": classes}
    try:
        return timm.create_model(name, pretrained=False, **{**arguments, **own})
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"model.name={name}: {first_line(error)}") from error


def _of_transformers(classes: int | None, config: Mapping[str, Any], id: str) -> nn.Module:
    del id  # which says where the configuration is from
    transformers = needed("transformers", "hf")
    own = dict(config)
    found = transformers.AutoConfig.for_model(own.pop("model_type"), **own)
    if classes is not None:
        found.num_labels = classes
    return transformers.AutoModelForImageClassification.from_config(found)


def _of_module(classes: int | None, target: str, arguments: Mapping[str, Any]) -> nn.Module:
    build = find_target(target)
    try:
        network = build(**arguments)
    except TypeError as error:
        raise InputError(f"model.target={target}: {first_line(error)}; give model.arguments") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"model.target={target} makes a {type(network).__name__}, not a torch.nn.Module")
    return network if classes is None else with_head(network, classes)


_BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    "timm": _of_timm,
    "hf": _of_transformers,
    "module": _of_module,
}


def find_target(target: str) -> Callable[..., Any]:
    """Import what ``package.module:name`` names; modules beside the working directory are found as well.

    Raises:
        InputError: it cannot be imported, or is nothing that can be called.
    """
    module, _, name = target.partition(":")
    if not name:
        module, _, name = target.rpartition(".")
    if not module or not name:
        raise InputError(f"model.target={target!r}: give package.module:name of a class or function")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever their module raises
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"model.target={target} cannot be imported ({reason})") from error
    if not callable(found):
        raise InputError(f"model.target={target} is a {type(found).__name__}; give a class or function")
    return found


def with_head(network: nn.Module, classes: int) -> nn.Module:
    """Give a network a new last layer with ``classes`` outputs; the rest keeps its weights.

    Raises:
        InputError: it has no linear layer.
    """
    reset: Any = getattr(network, "reset_classifier", None)  # timm's
    if reset is not None:
        reset(classes)
        return network
    heads = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not heads:
        raise InputError(f"{type(network).__name__} has no linear layer that could be replaced by a new one")
    path, head = heads[-1]
    parent, _, leaf = path.rpartition(".")
    setattr(network.get_submodule(parent), leaf, nn.Linear(head.in_features, classes, bias=head.bias is not None))
    config: Any = getattr(network, "config", None)  # of transformers
    if config is not None:
        config.num_labels = classes
    return network


def read_weights(path: Path, *, key: str = "model.checkpoint") -> dict[str, Tensor]:
    """Read a state dict, also one that lies below a key of a larger file, such as a Lightning checkpoint's.

    Raises:
        InputError: no file, damaged, a whole pickled module or TorchScript, or no tensors in it.
    """
    place = f"{key}={path}"
    if not path.is_file():
        raise InputError(f"{place} does not exist; give a file of weights")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise InputError(f"{place} is not a whole safetensors file ({error}); replace it") from error
    if zipfile.is_zipfile(path):
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise InputError(
                    f"{place} is TorchScript, whose layers cannot be looked into: give the state dict of the "
                    "network it was made of, and the network by model=timm, torchvision or module"
                )
    try:
        found = read_pickle(path, what="file of weights", key=key)
    except InputError as error:
        if "weights_only" not in str(error.__cause__):
            raise
        raise InputError(
            f"{place} holds Python objects, such as a whole module, that would run code when they are read: save "
            "the state dict instead (torch.save(model.state_dict(), path)), and give the network by model="
        ) from error
    state = unnested(found, NESTED)
    if not isinstance(state, Mapping):
        raise InputError(f"{place} holds a {type(state).__name__}, not a state dict")
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        keys = some([str(name) for name in state]) if state else "nothing"
        raise InputError(f"{place} holds no state dict; its keys are {keys}")
    return dict(state)


def fit_weights(network: nn.Module, state: Mapping[str, Tensor], place: str) -> nn.Module:
    """Load a state dict, whose names may have a prefix more or less than the network's; every tensor must fit.

    Args:
        network: gets the weights.
        state: the weights; what lies outside of the prefix (a metric's state, a loss) is left out.
        place: where they come from, for errors.

    Raises:
        InputError: tensors that are missing, too many, of another shape, or not finite; names them.
    """
    own = network.state_dict()
    prefix, added = _prefix(state, own)
    fitting = {
        added + name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }
    different = [
        (name, given, wanted)
        for name, given, wanted in shape_differences(fitting, own)
        if not (given is None and name.endswith("num_batches_tracked"))
    ]
    if different:
        fits = len(own) - sum(wanted is not None for _, _, wanted in different)
        shown = some(
            [
                f"{name} ({'missing' if given is None else given} instead of {wanted})"
                if wanted is not None
                else f"{name} (not one of the network's)"
                for name, given, wanted in different
            ]
        )
        what = "none of the network's tensors fit" if fits <= 0 else f"{fits} of {len(own)} tensors fit"
        raise InputError(f"{place} is of another architecture or other classes: {what}; differing are {shown}")
    if bad := not_finite(fitting):
        raise InputError(f"{place}: {bad} is not finite everywhere; the training that made it has diverged")
    missing = {name: value for name, value in own.items() if name not in fitting}  # counters of batch norms
    network.load_state_dict({**missing, **fitting})
    return network


def _prefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[str, str]:
    """Find the prefix of those of the state's names that are the network's, and the one that all of these have."""
    levels = zip(*(name.split(".")[:-1] for name in own), strict=False)
    added = "".join(f"{level[0]}." for level in takewhile(lambda level: len(set(level)) == 1, levels))
    wanted = {name.removeprefix(added) for name in own}
    parts = [name.split(".") for name in state]
    heads = (".".join(some[:depth]) + "." for some in parts for depth in (1, 2, 3) if len(some) > depth)
    prefixes = dict.fromkeys(["", *heads])

    def fitting(prefix: str) -> int:
        return sum(name.removeprefix(prefix) in wanted for name in state if name.startswith(prefix))

    return max(prefixes, key=fitting), added


def outputs_of(network: nn.Module, frame: tuple[int, int]) -> torch.Size | None:
    """Find the shape of what a network on the meta device gives for two images; None if it needs values to run."""
    try:
        with torch.no_grad():
            return logits_of(network(torch.empty(2, 3, *frame, device="meta"))).shape
    except InputError:
        raise
    except Exception:  # of many kinds
        return None
