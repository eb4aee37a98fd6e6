"""This module finds plug-ins by the names that configurations use, and builds them with checks.

A package of plug-ins owns one registry. Its modules register themselves with a decorator, and are
imported when a name is first looked up; other distributions add theirs through the entry-point group of
the same name. So a new plug-in is one file and one YAML, and nothing is imported before it is needed.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gradsam_exp.digest import source_digest
from gradsam_exp.errors import InputError, did_you_mean, first_line

T = TypeVar("T")
_Factory = TypeVar("_Factory", bound=Callable[..., Any])


class Registry(Generic[T]):
    """A registry knows the plug-ins of one kind by name.

    Args:
        key: the config key that chooses among them, named in errors (``pipeline``).
        package: import path of the package whose modules register themselves; also the name of the
            entry-point group in which other distributions offer more.
        by: the key of a config node that names the plug-in.
    """

    def __init__(self, key: str, package: str, *, by: str = "name") -> None:
        self.key, self.package, self.by = key, package, by
        self._factories: dict[str, Callable[..., T]] = {}
        self._offered: dict[str, EntryPoint] = {}  # by other distributions; loaded when one is asked for
        self._complete = False

    def register(self, name: str) -> Callable[[_Factory], _Factory]:
        """Return a decorator that makes a class or function known as ``name``."""

        def add(factory: _Factory) -> _Factory:
            known = self._factories.get(name)
            if known is not None and known is not factory:
                raise ValueError(f"{self.key} {name!r} is registered twice: {known} and {factory}")
            self._factories[name] = factory
            return factory

        return add

    def names(self) -> list[str]:
        """Return all known names, sorted."""
        self._import_all()
        return sorted(self._factories.keys() | self._offered.keys())

    def get(self, name: str) -> Callable[..., T]:
        """Return the class or function registered as ``name``.

        Raises:
            InputError: if there is none (lists the known names and the nearest), or if another distribution offers
                it and cannot be imported.
        """
        if name not in self._factories:
            self._import_all()
        if name not in self._factories and name in self._offered:
            self._load(self._offered[name])
        if name not in self._factories:
            raise InputError(f"{self.key}={name!r} is not known{did_you_mean(str(name), self.names())}")
        return self._factories[name]

    def build(self, node: Mapping[str, Any], **runtime: Any) -> T:
        """Construct what a config node describes: ``name`` (see ``by``) chooses, the other keys are parameters.

        Parameters are checked against the constructor's signature and annotations before it is called.

        Args:
            node: such as ``{"name": "fgbg", "bg_threshold": 0.1}``.
            runtime: arguments that no config can hold (models, paths found).

        Raises:
            InputError: unknown name, unknown or missing parameter, wrong type or value; names the key.
        """
        parameters = dict(node)
        name = parameters.pop(self.by, None)
        if name is None:
            raise InputError(f"{self.key}.{self.by} is missing. Known: {', '.join(self.names())}")
        return build_checked(self.key, self.get(str(name)), parameters, **runtime)

    def modules(self, node: Any) -> list[str]:
        """List the modules of the plug-ins that a config node names, in it and in the nodes inside it."""
        known = set(_names_in(node)).intersection(self.names())
        return sorted({self.get(name).__module__ for name in known})

    def code(self, node: Any) -> str:
        """Digest the source code behind a config node: what an edited plug-in computed before counts no more."""
        return source_digest(*self.modules(node))

    def _import_all(self) -> None:
        if self._complete:
            return
        package = import_module(self.package)
        for module in iter_modules(package.__path__):
            import_module(f"{self.package}.{module.name}")
        self._offered = {entry.name: entry for entry in entry_points(group=self.package)}
        self._complete = True

    def _load(self, entry: EntryPoint) -> None:
        """Import what another distribution offers; only now, so that one that is broken is in nobody's way."""
        try:
            factory = entry.load()
        except Exception as error:
            raise InputError(
                f"{self.key}={entry.name} comes from {entry.value}, which cannot be imported "
                f"({type(error).__name__}: {first_line(error)}): update or uninstall its package"
            ) from error
        self._factories.setdefault(entry.name, factory)


def _names_in(node: Any) -> Iterator[str]:
    """Yield every ``name`` in a config node and in those inside it."""
    if isinstance(node, Mapping):
        if "name" in node:
            yield str(node["name"])
        for value in node.values():
            yield from _names_in(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _names_in(value)


def build_checked(key: str, factory: Callable[..., T], node: Mapping[str, Any], **runtime: Any) -> T:
    """Call ``factory`` with the parameters of a config node, checked against its signature and annotations.

    Args:
        key: the node's place in the configuration, named in errors.
        factory: a class or function.
        node: its parameters; ``name`` is none of them, unless the factory has one of that name.
        runtime: further arguments, which no config can hold.

    Raises:
        InputError: an unknown or missing parameter, a wrong type or value; names the key.
    """
    parameters = inspect.signature(factory).parameters
    given = {str(k): value for k, value in node.items() if k != "name" or k in parameters}
    open_names = {n for n, p in parameters.items() if p.kind is not p.VAR_KEYWORD} - set(runtime)
    for name in given:
        if name not in open_names:
            raise InputError(f"{key}.{name} is not a parameter{did_you_mean(name, open_names)}")
    for name in open_names - set(given):
        if parameters[name].default is inspect.Parameter.empty:
            raise InputError(f"{key}.{name} is missing")
    hints = annotations_of(factory)
    checked = {n: check_value(f"{key}.{n}", hints[n], v) if n in hints else v for n, v in given.items()}
    try:
        return factory(**checked, **runtime)
    except ValidationError as error:
        raise InputError(f"{key}: {first_problem(error)}") from error
    except ValueError as error:
        raise InputError(f"{key}: {error}") from error


def annotations_of(factory: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a plug-in's parameters, by name."""
    annotated = factory.__init__ if inspect.isclass(factory) and not is_dataclass(factory) else factory
    return typing.get_type_hints(annotated, include_extras=True)


def check_value(key: str, annotation: Any, value: Any) -> Any:
    """Convert ``value`` to ``annotation`` (bounds in ``Annotated`` included); NaN and infinity are no numbers.

    Raises:
        InputError: naming ``key`` if it does not fit.
    """
    try:
        return validator_of(annotation)(value)
    except ValidationError as error:
        raise InputError(f"{key}={value!r}: {first_problem(error)}") from error


@cache
def validator_of(annotation: Any) -> Callable[[Any], Any]:
    """Return the function that converts a value to ``annotation``, or raises pydantic's `ValidationError`.

    Made once, as that takes longer than most checks.
    """
    config = None if is_dataclass(annotation) else ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
    return TypeAdapter(annotation, config=config).validate_python


def first_problem(error: ValidationError) -> str:
    """Return the first of pydantic's complaints, in one line."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    text = problem["msg"].removeprefix("Value error, ")
    text = text[:1].lower() + text[1:]
    return f"{place}={problem['input']!r}: {text}" if place and problem["type"] != "missing" else text
