"""`logits_of` reads class scores out of whatever a classifier returns."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gradsam_exp.errors import InputError

HINT = "give a network, or a wrapper around it, whose output is logits (images, classes)"


def logits_of(output: Any) -> Float[Tensor, "batch classes"]:
    """Read the logits out of a classifier's output, in float32.

    Args:
        output: logits ``(B, K)``; or what holds them: an object or mapping with ``logits`` (transformers'
            ``ModelOutput``), or a tuple or list whose first element is logits. One logit ``z`` (``(B, 1)`` or
            ``(B,)``), whose sigmoid is the probability of class 1, becomes the two logits ``(−z/2, z/2)``, whose
            softmax is the same probability; so both classes can be explained.

    Raises:
        InputError: nothing of these, such as a map of logits ``(B, K, h, w)``.
    """
    found = output
    if isinstance(found, Mapping) and "logits" in found:
        found = found["logits"]
    elif isinstance(getattr(found, "logits", None), Tensor):
        found = found.logits
    elif isinstance(found, tuple | list) and found:
        found = found[0]
    if not isinstance(found, Tensor):
        keys = f" with {', '.join(map(str, found))}" if isinstance(found, Mapping) else ""
        raise InputError(f"the classifier gives a {type(found).__name__}{keys} and no logits: {HINT}")
    if found.ndim == 1 and len(found):
        found = found[:, None]
    if found.ndim != 2:
        raise InputError(f"the classifier gives {tuple(found.shape)} numbers, which are not logits: {HINT}")
    found = found.float()
    return torch.cat([-found / 2, found / 2], 1) if found.shape[1] == 1 else found
