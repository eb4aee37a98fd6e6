"""This module digests what a stored value depends on: plain values, source code, versions of libraries."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

LIBRARIES = (
    "torch", "torchvision", "segment-anything", "numpy", "scipy", "scikit-image", "scikit-learn", "pillow"
)  # fmt: skip
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
    """Digest the source code that modules run, as this process first saw it; see `Sources.digest`."""
    return _PROCESS.digest(*modules)


class Sources:
    """Sources reads the source files of modules and of what they import, each once."""

    def __init__(self) -> None:
        self._scans: dict[str, _Scan | None] = {}
        self._roots: dict[str, Path | None] = {}
        self._versions: dict[str, str | None] = {}
        self._digests: dict[tuple[str, ...], str] = {}

    def digest(self, *modules: str) -> str:
        """Digest the source code that modules run: their own, and what they import, directly or not.

        Imports are followed within gradsam_exp and within the modules' own packages, wherever they stand in a
        file; other packages count by `library_versions`. Packages from elsewhere count with their distribution's
        version as well. All text counts, comments included.

        Raises ValueError if there is no such module.
        """
        if modules not in self._digests:
            self._digests[modules] = self._digest(modules)
        return self._digests[modules]

    def _digest(self, modules: tuple[str, ...]) -> str:
        homes = {_OWN, *(module.partition(".")[0] for module in modules)}
        found = {name: scan.digest for name, scan in self._closure(modules, homes)}
        for module in modules:
            if module not in found:
                raise ValueError(f"the source of {module} cannot be found")
        foreign = {home: self._version(home) for home in sorted(homes - {_OWN})}
        return digest([sorted(found.items()), foreign])

    def reached(self, *modules: str) -> list[str]:
        """List the names of the modules whose source enters the digest."""
        homes = {_OWN, *(module.partition(".")[0] for module in modules)}
        return sorted(name for name, _ in self._closure(modules, homes))

    def _closure(self, modules: Iterable[str], homes: set[str]) -> Iterator[tuple[str, _Scan]]:
        """Yield every module that is reached, once, with the packages that hold it."""
        todo, seen = list(modules), set[str]()
        while todo:
            name = todo.pop()
            if name in seen or name.partition(".")[0] not in homes:
                continue
            seen.add(name)
            scan = self._scanned(name)
            if scan is None:
                continue
            yield name, scan
            todo += scan.imports
            parent = name.rpartition(".")[0]
            # Python runs a package's __init__ before its modules. Our own only says what can be imported from it.
            if parent and parent != _OWN:
                todo.append(parent)

    def _scanned(self, module: str) -> _Scan | None:
        """Read the file of a module; None if there is no such module."""
        if module not in self._scans:
            path = self._file_of(module)
            if path is not None:
                self._scans[module] = _Scan.of(module, path)
            elif module == "__main__" or (module in sys.modules and module.partition(".")[0] != _OWN):
                # Typed into a session, or compiled: what it does today says nothing of tomorrow.
                self._scans[module] = _Scan(uuid4().hex, frozenset())
            else:
                self._scans[module] = None
        return self._scans[module]

    def _version(self, top: str) -> str | None:
        """The version of the distribution that a package came with; None if it came with none."""
        if top not in self._versions:
            self._versions[top] = _version_of(top)
        return self._versions[top]

    def _file_of(self, module: str) -> Path | None:
        """Find a module's source; None if there is none."""
        top, *rest = module.split(".")
        if top not in self._roots:
            self._roots[top] = _root(top)
        root = self._roots[top]
        if root is None:
            return None
        if root.is_file():
            return None if rest else root
        place = root.joinpath(*rest)
        if module == _OWN:  # its names are imported when they are asked for; the stub says from where
            return place / "__init__.pyi"
        return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()), None)


_PROCESS = Sources()


@dataclass(frozen=True)
class _Scan:
    """A scan is what a source file holds: a digest of its text, and the modules that it may import."""

    digest: str
    imports: frozenset[str]

    @classmethod
    def of(cls, module: str, path: Path) -> _Scan:
        text = path.read_bytes()
        package = module if path.stem == "__init__" else module.rpartition(".")[0]
        return cls(hashlib.blake2b(text, digest_size=8).hexdigest(), frozenset(_imports(text, package)))


def _imports(text: bytes, package: str) -> Iterator[str]:
    """Yield every name that may be an imported module; what is none is sorted out by looking for its file."""
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


def _root(top: str) -> Path | None:
    """Find the folder of a top-level package, or the file of a single module."""
    if top == _OWN:
        return Path(__file__).parent
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _version_of(top: str) -> str | None:
    """Find the version of the distribution that a package came with; None if it came with none."""
    try:
        return version(top)
    except PackageNotFoundError:
        pass
    names = packages_distributions().get(top, [])
    return ", ".join(f"{name} {version(name)}" for name in sorted(set(names))) or None
