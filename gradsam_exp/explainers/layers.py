"""Target layers by name: ``layer2.-1`` is the last block of ``layer2``."""

from __future__ import annotations

from torch import nn

from gradsam_exp.errors import InputError, did_you_mean


def find_layer(model: nn.Module, path: str, *, key: str = "explainer.target_layers") -> nn.Module:
    """The submodule at a dotted path; numbers index into sequences, negative ones from the end.

    A model that keeps its network in ``backbone`` (as `ImageClassifier` does) is searched below that.

    Raises:
        InputError: if there is none; lists what exists at the place where the path went wrong.
    """
    module = getattr(model, "backbone", model)
    walked: list[str] = []
    for part in path.split("."):
        children = dict(module.named_children())
        name = part
        if part.lstrip("-").isdigit() and -len(children) <= int(part) < len(children):
            name = list(children)[int(part)]
        if name not in children:
            place = f"below {'.'.join(walked)!r}" if walked else f"in {type(module).__name__}"
            raise InputError(f"{key}={path!r}: there is no layer {part!r} {place}{did_you_mean(part, children)}")
        module = children[name]
        walked.append(part)
    return module
