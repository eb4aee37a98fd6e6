"""This module resolves references in a saved config but never runs OmegaConf resolvers such as ``oc.env``.

A configuration may come from anybody, and a resolver such as ``oc.env`` would read the reader's environment.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import OmegaConf

_NODE = re.compile(r"\$\{[^${}:]*\}")
_ASIDE = "\ue000{}\ue001"  # private characters, which stand in no configuration


def calls_a_resolver(text: str) -> bool:
    """Say whether a string holds ``${oc.env:KEY}`` or the like, at any depth, and not only names of other keys."""
    before = ""
    while "${" in text and text != before:
        before, text = text, _NODE.sub("", text)
    return "${" in text


def without_resolvers(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Resolve the keys that a configuration's strings name; strings that call a resolver stay as they are.

    Raises:
        OmegaConfBaseException: a key that does not exist.
    """
    kept: list[str] = []

    def aside(text: str) -> str:
        if not calls_a_resolver(text):
            return text
        kept.append(text)
        return _ASIDE.format(len(kept) - 1)

    def back(text: str) -> str:
        return re.sub(_ASIDE.format(r"(\d+)"), lambda found: kept[int(found[1])] if kept else found[0], text)

    set_aside = OmegaConf.create(with_strings(plain, aside))
    return with_strings(OmegaConf.to_container(set_aside, resolve=True), back)


def with_strings(node: Any, change: Callable[[str], str], *, keys: bool = False) -> Any:
    """Return the same plain values with every string changed, those that are ``keys`` as well if that is asked."""
    if isinstance(node, Mapping):
        return {
            change(key) if keys and isinstance(key, str) else key: with_strings(value, change, keys=keys)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [with_strings(value, change, keys=keys) for value in node]
    return change(node) if isinstance(node, str) else node
