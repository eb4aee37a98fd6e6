"""Names for plain values, for source code, and for libraries: what a stored value depends on."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

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
"""The distributions that compute pixels, heatmaps, embeddings and masks."""

_OWN = __name__.partition(".")[0]
_LINE = rb"(?:[^\n#\\]|\\\n)*"
_IMPORT = re.compile(
    rb"^[ \t]*(?:from[ \t]+(\.*[\w.]*)[ \t]+import[ \t]*(\([^)]*\)|%b)|import[ \t]+(%b))" % (_LINE, _LINE),
    re.MULTILINE,
)
_NAME = re.compile(rb"[\w.]+")
_NO_NAMES = {b"as", b"import"}


def digest(content: Any, *, size: int = 8) -> str:
    """Digest plain values: ``size`` bytes of BLAKE2 of their JSON, in hexadecimal."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


@cache
def library_versions() -> dict[str, str]:
    """Find the installed version of each of `LIBRARIES`."""
    return {name: version(name) for name in LIBRARIES}


def source_digest(*modules: str) -> str:
    """Digest the source code that modules run: their own, and what they import, directly or not.

    Imports are followed within gradsam_exp and within the modules' own packages, wherever they stand in a file;
    other packages count by `library_versions`. Packages from elsewhere count with their distribution's version as
    well. A file counts as it was when this process first asked for it. All text counts, comments included.

    Args:
        modules: import paths, such as ``gradsam_exp.prompts.background``.

    Raises:
        ValueError: if there is no such module.
    """
    for module in modules:
        if _scanned(module) is None:
            raise ValueError(f"the source of {module} cannot be found")
    homes = {_OWN, *(module.partition(".")[0] for module in modules)}
    found = {name: scan.digest for name, scan in _closure(modules, homes)}
    foreign = {home: _version_of(home) for home in sorted(homes - {_OWN})}
    return digest([sorted(found.items()), foreign])


class _Scan:
    """What a source file holds: a digest of its text, and the modules that it names in import statements."""

    def __init__(self, module: str, path: Path) -> None:
        text = path.read_bytes()
        self.digest = hashlib.blake2b(text, digest_size=8).hexdigest()
        package = module if path.stem == "__init__" else module.rpartition(".")[0]
        self.imports = set(_imports(text, package))


def _imports(text: bytes, package: str) -> Iterator[str]:
    """Every name that may be an imported module; what is none is sorted out by looking for its file."""
    for source, names, plain in _IMPORT.findall(text):
        if plain:
            yield from (name.decode() for name in _NAME.findall(plain) if name not in _NO_NAMES)
            continue
        origin = source.decode()
        up = len(origin) - len(origin.lstrip("."))
        if up:
            parents = package.split(".")[: len(package.split(".")) - up + 1]
            origin = ".".join([*parents, *filter(None, [origin.lstrip(".")])])
        yield origin
        yield from (f"{origin}.{name.decode()}" for name in _NAME.findall(names) if name not in _NO_NAMES)


def _closure(modules: Iterable[str], homes: set[str]) -> Iterator[tuple[str, _Scan]]:
    """Every module that is reached, once, with the packages that hold it."""
    todo, seen = list(modules), set[str]()
    while todo:
        name = todo.pop()
        if name in seen or name.partition(".")[0] not in homes:
            continue
        seen.add(name)
        scan = _scanned(name)
        if scan is None:
            continue
        yield name, scan
        todo += scan.imports
        parent = name.rpartition(".")[0]
        # Python runs a package's __init__ before its modules. Our own only says what can be imported from it.
        if parent and parent != _OWN:
            todo.append(parent)


@cache
def _scanned(module: str) -> _Scan | None:
    """The file of a module, read once a process; None if there is no such module."""
    path = _file_of(module)
    if path is not None:
        return _Scan(module, path)
    if module == "__main__" or (module in sys.modules and module.partition(".")[0] != _OWN):
        return _Unknown()  # typed into a session, or compiled: what it does today says nothing of tomorrow
    return None


class _Unknown(_Scan):
    """Code without a source file: nothing that depends on it is ever taken for known in another process."""

    def __init__(self) -> None:
        self.digest, self.imports = uuid4().hex, set()


def _file_of(module: str) -> Path | None:
    top, *rest = module.split(".")
    root = _root(top)
    if root is None:
        return None
    if root.is_file():
        return None if rest else root
    place = root.joinpath(*rest)
    if module == _OWN:  # its names are imported when they are asked for; the stub says from where
        return place / "__init__.pyi"
    return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()), None)


@cache
def _root(top: str) -> Path | None:
    """The folder of a top-level package, or the file of a single module."""
    if top == _OWN:
        return Path(__file__).parent
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


@cache
def _version_of(top: str) -> str | None:
    """The version of the distribution that a package came with; None if it came with none."""
    try:
        return version(top)
    except PackageNotFoundError:
        pass
    names = packages_distributions().get(top, [])
    return ", ".join(f"{name} {version(name)}" for name in sorted(set(names))) or None
