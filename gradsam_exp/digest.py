"""Names for plain values, for code and for libraries that are the same on every machine."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

LIBRARIES = (
    "torch",
    "torchvision",
    "segment-anything",
    "numpy",
    "scipy",
    "scikit-image",
    "scikit-learn",
    "pillow",
)
"""What computes pixels, heatmaps, embeddings and masks."""


def digest(content: Any, *, size: int = 8) -> str:
    """``size`` bytes of BLAKE2 of the values' JSON, in hexadecimal."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


@cache
def library_versions() -> dict[str, str]:
    """The installed version of each of `LIBRARIES`."""
    return {name: version(name) for name in LIBRARIES}


@cache
def code_digest(factory: Callable[..., Any], package: str) -> str:
    """Digest of the source files that a class or function comes from.

    These are its own module and what this uses, directly or not, of ``package`` and of its own distribution.
    """
    own = factory.__module__.partition(".")[0]
    homes = {package} if own == package.partition(".")[0] else {package, own}
    names, found = [factory.__module__], set[str]()
    while names:
        name = names.pop()
        if name in found or not any(name == home or name.startswith(f"{home}.") for home in homes):
            continue
        found.add(name)
        for value in vars(sys.modules[name]).values():
            used = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(used, str) and used in sys.modules:
                names.append(used)
    state = hashlib.blake2b(digest_size=8)
    for name in sorted(found):
        path = getattr(sys.modules[name], "__file__", None)  # none in an interactive session
        state.update(name.encode() + (Path(path).read_bytes() if path else b""))
    return state.hexdigest()
